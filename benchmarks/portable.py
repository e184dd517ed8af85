"""Speed of a model in torch, in ONNX Runtime and there in 8-bit integers: `python -m benchmarks.portable`.

All three alternate on the same stereo in one process, at the chunk lengths of `apollo restore`, in float32
but for the last. Prints times real time and ratios to torch, sizes of the files, and SI-SNR of the last's
output to float32's. Read ratios: the speed of shared machines varies. Numbers: docs/benchmarks.md.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from apollo import metrics
from apollo.checkpoints import checkpoint
from apollo.inference.chunks import ChunkLength, restore_chunks
from apollo.model.config import COMPACT, PRESETS
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions
from apollo.onnx.export import to_onnx_bytes
from apollo.onnx.onnx_generator import OnnxGenerator, make_restorer
from benchmarks.measurement import measure_rounds, median_and_range

_SECONDS = {"compact": 30.0, "released": 1.5}


def main() -> None:
    """Measure and print a line per number of threads, model and runtime."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portable", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(_SECONDS), choices=list(_SECONDS), help="(both)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="for the median (%(default)s)")
    parser.add_argument("--song", help="audio at 44.1 kHz; noise where not given")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, median (range) of {options.rounds} rounds")
    for model in options.models:
        torch.manual_seed(0)
        generator = checkpoint.load(COMPACT) if model == COMPACT else Generator(PRESETS[model]).eval()
        song = _read(options.song, round(_SECONDS[model] * generator.config.sample_rate))
        contents = {name: to_onnx_bytes(generator, int8=name == "int8") for name in ("onnx", "int8")}
        for name, content in contents.items():
            print(f"{model}, {name}: {len(content) / 1e6:.1f} MB")
        for threads in options.threads:
            torch.set_num_threads(threads)  # sessions take as many
            runtimes = {"torch": generator} | {
                name: OnnxGenerator(content, name) for name, content in contents.items()
            }
            _measure(f"{model}, {threads} threads", runtimes, song, options.rounds)


def _measure(title: str, runtimes: "dict[str, Generator | OnnxGenerator]", song: Tensor, rounds: int) -> None:
    works = [_restoring(generator, song) for generator in runtimes.values()]
    _, exact, quantized = (work() for work in works)
    seconds = song.shape[1] / next(iter(runtimes.values())).config.sample_rate
    times = measure_rounds(*works, rounds=rounds)
    for name, taken in zip(runtimes, times):
        speeds = median_and_range([seconds / one for one in taken])
        ratios = median_and_range([torch_one / one for torch_one, one in zip(times[0], taken)])
        print(f"{title}, {name}: {speeds} times real time, {ratios} times as fast as torch", flush=True)
    fidelity = metrics.si_snr(estimate=quantized.double(), reference=exact.double()).mean()
    print(f"{title}: SI-SNR of int8 to float32 {fidelity:.1f} dB")


def _restoring(generator: Generator | OnnxGenerator, song: Tensor) -> Callable[[], Tensor]:
    length = ChunkLength(generator)

    def work() -> Tensor:
        restorer = make_restorer(generator, NoiseOptions(channels=len(song)))
        chunks = restore_chunks(restorer, [song], len(song), length)
        return torch.cat([restored for _, restored in chunks], 1)

    return work


def _read(path: str | None, samples: int) -> Tensor:
    if path is None:
        return 0.1 * torch.randn(2, samples)
    import soundfile

    return torch.from_numpy(soundfile.read(path, samples, dtype="float32", always_2d=True)[0].T.copy())


if __name__ == "__main__":
    main()
