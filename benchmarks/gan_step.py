"""Time and memory of a GAN step: `python -m benchmarks.gan_step`; numbers: docs/benchmarks.md.

Every setting runs in a process of its own, for its own peak memory. A step alternates with the forward pass
in inference mode on the same audio at the same precision: on a machine whose speed varies, read their ratio.
On a GPU, read times too.
"""

import argparse
import itertools
import statistics
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
from benchmarks.forward import device_clock
from benchmarks.measurement import in_own_process, measure_rounds, median_and_range

_PRODUCT = 4096  # rows and columns of the matrix product that gives the peak rate of a GPU


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
        f"{'steps in forwards':>20s} {'examples/s':>10s} {'of products':>11s} {'peak GB':>8s}",
        flush=True,
    )
    for precision, recompute, batch in itertools.product(options.precision, options.recompute, options.batch):
        try:
            numbers = in_own_process(_measure, options, precision, recompute, batch)
        except Exception as error:  # out of memory, or a process that was killed
            numbers = f"failed: {type(error).__name__}: {error}".partition("\n")[0]
        print(f"{precision:9s} {recompute:9s} {batch:5d} {numbers}", flush=True)


def _measure(options: argparse.Namespace, precision: str, recompute: str, batch: int) -> str:
    device, shape = choose_device(options.device), PRESETS[options.preset]
    torch.manual_seed(0)
    config = GanConfig(
        batch_size=batch, micro_batch=batch, precision=precision, recompute=recompute, compile=options.compile
    )
    generator = Generator(shape).to(device)
    gan = Gan(generator, Discriminator(DiscriminatorConfig()).to(device), config, DistributedContext(device))
    clean = 0.1 * torch.randn(batch, 2, int(options.seconds * shape.sample_rate), device=device)
    examples = Batch(clean, clean + 0.01 * torch.randn_like(clean), [str(number) for number in range(batch)])
    inference = Generator(shape).to(device).with_precision(getattr(torch, precision))

    def forward() -> None:
        with torch.inference_mode():
            inference(examples.degraded)

    work: list[Callable[[], object]] = [forward, lambda: gan.step([examples], epoch=0)]
    if device.type == "cuda":
        square = torch.randn(_PRODUCT, _PRODUCT, device=device, dtype=getattr(torch, precision))
        work.append(lambda: square @ square)
    times = measure_rounds(*work, rounds=options.rounds, clock=device_clock(device))
    forward_seconds, step_seconds, *product_seconds = map(statistics.median, times)
    fraction = "-"
    if product_seconds:
        frames = padded_length(clean.shape[2], shape.hop_samples) // shape.hop_samples + 1
        rows = 2 * batch * frames * len(shape.band_widths)
        flop = 3 * 2 * 40 * shape.dim**2 * rows * shape.layers  # forward, and twice that backward
        fraction = f"{flop / step_seconds * product_seconds[0] / (2 * _PRODUCT**3):.2f}"
    ratios = median_and_range([step / one for one, step in zip(*times[:2])])
    return (
        f"{step_seconds:7.3f} {forward_seconds:9.3f} {ratios:>20s} {batch / step_seconds:10.2f} "
        f"{fraction:>11s} {peak_memory_bytes(device) / 1e9:8.2f}"
    )


if __name__ == "__main__":
    main()
