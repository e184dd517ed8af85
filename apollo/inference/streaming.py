"""Restoring samples as they come, exactly as the generator restores the whole.

A sample is given as soon as it is final: `latency_samples` after it came. That is 20 ms with a causal
generator (its window) and 0.56 s with the released one (its reach to later frames as well). Between calls
everything is in a state that the caller holds, so streams can be kept, copied, dropped and started again.

Shape legend: samples [batch, samples]: rows are channels, or channels of several streams, which keep in step.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apollo.model import stft
from apollo.model.generator import Generator, GeneratorState, padded_length


@dataclass(frozen=True)
class StreamState:
    """What a stream knows of its past.

    Args:
        buffer: Samples that later frames need; after the start preceded by one that the reflection at the end
            may need, and including the reflection at the start.
        reflected: Whether the reflection at the start is in the buffer.
        generator_state: The generator's, None before the first frame.
        tail: Second half of the last restored frame, [batch, 0 or 1, hop].
        received: Samples taken so far.
        returned: Samples given back so far.
    """

    buffer: Tensor
    reflected: bool
    generator_state: GeneratorState | None
    tail: Tensor
    received: int
    returned: int


class StreamRestorer:
    """Restores streams; holds nothing between calls.

    Args:
        generator: Causal for 20 ms of latency; any other streams as exactly, later.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._hop = generator.config.hop_samples

    @property
    def latency_samples(self) -> int:
        """The most samples that come in after a sample before it is given back."""
        return self.generator.config.window_samples + self.generator.lookahead_frames * self._hop

    def start(self, batch: int) -> StreamState:
        """Begin `batch` streams in step."""
        like = next(
            self.generator.merge.parameters()
        )  # float32 or float64, whatever the linear layers compute in
        return StreamState(like.new_empty(batch, 0), False, None, like.new_empty(batch, 0, self._hop), 0, 0)

    @torch.no_grad()
    def push(self, state: StreamState, samples: Tensor) -> tuple[Tensor, StreamState]:
        """Take samples and give what became final.

        Args:
            state: The last one given.
            samples: [batch, samples], any number of them, on the generator's device.

        Returns:
            Restored samples [batch, restored], in order, possibly none; and the next state.

        Raises:
            ValueError: the batch is not the state's, or the samples are no floating-point numbers.
        """
        return self._push(state, samples)

    @torch.no_grad()
    def finish(self, state: StreamState) -> Tensor:
        """Give what is left, [batch, restored], so that as many samples were given as came."""
        return self._finish(state)

    def _push(self, state: StreamState, samples: Tensor) -> tuple[Tensor, StreamState]:
        if samples.dim() != 2 or len(samples) != len(state.buffer):
            raise ValueError(
                f"the state has {len(state.buffer)} rows, samples have shape {tuple(samples.shape)}"
            )
        if not samples.is_floating_point():
            raise ValueError(
                f"samples are {samples.dtype}: convert them to floating point, full scale being 1"
            )
        buffer = torch.cat((state.buffer, samples.to(state.buffer)), 1)
        state = replace(state, buffer=buffer, received=state.received + samples.shape[1])
        return self._advance(state, final=False)

    def _finish(self, state: StreamState) -> Tensor:
        if not state.received:
            return state.buffer
        silence = padded_length(state.received, self._hop) - state.received
        state = self._add_reflection(
            replace(state, buffer=torch.nn.functional.pad(state.buffer, (0, silence)))
        )
        end = state.buffer[:, -1 - self._hop : -1].flip(1)
        restored, _ = self._advance(replace(state, buffer=torch.cat((state.buffer, end), 1)), final=True)
        return restored[:, : state.received - state.returned]

    def _add_reflection(self, state: StreamState) -> StreamState:
        """Put the reflection before the first samples, once enough of them are there."""
        if state.reflected or state.buffer.shape[1] <= self._hop:
            return state
        reflection = state.buffer[:, 1 : self._hop + 1].flip(1)
        one_more = state.buffer[:, :1]
        return replace(state, buffer=torch.cat((one_more, reflection, state.buffer), 1), reflected=True)

    def _advance(self, state: StreamState, *, final: bool) -> tuple[Tensor, StreamState]:
        """Restore all frames that the buffer holds."""
        state = self._add_reflection(state)
        frames = max((state.buffer.shape[1] - 1) // self._hop - 1, 0) if state.reflected else 0
        if not frames:
            return state.buffer[:, :0], state
        window = stft.hann_window(self.generator.config.window_samples, state.buffer)
        spectrum = stft.analyze(state.buffer[:, 1 : 1 + (frames + 1) * self._hop], window)
        restored, generator_state = self.generator.step(spectrum, state.generator_state, final=final)
        first, second = stft.windowed_halves(restored, window)
        if not state.returned and not state.tail.shape[1]:
            first = first[:, 1:]  # what frame 0 says of the time before the first sample
        second = torch.cat((state.tail, second), 1)
        hops = first.shape[1]
        samples = stft.overlap_add(second[:, :hops], first, window)
        return samples, replace(
            state,
            buffer=state.buffer[:, frames * self._hop :].clone(),
            generator_state=generator_state,
            tail=second[:, hops:].clone(),
            returned=state.returned + samples.shape[1],
        )
