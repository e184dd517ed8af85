"""`apollo inspect`: output and exit codes; `apollo restore` leaves alone what is certainly lossless."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import apollo
from apollo.__main__ import main
from tests.support.datasets import encode, music, write


def test_folders_and_files_become_one_list_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    song = write(tmp_path / "album/one.wav", music(1, 1.0))
    encode(song, tmp_path / "album/disc 2/two.mp3", "-b:a", "64k")
    (tmp_path / "album/cover.jpg").write_bytes(b"picture")
    assert main(["inspect", str(tmp_path / "album"), "--json"]) == 0
    output = capsys.readouterr()
    results = json.loads(output.out)
    assert [Path(result["input"]).name for result in results] == ["one.wav", "two.mp3"]
    assert [result["verdict"] for result in results] == ["lossless", "lossy"]
    assert results[1]["bitrate_bps"] == 64_000
    monkeypatch.chdir(tmp_path / "album")
    assert main(["inspect", "."]) == 0
    printed = capsys.readouterr().out
    assert "mp3 in MP3, 64 kbps constant, 44100 Hz, 2 channels, 1.0 s" in printed
    assert "lossy (confidence 1.00):" in printed
    assert "analysed: 0-1 s" in printed


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(write(tmp_path / "good.wav", music(1, 0.3)))
    bad, empty = tmp_path / "bad.mp3", tmp_path / "empty"
    bad.write_text("no music")
    empty.mkdir()
    assert main(["inspect", good, str(bad), "--json"]) == 3
    problems = [result["problem"] for result in json.loads(capsys.readouterr().out)]
    assert problems == [None, "no audio that libsndfile or ffmpeg can read"]
    assert main(["inspect", str(bad)]) == 1
    assert "UNREADABLE: no audio" in capsys.readouterr().out
    assert main(["inspect", str(empty)]) == 1
    assert "no audio files in this folder" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(SystemExit) as refused:
        main(["inspect"])
    assert refused.value.code == 2


def test_a_file_that_cannot_be_opened_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "song.wav").symlink_to(tmp_path / "gone.wav")
    assert main(["inspect", str(tmp_path / "song.wav"), "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["verdict"], result["kind"]) == (None, "unopened")
    assert "cannot be opened" in result["problem"]


def test_restore_leaves_lossless_files_alone_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    apollo.save(apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1)), tmp_path / "model")
    song = write(tmp_path / "song.wav", music(1, 4.5))
    coded = encode(song, tmp_path / "coded.mp3", "-b:a", "64k")
    decoded = encode(coded, tmp_path / "decoded.flac")
    options = ("-o", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "model"), "--json")
    assert main(["restore", str(song), str(decoded), *options]) == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line["status"] for line in lines] == ["skipped", "restored"]
    assert lines[0]["reason"] == "lossless with the full band (confidence 0.95)"
    assert f"{str(song)!r}: lossless with the full band (confidence 0.95); --force restores it" in output.err
    assert not (tmp_path / "out/song.wav").exists()
    assert main(["restore", str(song), *options, "--force"]) == 0
    assert (tmp_path / "out/song.wav").exists()


def test_only_damaged_restores_lossy_files_and_transcodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    apollo.save(apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1)), tmp_path / "model")
    album = tmp_path / "album"
    song = write(album / "1 lossless.wav", music(1, 4.5))
    coded = encode(song, album / "2 lossy.mp3", "-b:a", "64k")
    encode(coded, album / "3 transcode.flac")
    write(album / "4 silent.wav", np.zeros((44_100, 2)))
    options = ["-o", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "model"), "--json"]
    assert main(["restore", str(album), *options, "--only-damaged", "--jobs", "2"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {Path(result["input"]).stem[2:]: (result["status"], result["reason"]) for result in results}
    assert found == {
        "lossless": ("skipped", "no sign of a lossy codec (lossless, confidence 0.95)"),
        "lossy": ("restored", None),
        "transcode": ("restored", None),
        "silent": ("skipped", "no sign of a lossy codec (unknown, confidence 0.00)"),
    }
    assert main(["restore", str(album), *options, "--only-damaged", "--force"]) == 2
    assert "give one of them" in capsys.readouterr().err
