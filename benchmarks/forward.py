"""What a generator costs: `python -m benchmarks.forward`. Needs torch alone.

Every forward pass is measured in turns with matrix products of the same shapes, because the speed of shared
machines drifts: read the fraction of what the products reach, and the ratios, not the times. On a GPU times
count too.

The products are the generator's linear layers on all rows at once or on slices as the generator takes them on
a CPU, whichever is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from apollo.model.band_sequence import SLICE_FEATURES
from apollo.model.compilation import compile_generator
from apollo.model.config import PRESETS, GeneratorConfig
from apollo.model.device import choose_device, peak_memory_bytes, synchronize
from apollo.model.generator import Generator, padded_length
from apollo.model.layers import TIME_BLOCKS


def main() -> None:
    """Measure and print one line a setting."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forward", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--preset", choices=PRESETS, default="released")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio (%(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2], help="mono signals at a time (1 2)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="compiled too")
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(0)
    config = PRESETS[options.preset]
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.preset}, ", end=""
    )
    print(f"{options.seconds:g} s of audio, median of {options.rounds} rounds")
    print(
        f"{'precision':9s} {'mode':8s} {'batch':>5s} {'s / s':>8s} {'GFLOP/s':>8s} {'products':>8s} ", end=""
    )
    print(f"{'fraction':>15s} {'SNR dB':>6s} {'peak MiB':>8s}")
    with torch.inference_mode():
        for batch in options.batch:
            audio = torch.randn(batch, int(options.seconds * config.sample_rate), device=device) * 0.1
            _measure_batch(Generator(config).to(device), audio, options.rounds, options.compile)


def _measure_batch(generator: Generator, audio: Tensor, rounds: int, compiled: bool) -> None:
    reference = generator.eval()(audio)
    for precision in (torch.float32, torch.bfloat16):
        for mode in ("eager", "compiled") if compiled else ("eager",):
            prepared = generator.with_precision(precision)
            if mode == "compiled" and not compile_generator(prepared):
                continue
            _measure(prepared, audio, reference, precision, mode, rounds)


def _measure(
    generator: Generator, audio: Tensor, reference: Tensor, precision: torch.dtype, mode: str, rounds: int
) -> None:
    config = generator.config
    frames = padded_length(audio.shape[1], config.hop_samples) // config.hop_samples + 1
    rows = len(audio) * frames * len(config.band_widths)
    candidates = [
        _products(config, rows, size, precision, audio.device) for size in _slice_rows(config, rows)
    ]
    if audio.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    noise = generator(audio) - reference
    peak = peak_memory_bytes(audio.device)
    times: list[list[float]] = [[] for _ in (generator, *candidates)]
    for _ in range(rounds):
        for work, taken in zip((lambda: generator(audio), *candidates), times):
            taken.append(measure_seconds(work, audio.device))
    own, *products = (statistics.median(taken) for taken in times)
    best = min(range(len(products)), key=products.__getitem__)
    fractions = sorted(product / mine for product, mine in zip(times[1 + best], times[0]))
    flop = 2 * 40 * config.dim**2 * rows * config.layers
    snr = 10 * torch.log10(reference.square().sum() / noise.square().sum())
    name = str(precision).removeprefix("torch.")
    seconds = audio.numel() / config.sample_rate
    print(
        f"{name:9s} {mode:8s} {len(audio):5d} {own / seconds:8.3f} {flop / own / 1e9:8.0f} "
        f"{flop / products[best] / 1e9:8.0f} {statistics.median(fractions):4.2f} "
        f"({fractions[0]:.2f}-{fractions[-1]:.2f}) {snr:6.1f} {peak / 2**20:8.0f}",
        flush=True,
    )


def _slice_rows(config: GeneratorConfig, rows: int) -> tuple[int, int]:
    bands = len(config.band_widths)
    return rows, max(SLICE_FEATURES // (bands * config.dim), 1) * bands


def _products(
    config: GeneratorConfig, rows: int, size: int, precision: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """Give the linear layers of a forward pass alone, on `size` rows at a time."""
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


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time work on a device, until it is done."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
