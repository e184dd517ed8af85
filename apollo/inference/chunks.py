"""Restore a song in chunks that fit in memory.

On a CPU the network computes a fixed number of frames at a time (`Generator.frames_at_a_time`), so memory
hardly grows with a chunk, and chunks of whole multiples of it have the same bytes, whatever their length.
On a GPU a chunk is computed at once. Its length is the first of a fixed series, each half of the one before,
that takes at most half of the free memory; other lengths agree to float rounding.

Shape legend: samples [channels, samples], float32.
"""

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from apollo.inference.memory import free_memory_bytes, is_out_of_memory
from apollo.inference.streaming import StreamRestorer, StreamState
from apollo.model.generator import Generator

logger = logging.getLogger(__name__)

GPU_SECONDS = 5.0  # a longer chunk is no faster where a second of audio is thousands of rows of a product
CPU_SECONDS = 1.0
LEAST_FRAMES = 8
FREE_SHARE = 0.5  # of the memory that is free at the beginning, since others take memory too
# measured on a CPU with everything computed at once (docs/restore.md): up to 61 in bfloat16, 111 in float32
BYTES_PER_FEATURE = 128
BYTES_PER_BIN = 56  # spectra before and after the network, and their parts


class ChunkLength:
    """The length of the chunks of all songs of a run: chosen by free memory, halved where that was too much.

    Args:
        generator: On its device, at its precision.
        seconds: Length to use whatever memory is free, rounded up to whole multiples of what the network
            computes at a time; None chooses it.
    """

    def __init__(self, generator: Generator, seconds: float | None = None) -> None:
        self._generator, self._seconds = generator, seconds
        self._device = generator.device
        self._halvings = 0

    def frames(self, channels: int) -> int:
        """Return the length in frames for songs of a number of channels."""
        frames_per_second = self._generator.config.sample_rate / self._generator.config.hop_samples
        unit = self._generator.frames_at_a_time(channels, self._device)
        seconds = self._seconds or (GPU_SECONDS if unit is None else CPU_SECONDS)
        frames = max(round(seconds * frames_per_second), 1)
        if unit is not None:
            frames = -(-frames // unit) * unit
        free = free_memory_bytes(self._device) if self._seconds is None else None
        while free is not None and frames > LEAST_FRAMES:
            if self._estimate_bytes(frames, channels) <= FREE_SHARE * free:
                break
            frames = _halve(frames, unit)
        for _ in range(self._halvings):
            frames = _halve(frames, unit)
        return frames

    def halve(self, channels: int) -> bool:
        """Halve the length for this song and those after it; return False if it is the least."""
        frames = self.frames(channels)
        if frames <= LEAST_FRAMES:
            return False
        self._halvings += 1
        logger.warning(
            f"out of memory on {self._device.type} in a chunk of {self._to_seconds(frames):.2f} s: "
            f"going on with chunks of {self._to_seconds(self.frames(channels)):.2f} s"
        )
        return True

    def describe_shortage(self, error: BaseException) -> str:
        """Return the reason of a song that does not fit in memory, with what to do, and the error."""
        reason = "out of device memory: end other programs on the device, or use --device cpu"
        if self._device.type == "cpu":
            reason = "out of memory: end other programs, or give this one more memory"
        first_line = str(error).partition("\n")[0]
        return f"{reason} ({first_line or type(error).__name__})"

    def _estimate_bytes(self, frames: int, channels: int) -> int:
        """Estimate the memory that a chunk takes beside the weights."""
        unit = self._generator.frames_at_a_time(channels, self._device)
        features = min(frames, unit or frames) * self._generator.trunk.features_per_frame
        bins = frames * self._generator.config.bins
        return channels * (features * BYTES_PER_FEATURE + bins * BYTES_PER_BIN)

    def _to_seconds(self, frames: int) -> float:
        return frames * self._generator.config.hop_samples / self._generator.config.sample_rate


def _halve(frames: int, unit: int | None) -> int:
    """Return half of a length, a multiple of what is computed at a time unless it is shorter."""
    half = max(frames // 2, min(frames, LEAST_FRAMES))
    return half if unit is None or half <= unit else half // unit * unit


def restore_chunks(
    restorer: StreamRestorer, blocks: Iterable[Tensor], channels: int, length: ChunkLength
) -> Iterator[tuple[Tensor, Tensor]]:
    """Restore a song; a chunk that does not fit in memory is restored again in halves.

    Args:
        restorer: Of the generator.
        blocks: The song, in blocks of any size, on the CPU.
        channels: Its channels.
        length: Length of the chunks.

    Yields:
        Samples of the song, and the restored samples that became final, on the CPU.

    Raises:
        MemoryError: not even the shortest chunk fits in memory.
    """
    device = restorer.generator.device
    hop = restorer.generator.config.hop_samples
    state = restorer.start(channels)
    for chunk in _cut(blocks, length.frames(channels) * hop):
        pending = list(chunk.split(length.frames(channels) * hop, 1))
        while pending:
            pushed = _push(restorer, state, pending[0].to(device))
            if pushed is None:
                if not length.halve(channels):
                    raise MemoryError("not even the shortest chunk fits in memory")
                _release(device)
                pending = [piece for one in pending for piece in one.split(length.frames(channels) * hop, 1)]
                continue
            restored, state = pushed
            yield pending.pop(0), restored
    rest = restorer.finish(state).float().cpu()
    yield rest[:, :0], rest


def _push(restorer: StreamRestorer, state: StreamState, chunk: Tensor) -> tuple[Tensor, StreamState] | None:
    """Restore a chunk; return None if it does not fit in memory, with what it allocated freed."""
    try:
        restored, state = restorer.push(state, chunk)
        return restored.float().cpu(), state
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise


def _cut(blocks: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """Cut blocks of any size into chunks of one size; the last may be shorter."""
    pending: list[Tensor] = []
    num_pending = 0
    for block in blocks:
        pending.append(block)
        num_pending += block.shape[1]
        if num_pending < samples:
            continue
        *chunks, rest = torch.cat(pending, 1).split(samples, 1)
        if rest.shape[1] == samples:
            chunks, rest = [*chunks, rest], rest[:, :0]
        yield from chunks
        pending, num_pending = [rest.clone()], rest.shape[1]
    if num_pending:
        yield torch.cat(pending, 1)


def _release(device: torch.device) -> None:
    """Return cached memory to the device, so that pieces of other sizes fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
