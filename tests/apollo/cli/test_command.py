"""The `apollo` command: output, exit codes, pipes, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
import torch

import apollo
from apollo.__main__ import main
from apollo.inference.restoration import restore
from tests.support.datasets import encode, music, write

RATE = 44_100
QUICK_SECONDS = 1.0


def run(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "apollo", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **(env or {})})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save small causal and non-causal generators of random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, causal in (("causal", True), ("plain", False)):
        generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1, causal=causal))
        apollo.save(generator, folder / name, metadata={"trained on": "nothing"})
    return folder


def test_help_is_fast_and_imports_no_torch() -> None:
    blocked = "import sys; sys.modules['torch'] = None; from apollo.__main__ import main; main(['--help'])"
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("restore", "stream", "info", "doctor"))
    assert time.monotonic() - began < 20


def test_restore_reports_results_exits_0_and_then_skips(checkpoints: Path, tmp_path: Path) -> None:
    write(tmp_path / "album/one.wav", music(1, 1.0))
    encode(tmp_path / "album/one.wav", tmp_path / "album/two.mp3", "-b:a", "64k")
    arguments = ("restore", tmp_path / "album", "-o", tmp_path / "out", "--checkpoint", checkpoints / "plain")
    result = run(*arguments, "--json", "--precision", "float32", "--picture")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["status"], line["samples"]) for line in lines] == [("restored", RATE)] * 2
    assert b"2 restored" in result.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["one.spectrogram.png", "one.wav", "two.spectrogram.png", "two.wav"]
    samples, _ = soundfile.read(tmp_path / "album/one.wav", dtype="float32")
    expected = restore(apollo.load(checkpoints / "plain"), torch.from_numpy(samples.T)).T.numpy()
    found, _ = soundfile.read(tmp_path / "out/one.wav", dtype="float32")
    np.testing.assert_allclose(found, expected * lines[0]["gain"], atol=1e-5)
    again = run(*arguments)
    assert (again.returncode, again.stdout) == (0, b"")
    assert b"2 skipped" in again.stderr


def test_exit_codes(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path / "good.wav", music(1, 0.5)), tmp_path / "bad.mp3"
    bad.write_text("no music")

    def code(*arguments: str | Path, checkpoint: str | Path = checkpoints / "plain") -> int:
        output = ("-o", str(tmp_path / "out"), "--overwrite", "--checkpoint", str(checkpoint))
        return main(["restore", *map(str, arguments), *output])

    assert code(good) == 0
    assert code(good, bad) == 3
    assert code(bad) == 1
    assert "no audio" in capsys.readouterr().err
    assert code(tmp_path / "nowhere") == 2
    assert code(good, checkpoint=tmp_path / "none") == 2
    assert code(good, "--batch", "0") == 2
    assert code(good, "--filename", "{x}") == 2
    assert code(good, checkpoint=bad) == 2
    assert "cannot be loaded as a checkpoint" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert code(good, "--device", "cuda") == 2
    with pytest.raises(SystemExit) as refused:
        code(good, "--frmat", "wav16")
    assert refused.value.code == 2


def test_without_a_network_the_released_name_gives_a_clear_error(tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    result = run("restore", song, "-o", tmp_path / "out", "--checkpoint", "JusperLee/Apollo", env=env)
    assert result.returncode == 2
    assert b"JusperLee/Apollo" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["codec", "replication"])
def test_models_without_parameters_restore_files(name: str, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 1.0))
    output = ("-o", str(tmp_path / "out"), "--checkpoint", name, "--precision", "float32")
    assert main(["restore", str(song), *output]) == 0
    samples, _ = soundfile.read(song, dtype="float32")
    found, _ = soundfile.read(tmp_path / "out/song.wav", dtype="float32")
    expected = restore(apollo.load(name), torch.from_numpy(samples.T)).T.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_checkpoint_the_installed_model_restores(tmp_path: Path) -> None:
    samples = music(2, 1.0)
    song = write(tmp_path / "song.wav", samples)
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    results = {}
    choices = {"default": (), "again": (), "other": ("--seed", "1"), "none": ("--strength", "0")}
    for name, options in choices.items():
        arguments = ("-o", tmp_path / name, "--precision", "float32", "--format", "wav24", *options)
        result = run("restore", song, *arguments, env=env)
        assert result.returncode == 0, result.stderr
        results[name] = (tmp_path / name / "song.wav").read_bytes()
    assert results["default"] == results["again"]
    assert len(set(results.values())) == 3
    read, _ = soundfile.read(song, dtype="float32")
    expected = restore(apollo.load(), torch.from_numpy(read.T.copy()), strength=0.0)
    found, _ = soundfile.read(tmp_path / "none/song.wav", dtype="float32")
    np.testing.assert_allclose(found.T, expected, atol=1e-6)
    assert run("restore", song, "-o", tmp_path / "no", "--strength", "-1").returncode == 2


@pytest.mark.parametrize("name", ["causal", "plain"])
@pytest.mark.parametrize("pcm", ["f32le", "s16le"])
def test_a_stream_equals_the_restored_file(checkpoints: Path, name: str, pcm: str) -> None:
    generator = apollo.load(checkpoints / name)
    samples = torch.from_numpy(music(2, 1.37).astype(np.float32))
    kind = np.float32 if pcm == "f32le" else np.int16
    scale = 1.0 if pcm == "f32le" else 32_768.0
    sent = (samples.numpy() * scale).round(0 if kind is np.int16 else 9).astype(kind)
    arguments = ("stream", "--checkpoint", checkpoints / name, "--pcm", pcm, "--precision", "float32")
    result = run(*arguments, stdin=sent.tobytes() + b"x")
    assert result.returncode == 0, result.stderr
    assert b"real-time factor" in result.stderr
    assert (b"latency 20 ms" in result.stderr) == (name == "causal")
    assert b"1 trailing bytes" in result.stderr
    found = np.frombuffer(result.stdout, kind).reshape(-1, 2).astype(np.float64) / scale
    expected = restore(generator, torch.from_numpy(sent.astype(np.float32).T.copy() / scale)).T.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 if pcm == "f32le" else 0.6 / scale)


def test_an_empty_stream_stays_empty_and_nonfinite_samples_fail(checkpoints: Path) -> None:
    arguments = ("stream", "--checkpoint", checkpoints / "causal", "--channels", "1")
    assert run(*arguments).stdout == b""
    result = run(*arguments, stdin=np.array([0, np.nan], np.float32).tobytes())
    assert result.returncode == 1
    assert b"non-finite" in result.stderr


def test_a_stream_is_written_before_its_input_ends(checkpoints: Path) -> None:
    command = [sys.executable, "-m", "apollo", "stream", "--checkpoint", str(checkpoints / "causal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(np.zeros((4_410, 2), np.float32).tobytes())
        process.stdin.flush()
        first = process.stdout.read(3_528 * 8)  # 0.1 s less the latency of 882 samples
        assert len(first) == 3_528 * 8
        process.stdin.close()
        assert len(process.stdout.read()) == 882 * 8


def test_info_describes_a_checkpoint(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoints / "causal"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["causal"] is True
    assert facts["trained on"] == "nothing"
    assert facts["stream latency (s)"] == 0.02
    generator = apollo.load(checkpoints / "causal")
    assert facts["parameters"] == sum(parameter.numel() for parameter in generator.parameters())
    assert main(["info", str(checkpoints / "plain")]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["info", str(checkpoints / "none")]) == 2


def test_doctor_checks_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("apollo.cli.doctor.measure_real_time_factor", lambda device, precision: QUICK_SECONDS)
    assert main(["doctor", "--device", "cpu"]) == 0
    result = capsys.readouterr().out
    assert all(name in result for name in ("torch", "ffmpeg", "soundfile", "device", "precision", "1.0 x"))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    assert main(["doctor", "--device", "cpu"]) == 1
    assert "BAD ffmpeg" in capsys.readouterr().out


def _ended(process: "subprocess.Popen[bytes]", ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_leaves_no_partial_file(
    checkpoints: Path, tmp_path: Path, number: signal.Signals
) -> None:
    song = write(tmp_path / "song.wav", music(1, 600.0))
    command = [sys.executable, "-m", "apollo", "restore", str(song), "-o", str(tmp_path / "out")]
    command += ["--checkpoint", str(checkpoints / "plain"), "--force"]
    # whoever runs the tests in the background of a shell has Ctrl-C switched off, for all that they start
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    ) as process:
        _ended(process, lambda: any((tmp_path / "out").glob(".apollo-*")))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_package_is_named(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    arguments = [
        "restore",
        str(song),
        "-o",
        str(tmp_path / "out"),
        "--checkpoint",
        str(checkpoints / "plain"),
    ]
    assert main(arguments) == 1
    assert "pip install soundfile" in capsys.readouterr().err


def test_restore_writes_other_formats_with_tags_and_the_name_of_the_model(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0, 48_000), 48_000)
    song = encode(wav, tmp_path / "song.mp3", "-b:a", "64k", "-metadata", "title=Title")
    checkpoint = checkpoints / "plain"

    def restored(*options: str) -> Path:
        output = ("-o", str(tmp_path / "out"), "--overwrite", "--json", "--checkpoint", str(checkpoint))
        assert main(["restore", str(song), *output, *options]) == 0
        return Path(json.loads(capsys.readouterr().out)["output"])

    for options, extension in (
        (("--format", "flac", "--bit_depth", "16", "--rate", "same"), "flac"),
        (("--format", "opus"), "opus"),
    ):
        path = restored(*options)
        assert path.suffix == f".{extension}"
        assert soundfile.info(path).samplerate == 48_000
        tags = mutagen.File(path)
        assert tags["title"] == ["Title"]
        assert f"model {checkpoint.parent.name}/plain," in tags["restoration"][0]
        assert "from mp3, 64 kbps, 48000 Hz" in tags["restoration"][0]
    assert main(["restore", str(song), "--format", "mp3", "--bit-depth", "16"]) == 2
    assert "bit_depth is for wav, flac, alac, not for mp3" in capsys.readouterr().err
