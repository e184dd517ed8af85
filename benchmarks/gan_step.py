"""Time and memory of a GAN step: `python -m benchmarks.gan_step`; numbers: docs/benchmarks.md.

Every setting runs in a process of its own, for its own peak memory. A step alternates with the forward pass
in inference mode on the same audio at the same precision, and with a product of square matrices; "of square"
is the rate of the step's matrix products relative to that of the square one. On a machine whose speed varies,
read ratios. On a GPU, read times too.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

from apollo.model.config import PRESETS, DiscriminatorConfig, GeneratorConfig
from apollo.model.device import choose_device, peak_memory_bytes
from apollo.model.generator import Generator
from apollo.training.config import RECOMPUTE, GanConfig
from apollo.training.data import Batch
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from benchmarks.forward import count_rows, device_clock, linear_flop, square_product
from benchmarks.measurement import in_own_process, measure_rounds, median_and_range


def main() -> None:
    """Measure and print one line per setting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_step", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="released")
    parser.add_argument("--seconds", type=float, default=1.0, help="of stereo (%(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="examples per step (1)")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=("float32", "bfloat16"))
    parser.add_argument("--recompute", nargs="+", default=RECOMPUTE, choices=RECOMPUTE)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="for the median (%(default)s)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    setting = f"torch {torch.__version__}, {options.preset}, {options.seconds:g} s of stereo"
    print(f"{setting}, median (range) of {options.rounds} rounds")
    print(
        f"{'precision':9s} {'recompute':9s} {'batch':>5s} {'step s':>7s} {'forward s':>9s} "
        f"{'steps in forwards':>20s} {'examples/s':>10s} {'of square':>11s} {'peak GB':>8s}",
        flush=True,
    )
    for precision, recompute, batch in itertools.product(options.precision, options.recompute, options.batch):
        try:
            numbers = in_own_process(_measure, options, precision, recompute, batch)
        except Exception as error:  # out of memory, or a process that was killed
            numbers = f"failed: {type(error).__name__}: {error}".partition("\n")[0]
        print(f"{precision:9s} {recompute:9s} {batch:5d} {numbers}", flush=True)


class StepSpeed(NamedTuple):
    """Speed of a GAN step beside the forward pass and a large square matrix product."""

    step_seconds: float  # median
    forward_seconds: float
    in_forwards: list[float]  # steps in forward passes, by round
    square_fraction: float  # of the rate of the square product
    peak_bytes: int


def measure_step(
    shape: GeneratorConfig, config: GanConfig, *, seconds: float, device: torch.device, rounds: int
) -> StepSpeed:
    """Measure GAN steps of random weights on noise.

    Args:
        shape: Configuration of the generator.
        config: Configuration of the step; determines batch and precision.
        seconds: Of stereo in every example.
        device: Device of the run.
        rounds: Number of rounds, after one that is not counted.
    """
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    generator, batch, precision = Generator(shape).to(device), config.batch_size, config.precision
    gan = Gan(generator, Discriminator(DiscriminatorConfig()).to(device), config, DistributedContext(device))
    clean = 0.1 * torch.randn(batch, 2, int(seconds * shape.sample_rate), device=device)
    examples = Batch(clean, clean + 0.01 * torch.randn_like(clean), [str(number) for number in range(batch)])
    inference = Generator(shape).to(device).with_precision(getattr(torch, precision))

    def forward() -> None:
        with torch.inference_mode():
            inference(examples.degraded)

    square, square_flop = square_product(device, getattr(torch, precision))
    work: list[Callable[[], object]] = [forward, lambda: gan.step([examples], epoch=0), square]
    times = measure_rounds(*work, rounds=rounds, clock=device_clock(device))
    forward_seconds, step_seconds, square_seconds = map(statistics.median, times)
    flop = 3 * linear_flop(shape, count_rows(shape, clean))  # forward, and twice that backward
    return StepSpeed(
        step_seconds,
        forward_seconds,
        [step / one for one, step in zip(*times[:2])],
        flop / step_seconds * square_seconds / square_flop,
        peak_memory_bytes(device),
    )


def _measure(options: argparse.Namespace, precision: str, recompute: str, batch: int) -> str:
    config = GanConfig(
        batch_size=batch, micro_batch=batch, precision=precision, recompute=recompute, compile=options.compile
    )
    shape, device = PRESETS[options.preset], choose_device(options.device)
    speed = measure_step(shape, config, seconds=options.seconds, device=device, rounds=options.rounds)
    return (
        f"{speed.step_seconds:7.3f} {speed.forward_seconds:9.3f} {median_and_range(speed.in_forwards):>20s} "
        f"{batch / speed.step_seconds:10.2f} {speed.square_fraction:11.2f} {speed.peak_bytes / 1e9:8.2f}"
    )


if __name__ == "__main__":
    main()
