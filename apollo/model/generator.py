"""The generator: restores degraded samples.

Source: Li and Luo (2024), section II; decisions where the paper is silent: docs/model.md. The default
configuration computes the released network's outputs.

Only the time convolutions look across frames. `step` runs the whole network on a chunk of frames, with the
state of the chunk before; `forward` is one step over all frames, streaming is many.

Shape legend: samples [batch, samples] or [batch, channels, samples], float32; spectrum [batch, frames, bins],
complex64; features [batch, frames, bands, dim]. Channels are restored independently.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from apollo.model import stft
from apollo.model.bands import BandMerge, BandSplit
from apollo.model.config import GeneratorConfig
from apollo.model.layers import TIME_BLOCKS, BandAttention, TimeBlock

CHUNK_FEATURES = 1 << 20  # features per pass of the whole network on a CPU
SLICE_FEATURES = 1 << 18  # features per pass of layers without state on a CPU, to fit its cache


@dataclass(frozen=True)
class GeneratorState:
    """State carried from one chunk of frames to the next.

    Args:
        blocks: Last input frames of every time block, [batch, up to 6, bands, dim] each.
        spectrum: Input frames whose output is pending; None with output `direct`.
    """

    blocks: tuple[Tensor, ...]
    spectrum: Tensor | None


class BandSequence(nn.Module):
    """Band-sequence module: attention over bands, convolutions over time."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.bands = BandAttention(config.dim, config.heads, len(config.band_widths))
        self.time = nn.ModuleList(TimeBlock(config.dim, causal=config.causal) for _ in range(TIME_BLOCKS))


