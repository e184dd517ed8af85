"""benchmarks/gpu.py and benchmarks/pack_songs.py: packing, aligned MP3 pairs, a dry-run on the CPU."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apollo.audio import mp3
from apollo.checkpoints import checkpoint
from apollo.training.augmentation import LevelsConfig
from benchmarks import gpu, gpu_parts, pack_songs
from benchmarks.live_mp3 import GAIN, MP3_KBPS, SAMPLE_RATE, LiveSource, Mp3Pieces, decode_songs, round_trip
from pipelines.audio.codec_gain import gain_spectrum, measure_gain
from tests.support import datasets, gpu_part

ROOT = Path(__file__).parents[2]
CONFIG = """
generator: {dim: 16, layers: 1, trunk: frame_convolution, output: mask_and_noise, noise_limit: 0.15}
gan:
  batch_size: 2
  micro_batch: 2
  generator_optimizer: muon
  weights: {g/stft: 0, g/adversarial: 0, g/feature: 0, g/envelope: 1, g/error: 1}
loader: {piece_seconds: 0.5, levels: {channels: mono}}
"""


def music(seed: int, seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return stereo tones whose partials decay, below 14 kHz, with a little noise up to 22 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sides = 0.01 * rng.standard_normal((len(time), 2))
    for tone in rng.uniform(100, 800, 6):
        beats = np.exp(-4 * ((time * rng.uniform(1, 3)) % 1))
        for partial in range(1, 18):
            wave = beats * np.sin(2 * np.pi * partial * tone * time + rng.uniform(0, 6))
            sides += 0.05 / partial * wave[:, None] * rng.uniform(0.5, 1, 2)
    return sides.astype(np.float32)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song, a song of two stems, one that is too short, and one without highs."""
    folder = tmp_path_factory.mktemp("songs")
    for name, samples in {
        "one": music(1, 8),
        "stems/drums": music(2, 7),
        "stems/bass": music(3, 7),
        "short": music(4, 2),
        "dull": 0.1 * np.sin(np.arange(8 * SAMPLE_RATE) / 10)[:, None].repeat(2, 1),
    }.items():
        datasets.write(folder / f"{name}.wav", samples)
    (folder / "config.yaml").write_text(CONFIG)
    output = folder / "packed"
    arguments = ["--songs", str(folder), "--output", str(output), "--config", str(folder / "config.yaml")]
    assert pack_songs.main(arguments) == 0
    return output


def options(packed: Path, output: Path, scratch: Path, **others: Any) -> argparse.Namespace:
    arguments = ["--songs", str(packed), "--golden", str(output), "--output", str(output), "--device", "cpu"]
    parsed = gpu._parser().parse_args([*arguments, "--preset", "demo", "--workers", "0"])
    parsed.scratch = scratch
    for name, value in others.items():
        setattr(parsed, name, value)
    return parsed


def lag(estimate: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> int:
    size = 2 * len(reference)
    found = np.fft.irfft(np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size)))
    place = int(np.argmax(found))
    return place if place < size // 2 else place - size


def test_songs_are_packed_with_the_band_that_is_known(packed: Path, tmp_path: Path) -> None:
    songs = json.loads((packed / "songs.json").read_text())
    assert {song["song"].rpartition("/")[2] for song in songs} == {"one", "stems"}
    assert all(song["bandwidth_hz"] == 20_000 for song in songs)
    assert {song["seconds"] for song in songs} == {8.0, 7.0}
    assert json.loads((packed / "training.json").read_text())["generator"]["dim"] == 16
    training, validation = decode_songs(packed, tmp_path)
    assert len(training) == len(validation) == 1
    for song in (*training, *validation):
        stems = [music(1, 8)] if song.name.endswith("one") else [music(2, 7), music(3, 7)]
        clean = np.sum(stems, axis=0)
        decoded = np.load(song.path).astype(np.float32) / 32_768
        assert len(decoded) == len(clean)
        assert lag(decoded[:, 0], clean[:, 0]) == 0
        level = np.abs(clean).max() / 0.9
        assert np.std(decoded) == pytest.approx(np.std(clean) / max(level, 1), rel=0.02)


def test_packing_stops_at_the_size(packed: Path, tmp_path: Path) -> None:
    arguments = ["--songs", str(packed.parent), "--output", str(tmp_path / "none"), "--megabytes", "0.01"]
    assert pack_songs.main(arguments) == 1
    assert json.loads((tmp_path / "none" / "songs.json").read_text()) == []


@pytest.mark.parametrize("kbps", MP3_KBPS)
@pytest.mark.parametrize("frames", [66_150, 4_000])
def test_mp3_pairs_are_aligned(kbps: int, frames: int) -> None:
    clean = music(5, 2)[:frames]
    decoded = round_trip(clean, kbps)
    assert decoded.shape == clean.shape
    assert lag(decoded[:, 0], clean[:, 0]) == 0


