"""Restore raw PCM as it arrives: `apollo stream`."""

import sys
import time
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from apollo.cli import PCM_FORMATS
from apollo.inference.streaming import StreamRestorer
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions

_DTYPES = dict(zip(PCM_FORMATS, (torch.float32, torch.int16), strict=True))
_READ_BYTES = 1 << 16
_FULL_SCALE = 32768.0


class ByteInput(Protocol):
    """A binary input stream."""

    def read1(self, size: int, /) -> bytes:
        """Return up to `size` available bytes, waiting for at least one; empty at the end."""


class ByteOutput(Protocol):
    """A binary output stream."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""

    def flush(self) -> None:
        """Flush buffered bytes."""


@dataclass(frozen=True)
class StreamReport:
    """Statistics of a restored stream.

    Args:
        seconds: Duration of the restored audio.
        busy_seconds: Computation time, without waiting for input or output.
        dropped_bytes: Trailing bytes that were not a complete sample of all channels.
    """

    seconds: float
    busy_seconds: float
    dropped_bytes: int

    @property
    def real_time_factor(self) -> float:
        """Computation time per second of audio; below 1 is faster than real time."""
        return self.busy_seconds / self.seconds if self.seconds else 0.0


def restore_standard_input(generator: Generator, *, channels: int, pcm: str) -> None:
    """Restore samples from standard input to standard output, and report to standard error.

    Raises:
        ValueError: a sample is non-finite.
    """
    rate = generator.config.sample_rate
    latency = StreamRestorer(generator).latency_samples / rate
    print(f"apollo: {pcm} at {rate} Hz, latency {latency * 1000:.0f} ms", file=sys.stderr, flush=True)
    source = cast(ByteInput, sys.stdin.buffer)
    report = restore_pcm(generator, source, sys.stdout.buffer, channels=channels, pcm=pcm)
    if report.dropped_bytes:
        print(f"apollo: {report.dropped_bytes} trailing bytes were dropped", file=sys.stderr)
    print(
        f"apollo: {report.seconds:.2f} s of audio in {report.busy_seconds:.2f} s of computation: "
        f"real-time factor {report.real_time_factor:.2f}",
        file=sys.stderr,
    )


def restore_pcm(
    generator: Generator, source: ByteInput, sink: ByteOutput, *, channels: int, pcm: str
) -> StreamReport:
    """Restore interleaved samples until the input ends; writes as many samples as it reads.

    Args:
        generator: On its device, at its precision; causal for low latency.
        source: Samples at the generator's rate.
        sink: Receives samples in the same format.
        channels: Number of interleaved channels.
        pcm: One of `apollo.cli.PCM`.

    Raises:
        ValueError: a sample is non-finite.
    """
    device = generator.device
    restorer = StreamRestorer(generator, NoiseOptions(channels=channels))
    state = restorer.start(channels)
    width = channels * _DTYPES[pcm].itemsize
    rest, busy = b"", 0.0
    while data := source.read1(_READ_BYTES):
        data = rest + data
        whole = len(data) // width * width
        data, rest = data[:whole], data[whole:]
        began = time.perf_counter()
        restored, state = restorer.push(state, _decode(data, channels, pcm).to(device))
        coded = _encode(restored, pcm)
        busy += time.perf_counter() - began
        sink.write(coded)
        sink.flush()
    began = time.perf_counter()
    coded = _encode(restorer.finish(state), pcm)
    busy += time.perf_counter() - began
    sink.write(coded)
    sink.flush()
    return StreamReport(state.received / generator.config.sample_rate, busy, len(rest))


def _decode(data: bytes, channels: int, pcm: str) -> Tensor:
    if not data:
        return torch.empty(channels, 0)
    samples = torch.frombuffer(bytearray(data), dtype=_DTYPES[pcm]).view(-1, channels).T.float()
    if _DTYPES[pcm] is torch.int16:
        return samples / _FULL_SCALE
    if not torch.isfinite(samples).all():
        raise ValueError("the stream contains non-finite samples (NaN or infinite)")
    return samples


def _encode(samples: Tensor, pcm: str) -> bytes:
    samples = samples.float().cpu().T.contiguous()
    if _DTYPES[pcm] is torch.int16:
        samples = (samples * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1).to(torch.int16)
    return samples.numpy().tobytes()
