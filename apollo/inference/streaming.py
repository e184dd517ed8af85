"""Restore a stream of samples, with the result of restoring the whole.

A sample is returned as soon as it is final, at most `latency_samples` after it was received: 20 ms with a
causal generator (its window), 0.56 s with the released one (its window and look-ahead). The caller holds the
state between calls, so streams can be saved, copied and restarted.

Shape legend: samples [batch, samples]; rows are channels, of one stream or of several synchronous ones.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from apollo.inference.crossover import Crossover, CrossoverState
from apollo.model import stft
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator, padded_length
from apollo.model.generator_state import GeneratorState
from apollo.model.noise import NoiseOptions
from apollo.model.trunk import Trunk


class StreamableGenerator(Protocol):
    """What streams need to know of a generator, whatever runs it."""

    config: GeneratorConfig
    trunk: Trunk

    @property
    def device(self) -> torch.device:
        """Where it takes and returns samples."""

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that it depends on."""

    def frames_at_a_time(self, rows: int, device: torch.device) -> int | None:
        """Return how many frames are computed at a time; None if all are."""


@dataclass(frozen=True)
class StreamState:
    """State of a stream between calls.

    Args:
        buffer: Samples that later frames need, [batch, samples]: with the padding at the start, and one
            preceding sample that the padding at the end may need.
        reflected: Whether the buffer has the reflection padding of the start.
        generator_state: State of the generator, None before the first frame.
        tail: Second half of the last restored frame, [batch, 0 or 1, hop].
        received: Number of samples received.
        returned: Number of samples restored; all of them were returned, unless a cross-over delays the last.
        crossover: State of the cross-over, None without one.
    """

    buffer: Tensor
    reflected: bool
    generator_state: GeneratorState | None
    tail: Tensor
    received: int
    returned: int
    crossover: CrossoverState | None = None


