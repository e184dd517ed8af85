"""Speed of the compact model: `python -m benchmarks.compact`; numbers: docs/benchmarks.md.

Restoring: times real time in stereo, for each number of threads. Training: a step of
jobs/configs/compact.yaml in forward passes over the same audio, the share of its losses, and audio-seconds a
second. Read ratios: the speed of shared machines varies.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from apollo.checkpoints import checkpoint
from apollo.inference.restoration import restore
from apollo.model.config import COMPACT, DiscriminatorConfig
from apollo.model.generator import Generator
from apollo.training.config import GanConfig
from apollo.training.data import Batch
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.spectral_losses import spectral_losses
from apollo.training.spectral_pair import make_pair
from benchmarks.measurement import measure_rounds, median_and_range

_CONFIG = Path(__file__).parents[1] / "jobs/configs/compact.yaml"
_PIECE_SECONDS = 1.5


def main() -> None:
    """Measure and print one line per number of threads, and one for a training step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compact", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of stereo to restore (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="for the median (%(default)s)")
    options = parser.parse_args()
    generator = checkpoint.load(COMPACT)
    rate = generator.config.sample_rate
    song = 0.1 * torch.randn(2, int(options.seconds * rate))
    print(f"torch {torch.__version__}, median (range) of {options.rounds} rounds")
    for threads in options.threads:
        torch.set_num_threads(threads)
        (times,) = measure_rounds(lambda: restore(generator, song), rounds=options.rounds)
        speeds = median_and_range([options.seconds / one for one in times])
        print(f"restoring stereo, {threads} threads: {speeds} times real time", flush=True)
    torch.set_num_threads(1)
    print(f"training, 1 thread: {_measure_step(generator.train(), options.rounds)}")


def _measure_step(generator: Generator, rounds: int) -> str:
    config = GanConfig(**yaml.safe_load(_CONFIG.read_text())["gan"])
    gan = Gan(generator, DiscriminatorConfig(), config, DistributedContext(torch.device("cpu")))
    clean = 0.1 * torch.randn(config.batch_size, 1, int(_PIECE_SECONDS * generator.config.sample_rate))
    batch = Batch(clean, 0.9 * clean + 0.01 * torch.randn_like(clean), [""] * config.batch_size)
    parts = generator.decompose(batch.degraded)
    assert parts.amplitude is not None  # noqa: S101 - the compact model's output has noise
    leaves = replace(
        parts,
        deterministic=parts.deterministic.detach().requires_grad_(),
        amplitude=parts.amplitude.detach().requires_grad_(),
    )

    def forward() -> None:
        with torch.inference_mode():
            generator.decompose(batch.degraded)

    def losses() -> None:
        pair = make_pair(leaves, generator.analyze(clean), generator.config)
        found = spectral_losses(pair, gan.weights, generator.config)
        torch.stack([gan.weights[name] * value for name, value in found.items()]).sum().backward()

    work: list[Any] = [forward, losses, lambda: gan.step([batch], epoch=0)]
    times = measure_rounds(*work, rounds=rounds)
    in_forwards = median_and_range([step / one for one, step in zip(times[0], times[2], strict=True)])
    share = median_and_range([one / step for one, step in zip(times[1], times[2], strict=True)])
    audio = config.batch_size * _PIECE_SECONDS / statistics.median(times[2])
    return f"step {in_forwards} forwards, losses {share} of it, {audio:.0f} audio-seconds a second"


if __name__ == "__main__":
    main()
