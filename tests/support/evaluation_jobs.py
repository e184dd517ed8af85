"""Evaluations as small as they can be, and what they leave to read."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from apollo.checkpoints import checkpoint
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from pipelines.evaluation.config import EvaluateConfig
from pipelines.tracking.run import TrackingConfig
from tests.support.mlflow_runs import ready_output


def write_model(folder: Path, seed: int = 0, scale: float = 1.0) -> Path:
    """Save a tiny generator of random weights, which are multiplied by a number."""
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(scale)
    return checkpoint.save(generator, folder)


def write_identity(folder: Path) -> Path:
    """Save a tiny generator that leaves its input as it is."""
    torch.manual_seed(0)
    return checkpoint.save(Generator(GeneratorConfig(dim=8, layers=1, heads=2, output="correction")), folder)


def config(data: Path, output: Path, **changes: Any) -> EvaluateConfig:
    """Return the configuration of most evaluations: no real-time factors, two scoring actors."""
    settings: dict[str, Any] = {
        "data": str(data),
        "output": str(output),
        "rtf_runs": 0,
        "scorers": 2,
        "bootstrap_resamples": 200,
        "listening_items": 1,
        "tracking": TrackingConfig(uri=f"sqlite:///{ready_output(output.parent)}/mlflow.db"),
    }
    return EvaluateConfig(**settings | changes)


def rows(output: Path) -> list[dict[str, Any]]:
    """Read all scores."""
    found: list[dict[str, Any]] = pq.read_table(output / "scores.parquet").to_pylist()
    return found


def states(output: Path) -> dict[str, tuple[int, int]]:
    """Return modification time and inode of every file of an output."""
    return {
        str(path.relative_to(output)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
