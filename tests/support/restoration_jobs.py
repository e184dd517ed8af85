"""Restoration jobs on Ray, as small as they can be, and what they leave to read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from apollo.checkpoints import checkpoint
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from pipelines.restoration.run import RestoreConfig
from pipelines.storage.atomic import temporary_files
from tests.support.datasets import encode, music, write

ROOT = Path(__file__).parents[2]
GOOD = {"a.wav", "disc 1/b.wav", "disc 1/ünïcode ♪.wav", "disc 1/deep/er/c.wav", "cut.wav"}
BAD = {"text.mp3", "empty.wav"}


def save_generator(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny generator that changes what it restores."""
    torch.manual_seed(seed)
    return checkpoint.save(Generator(GeneratorConfig(dim=16, layers=1)), folder)


def write_album(folder: Path) -> Path:
    """Write songs of a second in nested folders; two are none, and one ends early."""
    write(folder / "a.wav", music(1, 1.0))
    encode(folder / "a.wav", folder / "disc 1/b.mp3", "-b:a", "64k")
    write(folder / "disc 1/ünïcode ♪.flac", music(2, 1.0))
    write(folder / "disc 1/deep/er/c.wav", music(3, 1.0, channels=1))
    (folder / "cut.mp3").write_bytes((folder / "disc 1/b.mp3").read_bytes()[:4000])
    (folder / "text.mp3").write_text("This is no music.")
    (folder / "empty.wav").write_bytes(b"")
    write(folder / ".hidden.wav", music(1, 0.1))
    (folder / "disc 1/cover.txt").write_text("a picture of a sleeve")
    (folder / "disc 1/again").symlink_to(folder, target_is_directory=True)
    return folder


def config(album: Path | str, output: Path | str, weights: Path, **changes: Any) -> RestoreConfig:
    """Return the configuration of most runs."""
    defaults: dict[str, Any] = {"data": [str(album)], "output": str(output), "checkpoint": str(weights)}
    return RestoreConfig(**(defaults | {"precision": "float32", "actors": 2} | changes))


def start(address: str, album: Path, output: Path, weights: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start the job as users do, on a cluster that is there."""
    command = [sys.executable, "jobs/restore.py", "--data", str(album), "--output", str(output)]
    command += ["--checkpoint", str(weights), "--precision", "float32", *more]
    with output.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": address}, stdout=log, stderr=log
        )


def samples(output: Path) -> dict[str, NDArray[np.float32]]:
    """Read all results; as files they differ, because a WAV of floats holds the time of its writing."""
    return {
        path.relative_to(output).as_posix(): soundfile.read(path, dtype="float32", always_2d=True)[0]
        for path in sorted(output.rglob("*.wav"))
    }


def outcomes(output: Path, name: str = "outcomes.jsonl") -> dict[str, dict[str, Any]]:
    """Read the outcomes by song; check that results of restored songs are complete."""
    lines = [json.loads(line) for line in (output / name).read_text().splitlines()]
    for line in lines:
        if line["status"] == "restored":
            assert (output / line["name"]).stat().st_size == line["bytes"], line
    assert not list(temporary_files(str(output))), "a temporary file is left"
    found = {Path(line["source"]).name: line for line in lines}
    assert len(found) == len(lines)
    return found


def records(output: Path) -> list[dict[str, Any]]:
    """Read the commit objects that are there."""
    return [json.loads(path.read_text()) for path in output.glob("commits/*.json")]


def result(output: Path) -> dict[str, Any]:
    """Read how the last run ended."""
    return json.loads((output / "result.json").read_text())
