"""What a GAN step costs: `python -m benchmarks.gan_step`. How to read the numbers: docs/benchmarks.md.

Every setting runs in a process of its own, so that its peak memory is its own. Step and forward pass (in
inference, of the same audio at the same precision) are measured in turns: their ratio is what counts on a
machine whose speed drifts. On a GPU, times count too.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch

from apollo.model.config import PRESETS, DiscriminatorConfig
from apollo.model.device import choose_device, peak_memory_bytes
from apollo.model.generator import Generator, padded_length
from apollo.training.config import RECOMPUTE, GanConfig
from apollo.training.data import Batch
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from benchmarks.forward import measure_seconds

_PRODUCT = 4096  # rows and columns of the matrices whose product is the ceiling on a GPU


def main() -> None:
    """Measure and print one line a setting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_step", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="released")
    parser.add_argument("--seconds", type=float, default=1.0, help="of stereo (%(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="examples of a step (1)")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=("float32", "bfloat16"))
    parser.add_argument("--recompute", nargs="+", default=RECOMPUTE, choices=RECOMPUTE)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (%(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        _measure(options)
        return
    print(f"torch {torch.__version__}, {options.preset}, {options.seconds:g} s of stereo, ", end="")
    print(f"median (range) of {options.rounds} rounds")
    print(
        f"{'precision':9s} {'recompute':9s} {'batch':>5s} {'step s':>7s} {'forward s':>9s} "
        f"{'steps in forwards':>20s} {'examples/s':>10s} {'of products':>11s} {'peak GB':>8s}",
        flush=True,
    )
    for precision in options.precision:
        for recompute in options.recompute:
            for batch in options.batch:
                command = [sys.executable, "-m", "benchmarks.gan_step", "--inner", "--batch", str(batch)]
                command += ["--precision", precision, "--recompute", recompute, "--preset", options.preset]
                command += ["--seconds", str(options.seconds), "--rounds", str(options.rounds)]
                command += ["--device", options.device, *(["--compile"] if options.compile else [])]
                if subprocess.run(command, check=False).returncode:  # noqa: S603 - no shell
                    print(f"{precision:9s} {recompute:9s} {batch:5d} failed (out of memory?)", flush=True)


def _measure(options: argparse.Namespace) -> None:
    device, precision, recompute = choose_device(options.device), options.precision[0], options.recompute[0]
    torch.manual_seed(0)
    shape, batch = PRESETS[options.preset], options.batch[0]
    config = GanConfig(
        batch_size=batch, micro_batch=batch, precision=precision, recompute=recompute, compile=options.compile
    )
    generator = Generator(shape).to(device)
    gan = Gan(generator, Discriminator(DiscriminatorConfig()).to(device), config, DistributedContext(device))
    clean = 0.1 * torch.randn(batch, 2, int(options.seconds * shape.sample_rate), device=device)
    examples = Batch(clean, clean + 0.01 * torch.randn_like(clean), [str(number) for number in range(batch)])
    plain = Generator(shape).to(device).with_precision(getattr(torch, precision))

    def forward() -> None:
        with torch.inference_mode():
            plain(examples.degraded)

    def step() -> None:
        gan.step([examples], epoch=0)

    works: list[Callable[[], object]] = [forward, step]
    if device.type == "cuda":
        square = torch.randn(_PRODUCT, _PRODUCT, device=device, dtype=getattr(torch, precision))
        works.append(lambda: square @ square)
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(options.rounds):
        for work, kept in zip(works, times):
            kept.append(measure_seconds(work, device))
    ratios = sorted(whole / part for part, whole in zip(times[0], times[1]))
    once, taken = (statistics.median(one) for one in times[:2])
    share = "-"
    if len(works) == 3:
        frames = padded_length(clean.shape[2], shape.hop_samples) // shape.hop_samples + 1
        rows = 2 * batch * frames * len(shape.band_widths)
        flop = 3 * 2 * 40 * shape.dim**2 * rows * shape.layers  # forward and twice that backward
        ceiling = 2 * _PRODUCT**3 / statistics.median(times[2])
        share = f"{flop / taken / ceiling:.2f}"
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    print(
        f"{precision:9s} {recompute:9s} {batch:5d} {taken:7.3f} {once:9.3f} {spread:>20s} "
        f"{batch / taken:10.2f} {share:>11s} {peak_memory_bytes(device) / 1e9:8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
