"""A critic of the kind of SR-GAN's generator: all bins of a frame as channels, dilated gated blocks.

Source: Lattner and Nistal (2021); decisions where the publication is silent: docs/model.md.

Shape legend: spectrum [batch, channels, bins, frames], complex; parts [batch, frames, parts], float32.
"""

import torch
from torch import Tensor, nn

from apollo.model.config import DiscriminatorConfig
from apollo.model.gated_convolution import make_blocks, signed_root


class GatedCritic(nn.Module):
    """Score every frame of a signal, beside the degraded one that it was restored from.

    Args:
        window_samples: Length of the window.
        config: Channels, dimension and layers.
    """

    def __init__(self, window_samples: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.window_samples = window_samples
        self.scale = float(torch.hann_window(window_samples).square().sum().rsqrt())
        parts = 2 * (window_samples // 2 + 1) * config.channels
        self.input = nn.Linear(2 * parts, config.dim)
        self.blocks = make_blocks(config.dim, config.layers, causal=False)
        self.norm = nn.LayerNorm(config.dim)
        self.last = nn.Linear(config.dim, 1)

    def prepare(self, spectrum: Tensor, scale: Tensor) -> Tensor:
        """Return the signed roots of all parts of a spectrum after multiplying it by scale [batch]."""
        scaled = spectrum * (scale * self.scale)[:, None, None, None]
        return signed_root(scaled.transpose(2, 3)).transpose(1, 2).flatten(2)

    def judge(self, parts: Tensor, condition: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [batch, frames, 1] and the outputs of all blocks [batch, frames, dim]."""
        x = self.input(torch.cat((parts, condition), -1)).float()
        features = []
        for block in self.blocks:
            past = x.new_zeros(len(x), int(block.past), x.shape[2])  # type: ignore[arg-type]
            x, _ = block(x, past, final=True)
            features.append(x)
        return self.last(self.norm(x)), features
