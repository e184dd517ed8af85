"""Options of `apollo restore`: what they change in the result, and which values are usage errors."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import apollo
from apollo.__main__ import main
from tests.support.datasets import music, write


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1, causal=True))
    return apollo.save(generator, tmp_path_factory.mktemp("checkpoints") / "causal")


def restore(song: Path, checkpoint: Path, *options: str) -> int:
    output = ("-o", str(song.parent / "out"), "--checkpoint", str(checkpoint), "--precision", "float32")
    return main(["restore", str(song), *output, *options])


def test_compare_writes_a_page_beside_each_result(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    album = tmp_path / "album"
    album.mkdir()
    samples = music(1, 12.0)
    write(album / "one & <b>two.wav", samples, subtype="FLOAT")
    write(album / "short.wav", music(2, 0.1))
    assert restore(album, checkpoint, "--compare", "--force") == 0
    assert "warning" not in capsys.readouterr().err
    names = ["one & <b>two.compare.html", "one & <b>two.wav", "short.compare.html", "short.wav"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    page = (tmp_path / "out" / names[0]).read_text()
    assert "<h1>one &amp; &lt;b&gt;two.wav</h1>" in page
    assert "0:12, stereo, 44.1 kHz" in page
    audio = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[-1])
    heard, _ = soundfile.read(io.BytesIO(base64.b64decode(audio[0])))
    gain = (heard * samples[: len(heard)]).sum() / (samples[: len(heard)] ** 2).sum()
    np.testing.assert_allclose(heard, gain * samples[: len(heard)], atol=1e-4)
    restored, _ = soundfile.read(tmp_path / "out" / names[1])
    heard, _ = soundfile.read(io.BytesIO(base64.b64decode(audio[1])))
    gain = (heard * restored[: len(heard)]).sum() / (restored[: len(heard)] ** 2).sum()
    np.testing.assert_allclose(heard, gain * restored[: len(heard)], atol=1e-4)
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]
    assert restore(album, checkpoint, "--compare", "--force") == 0  # both are skipped
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())] == again


def test_a_page_that_cannot_be_written_is_a_warning(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("a", "b"):
        write(album / f"{name}.wav", music(1, 0.1))
    (tmp_path / "out/a.compare.html").mkdir(parents=True)
    assert restore(album, checkpoint, "--compare") == 0
    said = capsys.readouterr().err
    assert "2 restored" in said and "comparison page cannot be written: Is a directory" in said
    assert (tmp_path / "out/b.compare.html").is_file()
    assert sorted(path.name for path in (tmp_path / "out").glob(".*")) == []


@pytest.mark.parametrize("hertz", ["0", "-1", "nan", "inf", "22050", "48000"])
def test_keep_below_outside_the_band_is_a_usage_error(
    hertz: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    assert restore(song, checkpoint, "--keep-below", hertz) == 2
    said = capsys.readouterr().err
    assert "keep" in said and "more than 0" in said and "half the" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_keep_below_restores_only_above(rate: int, checkpoint: Path, tmp_path: Path) -> None:
    samples = music(1, 0.5)[:: 44_100 // rate]
    song = write(tmp_path / "song.wav", samples, rate, subtype="FLOAT")
    assert restore(song, checkpoint, "--keep-below", "6000", "--clip", "none") == 0
    found, found_rate = soundfile.read(tmp_path / "out/song.wav", dtype="float32")
    assert found_rate == 44_100  # the frequency is one of the network's rate, whatever the input's
    if rate == found_rate:
        degraded = torch.from_numpy(samples.T.astype(np.float32))
        expected = apollo.restore(apollo.load(checkpoint), degraded, keep_below_hz=6_000)
        np.testing.assert_allclose(found.T, expected, atol=1e-5)
    else:
        spectrum, original = (np.abs(np.fft.rfft(one[:, 0])) for one in (found, samples))
        band = slice(50, 2_500)  # of 2 Hz: up to 5 kHz
        np.testing.assert_allclose(spectrum[band] / 2, original[band], atol=0.01 * original.max())


def test_a_name_that_is_too_long_costs_its_song_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    write(album / f"{'y' * 249}.wav", music(1, 0.1))
    write(album / "z.wav", music(2, 0.1))
    assert restore(album, checkpoint, "--force", "--filename", "{name}-restored") == 3
    said = capsys.readouterr().err
    assert "cannot be written: File name too long" in said and "1 restored, 1 failed" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["z.wav-restored.wav"]


def test_empty_names_are_usage_errors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["restore", ""], ["inspect", ""], ["restore", str(tmp_path), "-o", ""]):
        assert main(arguments) == 2
        assert "is empty" in capsys.readouterr().err


def test_results_go_on_without_standard_error_and_end_without_room_for_standard_output(
    checkpoint: Path, tmp_path: Path
) -> None:
    song = write(tmp_path / "söng.wav", music(1, 0.1))
    command = f"'{sys.executable}' -m apollo"
    options = f"'{song}' -o '{tmp_path}/out' --checkpoint '{checkpoint}' --force --json"
    for line, code, lines in (
        (f"{command} restore {options} 2>&-", 0, 1),
        (f"{command} restore {options} --overwrite 2>&1 >/dev/full", 1, None),
        (f"{command} inspect '{song}' 2>&1 >/dev/full", 1, None),
        (f"PYTHONIOENCODING=ascii {command} inspect '{song}'", 0, None),
    ):
        ended = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
        assert ended.returncode == code, (line, ended.stdout, ended.stderr)
        assert "Traceback" not in ended.stdout + ended.stderr
        if lines:
            assert [json.loads(text)["status"] for text in ended.stdout.splitlines()] == ["restored"]
        elif code:
            assert "standard output cannot be written: No space left on device" in ended.stdout
