"""Small generated data sets, and the configuration that tests render them with."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.audio.codec import CodecConfig
from pipelines.dataset.shards import ShardsConfig
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.recipes import RecipesConfig

SAMPLE_RATE = 44_100
SECRET = "hunter2secret"  # noqa: S105 - of nothing; what must not be written down anywhere
STEMS = ("vocals", "drums", "bass", "other")


def music(seed: int, seconds: float = 9.0, rate: int = SAMPLE_RATE, channels: int = 2) -> NDArray[np.float64]:
    """Broadband tones and noise under a beat, at about -20 dBFS: [frames, channels]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) for f in rng.uniform(80, 2_000, 5))
    beat = 0.35 + 0.65 * np.exp(-8 * np.mod(time * rng.uniform(1.5, 3), 1))
    noise = rng.standard_normal((len(time), channels))
    signal: NDArray[np.float64] = 0.08 * beat[:, None] * (0.3 * np.asarray(tones)[:, None] + 0.5 * noise)
    return signal


def write(path: Path, samples: NDArray[Any], rate: int = SAMPLE_RATE, **options: Any) -> Path:
    """Write an audio file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **({"subtype": "PCM_16"} | options))
    return path


def write_musdb(root: Path, songs: tuple[str, ...] = ("train", "train", "train", "test")) -> Path:
    """Write songs in MUSDB18-HQ's layout; every song its own music."""
    for number, split in enumerate(songs):
        folder = root / "musdb18hq" / split / f"Artist {number} - Song {number}"
        stems = {stem: music(10 * number + place) for place, stem in enumerate(STEMS)}
        for stem, samples in stems.items():
            write(folder / f"{stem}.wav", samples)
        write(folder / "mixture.wav", sum(stems.values()))
    return root


def encode(source: Path, target: Path, *options: str) -> Path:
    """Encode a file with the bundled ffmpeg."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-i", f"file:{source}", *options, f"file:{target}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


def config(data: Path | str, output: Path | str, **changes: Any) -> PreprocessConfig:
    """Give the configuration of most runs: 36 recipes in 10 shards of 4, two bitrates."""
    defaults: dict[str, Any] = {
        "data": [str(data)],
        "output": str(output),
        "recipes": RecipesConfig(train=20, valid=4, test_per_category=3),
        "codec": CodecConfig(bitrates_bps=(24_000, 128_000)),
        "shards": ShardsConfig(rows=4, row_group_rows=2),
        "actors": 2,
    }
    return PreprocessConfig(**(defaults | changes))


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    """Give the same configuration as arguments of jobs/preprocess.py."""
    return [
        *("--data", str(data), "--output", str(output), "--actors", "2"),
        *("--recipes.train", "20", "--recipes.valid", "4", "--recipes.test_per_category", "3"),
        *("--codec.bitrates_bps", "[24000, 128000]", "--shards.rows", "4", "--shards.row_group_rows", "2"),
        *more,
    ]
