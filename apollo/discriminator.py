"""The multi-frequency discriminator: one small convolutional network a STFT window.

Source: Li and Luo (2024), section II-D and Table I. Seven windows, as the table lists and the released
network has (the text says five). The last convolution has no spectral norm, as in the released network.

Shape legend: samples [batch, channels, samples], float32; logits [batch, 1, bins', frames'], features
[batch, features, bins', frames'].
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (8, 16, 32, 64, 128, 256)  # Table I
_STRIDES = (1, 2, 1, 2, 1, 2)
_SLOPE = 0.2
_FLOOR = 1e-8


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Shape of a discriminator.

    Args:
        channels: Channels of the audio, judged together.
        windows: STFT windows in samples; the hop is half of each.
        norm: `l2`: every example is brought to unit energy, as published. `rms`: to unit RMS, with transforms
            divided by the root of their window's energy, so that what the network sees does not fade with
            length.
    """

    channels: int = 2
    windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    norm: str = "l2"

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ValueError: a field is out of its range.
        """
        object.__setattr__(self, "windows", tuple(self.windows))
        if self.norm not in ("l2", "rms"):
            raise ValueError(f"norm is {self.norm!r}: it must be 'l2' or 'rms'")
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}: it must be at least 1")
        if not self.windows or any(window < 4 or window % 2 for window in self.windows):
            raise ValueError(f"windows is {self.windows}: it needs even numbers of at least 4 samples")


class Judgement(NamedTuple):
    """What one window's network says: logits, and the features of its layers for feature matching."""

    logits: Tensor
    features: list[Tensor]


class WindowDiscriminator(nn.Module):
    """The network of one STFT window."""

    window: Tensor

    def __init__(self, window_samples: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        window = torch.hann_window(window_samples)
        if config.norm == "rms":
            window = window / window.square().sum().sqrt()
        self.register_buffer("window", window, persistent=False)
        widths = (2 * config.channels, *WIDTHS)
        # torch iterates the singular vectors 15 times at creation; unwarmed ones would give any scale
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(into, out, 3, stride, padding=1), n_power_iterations=1)
            for into, out, stride in zip(widths, widths[1:], _STRIDES)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, samples: Tensor) -> Judgement:
        """Judge samples [batch, channels, samples] of normalised level, at least a window long."""
        batch, channels, length = samples.shape
        size = self.window.numel()
        spectrum = torch.stft(
            samples.reshape(-1, length), size, size // 2, window=self.window, return_complex=True
        )
        # [batch, channels x (real, imaginary), bins, frames]
        x = torch.view_as_real(spectrum).movedim(-1, 1).reshape(batch, 2 * channels, *spectrum.shape[1:])
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Judgement(self.last(x), features)


class Discriminator(nn.Module):
    """All windows' networks.

    Args:
        config: Its shape.
    """

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiscriminatorConfig()
        self.networks = nn.ModuleList(
            WindowDiscriminator(window, self.config) for window in self.config.windows
        )

    def forward(self, samples: Tensor) -> list[Judgement]:
        """Judge examples.

        Args:
            samples: [batch, channels, samples], more samples than half the longest window.

        Returns:
            One judgement a window.

        Raises:
            ValueError: the shape does not fit.
        """
        if samples.dim() != 3 or samples.shape[1] != self.config.channels:
            raise ValueError(
                f"samples have shape {tuple(samples.shape)}, not [batch, {self.config.channels}, samples]"
            )
        if samples.shape[2] <= max(self.config.windows) // 2:
            raise ValueError(
                f"{samples.shape[2]} samples are too few for a window of {max(self.config.windows)}"
            )
        level = normalise(samples, self.config.norm)
        return [network(level) for network in self.networks]


def normalise(samples: Tensor, norm: str) -> Tensor:
    """Bring every example to unit energy (`l2`) or unit RMS (`rms`); silence stays silence."""
    energy = samples.square().flatten(1)
    scale = (energy.sum(1) if norm == "l2" else energy.mean(1)).clamp_min(_FLOOR**2).sqrt()
    return samples / scale[:, None, None]
