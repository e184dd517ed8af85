"""Speed of the generator's forward pass: `python -m benchmarks.forward`.

Every forward pass alternates with matrix products of the same shapes, because the speed of shared machines
varies: read the fraction of the products' rate, and ratios, not times. On a GPU, read times too. The products
are the generator's linear layers on all rows at once, or on slices as the generator takes them on a CPU,
whichever is faster.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from apollo.model.band_sequence import SLICE_FEATURES
from apollo.model.compilation import compile_generator
from apollo.model.config import PRESETS, GeneratorConfig
from apollo.model.device import choose_device, peak_memory_bytes, synchronize
from apollo.model.generator import Generator, padded_length
from apollo.model.layers import TIME_BLOCKS
from benchmarks.measurement import measure_rounds, median_and_range

_SQUARE, _SQUARE_ON_CPU = 4096, 1024  # rows and columns of the square matrix product


def main() -> None:
    """Measure and print one line per setting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="released")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio (%(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="mono signals at a time (1 2)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="for the median (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="compiled too")
    options = parser.parse_args()
    device, config = choose_device(options.device), PRESETS[options.preset]
    torch.manual_seed(0)
    setting = f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.preset}"
    print(f"{setting}, {options.seconds:g} s of audio, median of {options.rounds} rounds")
    columns = f"{'precision':9s} {'mode':8s} {'batch':>5s} {'s / s':>8s} {'GFLOP/s':>8s} {'products':>8s} "
    print(f"{columns}{'fraction':>16s} {'SNR dB':>6s} {'peak MiB':>8s}")
    with torch.inference_mode():
        for batch in options.batch:
            audio = torch.randn(batch, int(options.seconds * config.sample_rate), device=device) * 0.1
            generator = Generator(config).to(device).eval()
            reference = generator(audio)
            for precision, compiled in itertools.product((torch.float32, torch.bfloat16), (False, True)):
                prepared = generator.with_precision(precision)
                if not compiled or (options.compile and compile_generator(prepared)):
                    name = f"{str(precision)[6:]:9s} {'compiled' if compiled else 'eager':8s}"
                    speed = measure_forward(prepared, audio, reference, precision, options.rounds)
                    print(name, _format(speed, audio, config), flush=True)


class ForwardSpeed(NamedTuple):
    """Speed of a forward pass beside matrix products of the same shapes, and of a large square one."""

    seconds: float  # median
    flop: float  # of the linear layers
    products_per_second: float  # flop a second of the products of the same shapes
    fractions: list[float]  # of their rate, by round
    square_fraction: float  # of the rate of the square product
    snr_db: float  # against the reference
    peak_bytes: int  # on a GPU of this pass alone, on a CPU of the process so far


def measure_forward(
    generator: Generator, audio: Tensor, reference: Tensor, precision: torch.dtype, rounds: int
) -> ForwardSpeed:
    """Measure forward passes of a generator in inference mode.

    Args:
        generator: In the precision, on its device.
        audio: [signals, samples], on the same device.
        reference: Output in float32, of the same shape.
        precision: Of the matrix products.
        rounds: Number of rounds, after one that is not counted.
    """
    config, bands = generator.config, len(generator.config.band_widths)
    rows = count_rows(config, audio)
    if audio.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    noise = generator(audio) - reference
    peak_bytes = peak_memory_bytes(audio.device)
    sizes = (rows, max(SLICE_FEATURES // (bands * config.dim), 1) * bands)
    products = [_products(config, rows, size, precision, audio.device) for size in sizes]
    square, square_flop = square_product(audio.device, precision)
    work: list[Callable[[], object]] = [lambda: generator(audio), square, *products]
    times = measure_rounds(*work, rounds=rounds, clock=device_clock(audio.device))
    seconds, best = statistics.median(times[0]), min(times[2:], key=statistics.median)
    flop = linear_flop(config, rows)
    return ForwardSpeed(
        seconds,
        flop,
        flop / statistics.median(best),
        [product / forward for product, forward in zip(best, times[0])],
        flop / seconds * statistics.median(times[1]) / square_flop,
        float(10 * torch.log10(reference.square().sum() / noise.square().sum())),
        peak_bytes,
    )


def _format(speed: ForwardSpeed, audio: Tensor, config: GeneratorConfig) -> str:
    return (
        f"{len(audio):5d} {speed.seconds / (audio.numel() / config.sample_rate):8.3f} "
        f"{speed.flop / speed.seconds / 1e9:8.0f} {speed.products_per_second / 1e9:8.0f} "
        f"{median_and_range(speed.fractions):>16s} {speed.snr_db:6.1f} {speed.peak_bytes / 2**20:8.0f}"
    )


def count_rows(config: GeneratorConfig, audio: Tensor) -> int:
    """Return the number of rows of the linear layers' inputs, for audio [..., samples]."""
    frames = padded_length(audio.shape[-1], config.hop_samples) // config.hop_samples + 1
    return audio[..., 0].numel() * frames * len(config.band_widths)


def linear_flop(config: GeneratorConfig, rows: int) -> float:
    """Return the floating-point operations of the linear layers in a forward pass."""
    return 2.0 * 40 * config.dim**2 * rows * config.layers


def square_product(device: torch.device, precision: torch.dtype) -> tuple[Callable[[], object], float]:
    """Return a product of two square matrices, for the peak rate of a device, and its operations."""
    size = _SQUARE if device.type == "cuda" else _SQUARE_ON_CPU
    square = torch.randn(size, size, device=device).to(precision)
    return lambda: square @ square, 2.0 * size**3


def _products(
    config: GeneratorConfig, rows: int, size: int, precision: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """Return a function that computes only the linear layers of a forward pass, on `size` rows at a time."""
    dim = config.dim
    attention = [(dim, 3 * dim), (dim, dim), (dim, 8 * dim), (4 * dim, dim)]
    shapes = attention + [(dim, 4 * dim), (4 * dim, dim)] * TIME_BLOCKS
    inputs = {into: torch.randn(rows, into, device=device).to(precision) for into in (dim, 4 * dim)}
    weights = [torch.randn(out, into, device=device).to(precision) for into, out in shapes]

    def multiply() -> None:
        for _ in range(config.layers):
            for weight in weights:
                for part in inputs[weight.shape[1]].split(size):
                    F.linear(part, weight)

    return multiply


def device_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that waits for the work of a device."""

    def read() -> float:
        synchronize(device)
        return time.perf_counter()

    return read


if __name__ == "__main__":
    main()
