"""Apollo's generator: from degraded samples to restored ones.

Source: Li and Luo (2024), section II; decisions where the paper is silent: docs/model.md. The default is the
released network and computes its numbers.

Only the convolutions look across frames, so a chunk of frames can be computed with what the chunk before left
behind: `step` is the whole network on a chunk, `forward` is one step over everything, and streaming is
many.

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

CHUNK_FEATURES = 1 << 20  # what the whole network takes at a time on a CPU
SLICE_FEATURES = 1 << 18  # what parts without memory take at a time on a CPU, so that it stays in the cache


@dataclass(frozen=True)
class GeneratorState:
    """What a chunk of frames leaves behind for the next.

    Args:
        blocks: The last inputs of every time block, [batch, up to 6, bands, dim] each.
        spectrum: Input frames whose correction is still to come; None in direct output.
    """

    blocks: tuple[Tensor, ...]
    spectrum: Tensor | None


class BandSequence(nn.Module):
    """One band-sequence module: attention over bands, convolutions over time."""

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

        Lengths that are multiples of the hop equal the published network's; others are padded with silence to
        the next multiple and trimmed, because the inverse transform has next to no weight at their ends.

        Args:
            samples: [..., samples], float32 (or float64 in a float64 generator), at the config's sample rate.

        Returns:
            The same shape.

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
        """Frames after a frame that it depends on."""
        return sum(block.lookahead for block in self._time_blocks())

    @property
    def past_frames(self) -> int:
        """Frames before a frame that it depends on."""
        return sum(block.past for block in self._time_blocks())

    def initial_state(self, spectrum: Tensor) -> GeneratorState:
        """Give the state before a first chunk that is like `spectrum`."""
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
            state: What the last step gave; None before the first.
            final: Whether no frames follow, so that those waiting for later ones are given too.

        Returns:
            Restored frames [batch, frames, bins], and the state for the next step. Without `final`, the
            first steps give `lookahead_frames` fewer frames in all than they take.
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
        """Give how many frames are computed at a time; few on a CPU, so that they stay in its cache."""
        batch, frames, _ = spectrum.shape
        if torch.is_grad_enabled() or spectrum.device.type != "cpu":
            return max(frames, 1)
        return max(CHUNK_FEATURES // (batch * len(self.config.band_widths) * self.config.dim), 1)

    def _step(self, spectrum: Tensor, state: GeneratorState, *, final: bool) -> tuple[Tensor, GeneratorState]:
        device = spectrum.device.type
        with torch.autocast(device, enabled=False):  # what it would save is little, what it would cost is not
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
        """Give a copy whose linear layers compute in `dtype`, in evaluation mode.

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
        """Take one time block over a chunk; gives the block's output and what it leaves behind."""
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
    """Cut the frames of [batch, frames, bands, dim] into what stays in a CPU's cache; a GPU takes all."""
    batch, frames, bands, dim = x.shape
    size = max(SLICE_FEATURES // (batch * bands * dim), 1) if x.device.type == "cpu" else max(frames, 1)
    return [slice(begin, begin + size) for begin in range(0, frames, size)]


def padded_length(samples: int, hop: int) -> int:
    """Give the length at which the transform is exact: a multiple of the hop, at least two hops."""
    return max(2, -(-samples // hop)) * hop
