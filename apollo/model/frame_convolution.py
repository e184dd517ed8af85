"""A trunk of convolutions over frames: small, and many times faster than the band-sequence trunk.

Every frame is one vector: the log powers of its bins go through a linear layer, a stack of ConvNeXt blocks
(Liu et al., 2022) along time, and linear heads. Its input has been divided by its own level
(`apollo.model.level`), so what it computes does not depend on the level of the signal.

Shape legend: spectrum [batch, frames, bins], complex64; features [batch, frames, dim].
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apollo.model.config import INITIAL_LOG_GAIN, GeneratorConfig

KERNEL_FRAMES = 7
LAYER_SCALE = 0.3
POWER_FLOOR = 1e-8  # of a bin relative to the level of its frame: -80 dB
LOG_CENTRE, LOG_SCALE = -8.0, 4.0  # brings log powers of music to about zero mean and unit variance


class Float32Linear(nn.Linear):
    """A linear layer that stays float32 where the others compute in bfloat16."""


class FrameBlock(nn.Module):
    """Depthwise convolution over frames, norm, and a pointwise network, added to the input.

    Args:
        dim: Feature dimension.
        expansion: Width of the pointwise network's hidden layer, in `dim`.
        causal: Whether a frame sees no later one.
    """

    def __init__(self, dim: int, expansion: int, *, causal: bool) -> None:
        super().__init__()
        self.lookahead = 0 if causal else KERNEL_FRAMES // 2
        self.past = KERNEL_FRAMES - 1 - self.lookahead
        self.depthwise = nn.Conv1d(dim, dim, KERNEL_FRAMES, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.contract = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor, past: Tensor, *, final: bool) -> tuple[Tensor, Tensor]:
        """Map the next frames [batch, frames, dim]; return the output and inputs for the next chunk."""
        future = x.new_zeros(x.shape[0], self.lookahead if final else 0, x.shape[2])
        x = torch.cat((past, x, future), 1)
        frames = x.shape[1] - self.past - self.lookahead
        if frames <= 0:
            return x[:, :0], x
        taps = self.depthwise.weight[:, 0].t()  # [kernel, dim]; faster than a grouped Conv1d
        mixed = torch.addcmul(cast(Tensor, self.depthwise.bias), x[:, :frames], taps[0])
        for tap in range(1, KERNEL_FRAMES):
            mixed = torch.addcmul(mixed, x[:, tap : tap + frames], taps[tap])
        hidden = F.gelu(self.expand(self.norm(mixed).to(self.expand.weight.dtype)))
        output = torch.addcmul(
            x[:, self.past : self.past + frames], self.contract(hidden).to(x.dtype), self.scale
        )
        return output, x[:, frames:].clone()


def make_heads(config: GeneratorConfig) -> tuple[Float32Linear, Float32Linear | None]:
    """Create the layers from features to two numbers a bin, real parts first, and to one where needed."""
    merge, gains = Float32Linear(config.dim, 2 * config.bins), None
    if config.predicts_real:
        gains = Float32Linear(config.dim, config.bins)
        nn.init.normal_(gains.weight, std=0.02)
        nn.init.constant_(gains.bias, INITIAL_LOG_GAIN)
    if gains is not None and config.output != "mask_and_noise":
        nn.init.zeros_(gains.weight)
        nn.init.zeros_(gains.bias)
    if config.output != "direct":
        nn.init.zeros_(merge.weight)
        nn.init.zeros_(merge.bias)
    return merge, gains


class FrameBlockTrunk(nn.Module):
    """What trunks share that are a stack of residual blocks along time, each with its past inputs as state.

    Subclasses set `blocks`, whose members have `lookahead` and `past` in frames and are called as
    `FrameBlock` is.

    Args:
        config: Shape of the generator.
    """

    blocks: nn.ModuleList

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that it depends on."""
        return sum(cast(FrameBlock, block).lookahead for block in self.blocks)

    @property
    def past_frames(self) -> int:
        """Frames before a frame that it depends on."""
        return sum(cast(FrameBlock, block).past for block in self.blocks)

    def initial_state(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first chunk: the inputs of every block before it, zeros."""
        like, dim = spectrum.real, self.config.dim
        return tuple(
            like.new_zeros(len(spectrum), cast(FrameBlock, block).past, dim) for block in self.blocks
        )

    def apply_blocks(
        self, x: Tensor, state: tuple[Tensor, ...], *, final: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map the next frames [batch, frames, dim] by all blocks; return the output and the next state."""
        blocks = list(state)
        for number, block in enumerate(self.blocks):
            x, blocks[number] = block(x, blocks[number], final=final)
        return x, tuple(blocks)


class FrameConvolutionTrunk(FrameBlockTrunk):
    """Predict one complex value a bin from a level-normalized spectrum, and a real one where needed.

    Args:
        config: Shape of the generator.
    """

    normalizes_level, has_noise = True, False

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.input = Float32Linear(config.bins, config.dim)
        self.blocks = nn.ModuleList(
            FrameBlock(config.dim, config.expansion, causal=config.causal) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.merge, self.gains = make_heads(config)

    @property
    def features_per_frame(self) -> int:
        """Numbers that a frame takes in a layer."""
        return max(self.config.expansion * self.config.dim, 2 * self.config.bins)

    def forward(
        self, spectrum: Tensor, state: tuple[Tensor, ...], *, final: bool, **_: object
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames; see `Trunk`."""
        with torch.autocast(spectrum.device.type, enabled=False):
            power = spectrum.real.square() + spectrum.imag.square()
            x = self.input(((power + POWER_FLOOR).log() - LOG_CENTRE) / LOG_SCALE)
        x, state = self.apply_blocks(x, state, final=final)
        with torch.autocast(spectrum.device.type, enabled=False):
            x = self.norm(x)
            gains = None if self.gains is None else self.gains(x)
            real, imaginary = self.merge(x).chunk(2, -1)
            return torch.complex(real, imaginary), gains, state
