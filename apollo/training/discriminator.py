"""The multi-frequency discriminator: one small convolutional network a STFT window.

Source: Li and Luo (2024), section II-D and Table I. Seven windows, as the table lists and the released
network has (the text says five). The last convolution has no spectral norm, as in the released network.

Shape legend: samples [batch, channels, samples], float32; logits [batch, 1, bins', frames'], features
[batch, features, bins', frames'].
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from apollo.model.config import DiscriminatorConfig
from apollo.training.spectra import Spectra, as_spectra

WIDTHS = (8, 16, 32, 64, 128, 256)  # Table I
_STRIDES = (1, 2, 1, 2, 1, 2)
_SLOPE = 0.2
_FLOOR = 1e-8


class DiscriminatorOutput(NamedTuple):
    """What one window's network says: logits, and the features of its layers for feature matching."""

    logits: Tensor
    features: list[Tensor]


class WindowDiscriminator(nn.Module):
    """The network of one STFT window."""

    def __init__(self, window_samples: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.window_samples = window_samples
        window = torch.hann_window(window_samples)
        self.scale = 1.0 if config.norm == "l2" else float(window.square().sum().rsqrt())
        widths = (2 * config.channels, *WIDTHS)
        # torch iterates the singular vectors 15 times at creation; unwarmed ones would give any scale
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(into, out, 3, stride, padding=1), n_power_iterations=1)
            for into, out, stride in zip(widths, widths[1:], _STRIDES)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, spectrum: Tensor, scale: Tensor) -> DiscriminatorOutput:
        """Judge a spectrum [batch, channels, bins, frames], to be scaled by [batch]."""
        scaled = torch.view_as_real(spectrum) * (scale * self.scale)[:, None, None, None, None]
        # [batch, channels x (real, imaginary), bins, frames]
        x = scaled.movedim(-1, 2).flatten(1, 2)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return DiscriminatorOutput(self.last(x), features)


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

    def forward(self, signal: Tensor | Spectra) -> list[DiscriminatorOutput]:
        """Judge examples.

        Args:
            signal: [batch, channels, samples], more samples than half the longest window; or such with its
                spectra, of which those of the windows are used.

        Returns:
            One judgement a window.

        Raises:
            ValueError: the shape does not fit.
        """
        spectra = as_spectra(signal)
        samples = spectra.samples
        if samples.dim() != 3 or samples.shape[1] != self.config.channels:
            raise ValueError(
                f"samples have shape {tuple(samples.shape)}, not [batch, {self.config.channels}, samples]"
            )
        if samples.shape[2] <= max(self.config.windows) // 2:
            raise ValueError(
                f"{samples.shape[2]} samples are too few for a window of {max(self.config.windows)}"
            )
        scale = level_scale(samples, self.config.norm)
        return [network(spectra[network.window_samples], scale) for network in self._windows()]

    def compute_weights(self) -> None:
        """Compute every weight from its parameter and norm; of use inside `parametrize.cached` only."""
        for network in self._windows():
            for layer in network.layers:
                _ = layer.weight

    def update_spectral_norms(self) -> None:
        """Bring every spectral norm one power iteration closer; they move at no other time.

        Torch would iterate at every look at a weight in training mode: how often a step looks would decide
        what it computes.
        """
        with torch.no_grad():
            for network in self._windows():
                for layer in network.layers:
                    layer.train()
                    _ = layer.weight
                    layer.eval()

    def _windows(self) -> list[WindowDiscriminator]:
        return [cast(WindowDiscriminator, network) for network in self.networks]


def level_scale(samples: Tensor, norm: str) -> Tensor:
    """Give the factors [batch] that bring examples to unit energy (`l2`) or unit RMS (`rms`)."""
    energy = samples.square().flatten(1)
    return (energy.sum(1) if norm == "l2" else energy.mean(1)).clamp_min(_FLOOR**2).rsqrt()
