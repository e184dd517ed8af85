"""A trunk of dilated gated convolutions over frames, whose channels are all bins: our reading of SR-GAN.

Source: Lattner and Nistal (2021), "Stochastic Restoration of Heavily Compressed Musical Audio using
Generative Adversarial Networks", Electronics 10, 1349; written from its abstract and a description of the
network, without the full text. Decisions where these are silent: docs/model.md.

Real and imaginary parts of all bins of a frame, their signed square roots taken, are one vector ("frequency
aggregation"). A stack of residual blocks convolves them along time. A vector of noise for each frame makes
the output stochastic. Its input has been divided by its own level (`apollo.model.level`).

Shape legend: spectrum [batch, frames, bins], complex64; features [batch, frames, dim].
"""

import torch
from torch import Tensor, nn

from apollo.model.config import GeneratorConfig
from apollo.model.frame_convolution import Float32Linear, FrameBlockTrunk, make_heads
from apollo.model.noise import NoiseOptions, white_noise

KERNEL_FRAMES = 3
DILATIONS = (1, 2, 4, 8, 16)  # frames, block after block, and again from the first
NOISE_FEATURES = 64
_NOISE_CHANNEL = 2  # its own noise: 0 and 1 are those of left and right
_ROOT_FLOOR = 1e-4  # of a part relative to the level, -80 dB: keeps the gradient of the root finite at zero
_INITIAL_ROOT = 0.1  # of corrections: at zero, the square would have no gradient


def signed_root(spectrum: Tensor) -> Tensor:
    """Return signed square roots of real parts, then of imaginary parts: [..., bins] to [..., 2 * bins]."""
    parts = torch.cat((spectrum.real, spectrum.imag), -1)
    return parts / (parts.abs() + _ROOT_FLOOR).sqrt()


def signed_square(parts: Tensor) -> Tensor:
    """Return the complex numbers whose parts have given signed square roots."""
    real, imaginary = (parts * parts.abs()).chunk(2, -1)
    return torch.complex(real, imaginary)


class GatedBlock(nn.Module):
    """Norm, dilated convolution over frames, gate and pointwise layer, added to the input.

    Args:
        dim: Feature dimension.
        dilation: Frames between the frames of the kernel.
        causal: Whether a frame sees no later one.
    """

    def __init__(self, dim: int, dilation: int, *, causal: bool) -> None:
        super().__init__()
        reach = (KERNEL_FRAMES - 1) * dilation
        self.dilation, self.lookahead = dilation, 0 if causal else reach // 2
        self.past = reach - self.lookahead
        self.norm = nn.LayerNorm(dim)
        self.convolve = nn.Linear(KERNEL_FRAMES * dim, 2 * dim)  # of the frames of the kernel side by side
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, past: Tensor, *, final: bool) -> tuple[Tensor, Tensor]:
        """Map the next frames [batch, frames, dim]; return the output and inputs for the next chunk."""
        future = x.new_zeros(x.shape[0], self.lookahead if final else 0, x.shape[2])
        x = torch.cat((past, x, future), 1)
        frames = x.shape[1] - self.past - self.lookahead
        if frames <= 0:
            return x[:, :0], x
        normalized = self.norm(x).to(self.convolve.weight.dtype)
        taps = [normalized[:, tap * self.dilation :][:, :frames] for tap in range(KERNEL_FRAMES)]
        values, gates = self.convolve(torch.cat(taps, -1)).chunk(2, -1)
        residual = x[:, self.past : self.past + frames]
        return residual + self.output(values * gates.sigmoid()).to(x.dtype), x[:, frames:].clone()


def make_blocks(dim: int, layers: int, *, causal: bool) -> nn.ModuleList:
    """Create residual blocks with the dilations of this module."""
    return nn.ModuleList(
        GatedBlock(dim, DILATIONS[layer % len(DILATIONS)], causal=causal) for layer in range(layers)
    )


class GatedConvolutionTrunk(FrameBlockTrunk):
    """Predict one complex value a bin from a level-normalized spectrum and noise, and a real one if needed.

    Args:
        config: Shape of the generator.
    """

    normalizes_level = has_noise = True

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        self.input = Float32Linear(2 * config.bins, config.dim)
        self.noise = Float32Linear(NOISE_FEATURES, config.dim, bias=False)
        self.blocks = make_blocks(config.dim, config.layers, causal=config.causal)
        self.norm = nn.LayerNorm(config.dim)
        self.merge, self.gains = make_heads(config)
        if config.output != "direct":
            nn.init.normal_(self.merge.weight, std=_INITIAL_ROOT * config.dim**-0.5)

    @property
    def features_per_frame(self) -> int:
        """Numbers that a frame takes in a layer."""
        return max(KERNEL_FRAMES * self.config.dim, 2 * self.config.bins)

    def forward(
        self,
        spectrum: Tensor,
        state: tuple[Tensor, ...],
        *,
        final: bool,
        noise: NoiseOptions,
        first_frame: int,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames; see `Trunk`. All rows of a batch take the same noise."""
        with torch.autocast(spectrum.device.type, enabled=False):
            x = self.input(signed_root(spectrum)) + self.noise(
                _noise_vectors(noise, first_frame, spectrum.shape[1]).to(spectrum.real)
            )
        x, state = self.apply_blocks(x, state, final=final)
        with torch.autocast(spectrum.device.type, enabled=False):
            x = self.norm(x)
            gains = None if self.gains is None else self.gains(x)
            return signed_square(self.merge(x)), gains, state


def _noise_vectors(noise: NoiseOptions, first_frame: int, frames: int) -> Tensor:
    """Draw the vectors of frames, [frames, NOISE_FEATURES], as a function of the seed and their indices."""
    start, count = first_frame * NOISE_FEATURES, frames * NOISE_FEATURES
    strength = 1.0 if noise.strength is None else noise.strength
    return strength * white_noise(noise.seed, _NOISE_CHANNEL, start, count).view(frames, NOISE_FEATURES)