@pytest.mark.parametrize("kbps", MP3_KBPS)
def test_bitrate_and_gain_are_the_expected_ones(kbps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[mp3.Mp3Info] = []

    def parse(stream: bytes, parse: Callable[[bytes], mp3.Mp3Info] = mp3.parse) -> mp3.Mp3Info:
        found.append(parse(stream))
        return found[-1]

    monkeypatch.setattr(mp3, "parse", parse)
    clean = music(5, 2)
    decoded = round_trip(clean, kbps)
    assert measure_gain(gain_spectrum(clean), gain_spectrum(decoded)) == pytest.approx(GAIN, abs=0.03)
    assert [(info.bitrate_bps, info.sample_rate) for info in found] == [(1000 * kbps, SAMPLE_RATE)]


def test_examples_are_the_same_from_workers(packed: Path, tmp_path: Path) -> None:
    songs, _ = decode_songs(packed, tmp_path)
    pieces = Mp3Pieces(songs, seconds=0.5, levels=LevelsConfig(channels="mono"))
    here, there = (LiveSource(pieces, workers=workers) for workers in (0, 1))
    for epoch in range(2):  # the loader is used again
        expected, found = (list(source.read(epoch, [0, 2, 5])) for source in (here, there))
        assert [one.name for one in found] == [one.name for one in expected]
        assert all(torch.equal(one.degraded, other.degraded) for one, other in zip(found, expected))
    assert expected[0].clean.shape == expected[0].degraded.shape == (1, 22_050)
    assert len({float(one.clean.sum()) for one in expected}) == 3


def test_dry_run(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training of a few steps leaves scores, metrics and weights that load."""
    monkeypatch.setattr(gpu_parts, "_TRIAL_STEPS", 2)
    monkeypatch.setattr(gpu_parts, "_EPOCHS", 2)
    found: dict[str, Any] = {}
    run = options(packed, tmp_path, tmp_path, max_steps=4, validation_examples=2)
    gpu_parts.train(run, found.update)
    assert found["ended"] == "done"
    assert found["steps"] == found["planned_steps"] == 4
    assert list(found["scores"]) == [2, 4]
    assert found["step_seconds"] > 0
    assert checkpoint.load(tmp_path / "train").config.dim == 16
    assert checkpoint.load(tmp_path / found["best"]).config.dim == 16
    lines = [json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == found["last"]
    assert "g/envelope" in lines[0]


def test_speeds_have_a_row_for_every_setting(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_parts, "_ROUNDS", 1)
    found: dict[str, Any] = {}
    run = options(packed, tmp_path, tmp_path, seconds=0.1, forward_batches=[1], step_batches=[1])
    for part in (gpu_parts.forward, gpu_parts.step):
        part(run, found.update)
        assert [(row["precision"], row["batch"]) for row in found["rows"]] == [
            ("float32", 1),
            ("bfloat16", 1),
        ]
        assert all(row["share_of_square_product"] > 0 for row in found["rows"])


def test_a_setting_that_fails_has_its_error() -> None:
    def measure(precision: str, batch: int) -> dict[str, float | None]:
        if batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"peak_gb": 1.0}

    found: dict[str, Any] = {}
    gpu_parts._measure_all([1, 2], measure, found.update)
    assert found["rows"][1] == {"precision": "bfloat16", "batch": 1, "peak_gb": 1.0}
    assert found["rows"][2]["error"] == "OutOfMemoryError: CUDA out of memory"


def test_published_vectors_are_compared(golden: Path, packed: Path, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    gpu_parts.golden(options(packed, tmp_path, tmp_path, golden=golden), found.update)
    assert found["agrees"]
    assert len(found["largest_differences"]) == 3


def test_a_part_that_fails_is_recorded_and_the_next_runs(packed: Path, tmp_path: Path) -> None:
    arguments = ["--songs", str(packed), "--golden", str(tmp_path), "--output", str(tmp_path / "output")]
    small = ["--device", "cpu", "--preset", "demo", "--seconds", "0.1", "--forward-batches", "1"]
    assert gpu.main([*arguments, *small, "--parts", "golden", "forward"]) == 1
    result = json.loads((tmp_path / "output" / "result.json").read_text())
    assert result["golden"]["status"] == "failed"
    assert "holds no generator_*.npz" in result["golden"]["error"]
    assert result["forward"]["status"] == "done"
    assert len(result["forward"]["rows"]) == 2
    with pytest.raises(SystemExit, match="2"):
        gpu.main([*arguments, *small])
    assert json.loads((tmp_path / "output" / "result.json").read_text()) == result


def test_a_part_that_hangs_is_ended_and_keeps_what_it_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    now = time.monotonic

    def record(values: Any) -> None:
        found.update(values)
        monkeypatch.setattr(time, "monotonic", lambda: now() + 1_000)

    assert gpu.run_part(gpu_part.hang, argparse.Namespace(), 300, record)["status"] == "out of time"
    assert found == {"rows": 1}


def test_a_part_whose_process_dies_keeps_what_it_recorded() -> None:
    found: dict[str, Any] = {}
    ending = gpu.run_part(gpu_part.die, argparse.Namespace(), 300, found.update)
    assert (ending["status"], ending["error"]) == ("failed", "the process ended with exit code 7")
    assert found == {"rows": 1}


def test_torch_and_numpy_are_enough_to_start() -> None:
    blocked = ("pipelines", "psutil", "yaml", "soundfile", "safetensors", "ray", "mlflow", "pyarrow", "scipy")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