class Generator(nn.Module):
    """The restoring network.

    Args:
        config: Its shape.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        self.split = BandSplit(config.band_widths, config.dim)
        self.layers = nn.ModuleList(BandSequence(config) for _ in range(config.layers))
        self.merge = BandMerge(config.band_widths, config.dim)
        self.mix_bands: Callable[[BandAttention, Tensor], Tensor] = BandAttention.forward
        self.feed_forward: Callable[[TimeBlock, Tensor, Tensor], Tensor] = TimeBlock.feed_forward
        if config.output == "correction":
            for group in self.merge.groups:
                nn.init.zeros_(cast(Tensor, group.weight))
                nn.init.zeros_(cast(Tensor, group.bias))

    def forward(self, samples: Tensor) -> Tensor:
        """Restore samples of any length.

        For multiples of the hop, the output equals the published network's. Other lengths are padded with
        silence to the next multiple and trimmed: the window's weight is close to zero at their ends.

        Args:
            samples: [..., samples], float32 (or float64 in a float64 generator), at the config's sample rate.

        Returns:
            Restored samples of the same shape.

        Raises:
            ValueError: there are no samples.
        """
        if not samples.dim() or not samples.numel():
            raise ValueError(f"nothing to restore: the shape is {tuple(samples.shape)}")
        hop, length = self.config.hop_samples, samples.shape[-1]
        rows = nn.functional.pad(samples.reshape(-1, length), (0, padded_length(length, hop) - length))
        window = stft.hann_window(self.config.window_samples, rows)
        spectrum, _ = self.step(stft.analyze(stft.reflect_pad(rows, hop), window))
        first, second = stft.windowed_halves(spectrum, window)
        restored = stft.overlap_add(second[:, :-1], first[:, 1:], window)
        return restored[:, :length].reshape(samples.shape)

    @property
    def lookahead_frames(self) -> int:
        """Number of following frames that a frame depends on."""
        return sum(block.lookahead for block in self._time_blocks())

    @property
    def past_frames(self) -> int:
        """Number of preceding frames that a frame depends on."""
        return sum(block.past for block in self._time_blocks())

    def initial_state(self, spectrum: Tensor) -> GeneratorState:
        """Return the state before the first chunk, for a spectrum of this batch size, dtype and device."""
        bands, dim = len(self.config.band_widths), self.config.dim
        blocks = tuple(
            torch.zeros(
                spectrum.shape[0], block.past, bands, dim, dtype=spectrum.real.dtype, device=spectrum.device
            )
            for block in self._time_blocks()
        )
        return GeneratorState(blocks, spectrum[:, :0] if self.config.output == "correction" else None)

    def step(
        self, spectrum: Tensor, state: GeneratorState | None = None, *, final: bool = True
    ) -> tuple[Tensor, GeneratorState]:
        """Restore the next chunk of frames.

        Args:
            spectrum: [batch, frames, bins]; frames may be 0.
            state: State returned by the previous step; None before the first.
            final: Whether this is the last chunk: frames that wait for later ones are returned too.

        Returns:
            Restored frames [batch, frames, bins], and the state for the next step. Until the final step, the
            output lags by `lookahead_frames` frames.
        """
        state = self.initial_state(spectrum) if state is None else state
        restored = []
        chunks = spectrum.split(self._chunk_frames(spectrum), 1)
        for number, chunk in enumerate(chunks):
            last = final and number == len(chunks) - 1
            part, state = self._step(chunk, state, final=last)
            restored.append(part)
        return torch.cat(restored, 1) if len(restored) > 1 else restored[0], state

    def _chunk_frames(self, spectrum: Tensor) -> int:
        """Return the number of frames per pass: few on a CPU, to fit its cache."""
        batch, frames, _ = spectrum.shape
        if torch.is_grad_enabled() or spectrum.device.type != "cpu":
            return max(frames, 1)
        return max(CHUNK_FEATURES // (batch * len(self.config.band_widths) * self.config.dim), 1)

    def _step(self, spectrum: Tensor, state: GeneratorState, *, final: bool) -> tuple[Tensor, GeneratorState]:
        device = spectrum.device.type
        with torch.autocast(device, enabled=False):  # saves little time and costs accuracy
            features, blocks = self.split(spectrum), list(state.blocks)
        for number, block in enumerate(self._time_blocks()):
            if number % TIME_BLOCKS == 0:
                features = self._mix_bands(
                    cast(BandSequence, self.layers[number // TIME_BLOCKS]).bands, features
                )
            features, blocks[number] = self._mix_time(block, features, blocks[number], final)
        with torch.autocast(device, enabled=False):
            restored = self.merge(features)
        if state.spectrum is None:
            return restored, replace(state, blocks=tuple(blocks))
        waiting = torch.cat((state.spectrum, spectrum), 1)
        frames = restored.shape[1]
        return waiting[:, :frames] + restored, GeneratorState(tuple(blocks), waiting[:, frames:])

    def with_precision(self, dtype: torch.dtype) -> "Generator":
        """Return a copy in evaluation mode whose linear layers compute in `dtype`.

        Args:
            dtype: float32 or bfloat16. The residual stream, norms, convolutions and band split stay float32.
        """
        prepared = copy.deepcopy(self).eval()
        for module in prepared.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        return prepared

    def _time_blocks(self) -> list[TimeBlock]:
        return [cast(TimeBlock, block) for layer in self.layers for block in cast(BandSequence, layer).time]

    def _mix_bands(self, attention: BandAttention, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.mix_bands(attention, x.flatten(0, 1)).view_as(x)
        for frames in _slices(x):
            mixed = self.mix_bands(attention, x[:, frames].flatten(0, 1))
            x[:, frames] = mixed.unflatten(0, (len(x), -1))
        return x

    def _mix_time(self, block: TimeBlock, x: Tensor, past: Tensor, final: bool) -> tuple[Tensor, Tensor]:
        """Run one time block on a chunk; return its output and the input frames to carry over."""
        future = x.new_zeros(x.shape[0], block.lookahead if final else 0, *x.shape[2:])
        x = torch.cat((past, x, future), 1)
        frames = x.shape[1] - block.past - block.lookahead
        if frames <= 0:
            return x[:, :0], x
        residual, carried = x[:, block.past : block.past + frames], x[:, frames:].clone()
        mixed = block.convolve(x)
        if torch.is_grad_enabled():
            return self.feed_forward(block, residual, mixed), carried
        for part in _slices(residual):
            residual[:, part] = self.feed_forward(block, residual[:, part], mixed[:, part])
        return residual, carried


def _slices(x: Tensor) -> list[slice]:
    """Return slices of the frames of x [batch, frames, bands, dim] that fit a CPU's cache; all on a GPU."""
    batch, frames, bands, dim = x.shape
    size = max(SLICE_FEATURES // (batch * bands * dim), 1) if x.device.type == "cpu" else max(frames, 1)
    return [slice(begin, begin + size) for begin in range(0, frames, size)]


def padded_length(samples: int, hop: int) -> int:
    """Return the next multiple of the hop, at least two hops: there, the transform is exact."""
    return max(2, -(-samples // hop)) * hop