class BaseStreamRestorer(ABC):
    """Restores streams, with a generator that a subclass runs; holds no state itself.

    Args:
        generator: What restores.
        noise: Strength and seed of the noise, and how many consecutive rows are the channels of one item.
        keep_below_hz: Frequency below which the input is kept; None keeps nothing of it.

    Raises:
        ValueError: keep_below_hz is not between 0 and half the generator's sample rate.
    """

    def __init__(
        self,
        generator: StreamableGenerator,
        noise: NoiseOptions | None = None,
        *,
        keep_below_hz: float | None = None,
    ) -> None:
        self.generator, self.noise = generator, noise or NoiseOptions()
        self._hop = generator.config.hop_samples
        rate = generator.config.sample_rate
        self._crossover = None if keep_below_hz is None else Crossover(keep_below_hz, rate)

    @property
    def latency_samples(self) -> int:
        """Maximum number of samples received after a sample before it is returned."""
        delay = 0 if self._crossover is None else self._crossover.delay_samples
        return self.generator.config.window_samples + self.generator.lookahead_frames * self._hop + delay

    @abstractmethod
    def start(self, batch: int) -> StreamState:
        """Return the initial state of `batch` rows."""

    @torch.no_grad()
    def push(self, state: StreamState, samples: Tensor) -> tuple[Tensor, StreamState]:
        """Process samples and return those that became final.

        Args:
            state: State returned by the previous call.
            samples: [batch, samples], any number, on the generator's device.

        Returns:
            Restored samples [batch, restored], in order, possibly none; and the next state.

        Raises:
            ValueError: the batch size is not the state's, or the samples are not floating-point.
        """
        return self._push(state, samples)

    @torch.no_grad()
    def finish(self, state: StreamState) -> Tensor:
        """Return the remaining restored samples, [batch, restored]: then as many as were received."""
        return self._finish(state)

    def _push(self, state: StreamState, samples: Tensor) -> tuple[Tensor, StreamState]:
        if samples.dim() != 2 or len(samples) != len(state.buffer):
            raise ValueError(
                f"the state has {len(state.buffer)} rows, samples have shape {tuple(samples.shape)}"
            )
        if not samples.is_floating_point():
            raise ValueError(f"samples are {samples.dtype}: convert them to floating point with full scale 1")
        samples = samples.to(state.buffer)
        buffer = torch.cat((state.buffer, samples), 1)
        state = replace(state, buffer=buffer, received=state.received + samples.shape[1])
        restored, state = self._advance(state, final=False)
        if self._crossover is None or state.crossover is None:
            return restored, state
        output, crossover = self._crossover.push(state.crossover, samples, restored)
        return output, replace(state, crossover=crossover)

    def _finish(self, state: StreamState) -> Tensor:
        if not state.received:
            return state.buffer
        silence = padded_length(state.received, self._hop) - state.received
        state = self._add_reflection(
            replace(state, buffer=torch.nn.functional.pad(state.buffer, (0, silence)))
        )
        end = state.buffer[:, -1 - self._hop : -1].flip(1)
        restored, _ = self._advance(replace(state, buffer=torch.cat((state.buffer, end), 1)), final=True)
        restored = restored[:, : state.received - state.returned]
        if self._crossover is None or state.crossover is None:
            return restored
        return self._crossover.finish(state.crossover, restored)

    def _add_reflection(self, state: StreamState) -> StreamState:
        """Add the reflection padding of the start, once there are enough samples."""
        if state.reflected or state.buffer.shape[1] <= self._hop:
            return state
        reflection = state.buffer[:, 1 : self._hop + 1].flip(1)
        one_more = state.buffer[:, :1]
        return replace(state, buffer=torch.cat((one_more, reflection, state.buffer), 1), reflected=True)

    def _advance(self, state: StreamState, *, final: bool) -> tuple[Tensor, StreamState]:
        """Restore all complete frames in the buffer."""
        state = self._add_reflection(state)
        frames = max((state.buffer.shape[1] - 1) // self._hop - 1, 0) if state.reflected else 0
        if not frames:
            return state.tail[:, :0].flatten(1), state
        samples, after = self._restore(state, state.buffer[:, 1 : 1 + (frames + 1) * self._hop], final)
        return samples, replace(
            after,
            buffer=state.buffer[:, frames * self._hop :].clone(),
            returned=state.returned + samples.shape[1],
        )

    @abstractmethod
    def _restore(self, state: StreamState, samples: Tensor, final: bool) -> tuple[Tensor, StreamState]:
        """Restore the next frames.

        Args:
            state: Of the stream.
            samples: [batch, (frames + 1) * hop], of these frames; the first hop was the last one before.
            final: Whether no frames follow.

        Returns:
            The samples that became final, and the state with what the frames after these need.
        """


class StreamRestorer(BaseStreamRestorer):
    """Restores streams with a generator in torch; holds no state itself.

    Args:
        generator: Any generator; a causal one for 20 ms of latency.
        noise: Strength and seed of the noise, and how many consecutive rows are the channels of one item.
        keep_below_hz: Frequency below which the input is kept; None keeps nothing of it.
    """

    generator: Generator

    def start(self, batch: int) -> StreamState:
        """Return the initial state of `batch` rows."""
        like = self.generator.empty
        none = like.new_empty(batch, 0)
        crossover = None if self._crossover is None else self._crossover.start(none)
        rows = 2 * batch if self.noise.separate else batch
        return StreamState(none, False, None, like.new_empty(rows, 0, self._hop), 0, 0, crossover)

    def _restore(self, state: StreamState, samples: Tensor, final: bool) -> tuple[Tensor, StreamState]:
        window = stft.hann_window(self.generator.config.window_samples, samples)
        spectrum, generator_state = self.generator.step(
            stft.analyze(samples, window), state.generator_state, final=final, noise=self.noise
        )
        first, second = stft.windowed_halves(spectrum, window)
        if not state.returned and not state.tail.shape[1]:
            first = first[:, 1:]  # the half of frame 0 before the first sample
        second = torch.cat((state.tail, second), 1)
        hops = first.shape[1]
        restored = stft.overlap_add(second[:, :hops], first, window)
        return restored, replace(state, generator_state=generator_state, tail=second[:, hops:].clone())
