"""The trunk of the paper: band split, band-sequence modules, band reconstruction.

Source: Li and Luo (2024), section II-A to II-C.

Shape legend: spectrum [batch, frames, bins], complex64; features [batch, frames, bands, dim].
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from apollo.model.bands import BandMerge, BandSplit
from apollo.model.config import INITIAL_LOG_GAIN, GeneratorConfig
from apollo.model.layers import TIME_BLOCKS, BandAttention, TimeBlock

SLICE_FEATURES = 1 << 18  # what parts without memory take at a time on a CPU, so that it stays in the cache


class BandSequence(nn.Module):
    """One band-sequence module: attention over bands, convolutions over time."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.bands = BandAttention(config.dim, config.heads, len(config.band_widths))
        self.time = nn.ModuleList(TimeBlock(config.dim, causal=config.causal) for _ in range(TIME_BLOCKS))


class BandSequenceTrunk(nn.Module):
    """Predict one complex value a bin from a spectrum, and a real one where the output needs it.

    Args:
        config: Shape of the generator.
    """

    normalizes_level = has_noise = False

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.split = BandSplit(config.band_widths, config.dim)
        self.layers = nn.ModuleList(BandSequence(config) for _ in range(config.layers))
        self.merge = BandMerge(config.band_widths, config.dim)
        self.gains: BandMerge | None = None
        self.gain_offset = INITIAL_LOG_GAIN if config.output == "mask_and_noise" else 0.0
        if config.predicts_real:
            self.gains = BandMerge(config.band_widths, config.dim)
        if self.gains is not None and config.output == "mask_and_noise":
            for group in self.gains.groups:
                nn.init.normal_(cast(Tensor, group.weight), std=0.02)
        elif self.gains is not None:
            _set_zero(self.gains)
        if config.output != "direct":
            _set_zero(self.merge)
        self.mix_bands: Callable[[BandAttention, Tensor], Tensor] = BandAttention.forward
        self.feed_forward: Callable[[TimeBlock, Tensor, Tensor], Tensor] = TimeBlock.feed_forward

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that it depends on."""
        return sum(block.lookahead for block in self.time_blocks())

    @property
    def past_frames(self) -> int:
        """Frames before a frame that it depends on."""
        return sum(block.past for block in self.time_blocks())

    @property
    def features_per_frame(self) -> int:
        """Numbers that a frame takes in a layer."""
        return len(self.config.band_widths) * self.config.dim

    def initial_state(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first chunk: the inputs of every time block before it, zeros."""
        bands, dim = len(self.config.band_widths), self.config.dim
        like = spectrum.real
        return tuple(like.new_zeros(len(spectrum), block.past, bands, dim) for block in self.time_blocks())

    def forward(
        self, spectrum: Tensor, state: tuple[Tensor, ...], *, final: bool, **_: object
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames; see `Trunk`."""
        device, blocks = spectrum.device.type, list(state)
        with torch.autocast(device, enabled=False):  # bfloat16 would save little time here and cost accuracy
            features = self.split(spectrum)
        for number, block in enumerate(self.time_blocks()):
            if number % TIME_BLOCKS == 0:
                layer = cast(BandSequence, self.layers[number // TIME_BLOCKS])
                features = self._mix_bands(layer.bands, features)
            features, blocks[number] = self._mix_time(block, features, blocks[number], final)
        with torch.autocast(device, enabled=False):
            gains = None if self.gains is None else self.gains(features).real + self.gain_offset
            return self.merge(features), gains, tuple(blocks)

    def time_blocks(self) -> list[TimeBlock]:
        """Return the time blocks of all layers, in order."""
        return [cast(TimeBlock, block) for layer in self.layers for block in cast(BandSequence, layer).time]

    def _mix_bands(self, attention: BandAttention, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.mix_bands(attention, x.flatten(0, 1)).view_as(x)
        for frames in _slices(x):
            mixed = self.mix_bands(attention, x[:, frames].flatten(0, 1))
            x[:, frames] = mixed.unflatten(0, (len(x), -1))
        return x

    def _mix_time(self, block: TimeBlock, x: Tensor, past: Tensor, final: bool) -> tuple[Tensor, Tensor]:
        """Apply one time block to a chunk; return its output and the inputs that the next chunk needs."""
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


def _set_zero(merge: BandMerge) -> None:
    """Let the layers return zero, until they are trained."""
    for group in merge.groups:
        nn.init.zeros_(cast(Tensor, group.weight))
        nn.init.zeros_(cast(Tensor, group.bias))
