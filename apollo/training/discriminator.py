"""The multi-resolution STFT discriminator: one small convolutional network per window length.

Source: Li and Luo (2024), section II-D and Table I. Seven windows, as the table lists and the released
network has (the text says five). The last convolution has no spectral norm, as in the released network.

Shape legend: samples [batch, channels, samples], float32; logits [batch, 1, bins', frames'], features
[batch, features, bins', frames'].
"""

from collections.abc import Sequence
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
    """Output of one window's network: logits, and the layers' activations for feature matching."""

    logits: Tensor
    features: list[Tensor]


class WindowDiscriminator(nn.Module):
    """Convolutional network on the STFT of one window length."""

    def __init__(self, window_samples: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.window_samples = window_samples
        window = torch.hann_window(window_samples)
        self.scale = 1.0 if config.norm == "l2" else float(window.square().sum().rsqrt())
        widths = (2 * config.channels, *WIDTHS)
        # torch runs 15 power iterations at creation; unconverged singular vectors would give a wrong scale
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(into, out, 3, stride, padding=1), n_power_iterations=1)
            for into, out, stride in zip(widths, widths[1:], _STRIDES)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, spectrum: Tensor, scale: Tensor) -> DiscriminatorOutput:
        """Classify a spectrum [batch, channels, bins, frames] after multiplying it by scale [batch]."""
        scaled = torch.view_as_real(spectrum) * (scale * self.scale)[:, None, None, None, None]
        # [batch, channels x (real, imaginary), bins, frames]
        x = scaled.movedim(-1, 2).flatten(1, 2)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return DiscriminatorOutput(self.last(x), features)


class Discriminator(nn.Module):
    """The networks of all windows.

    Args:
        config: Channels, windows and normalization.
    """

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiscriminatorConfig()
        self.networks = nn.ModuleList(
            WindowDiscriminator(window, self.config) for window in self.config.windows
        )

    def forward(self, signal: Tensor | Spectra) -> list[DiscriminatorOutput]:
        """Classify examples as real or fake.

        Args:
            signal: [batch, channels, samples] or its `Spectra`, longer than half the longest window.

        Returns:
            One output per window.

        Raises:
            ValueError: the channels are not the config's, or there are too few samples.
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
        """Compute all normalized weights, to be called inside `parametrize.cached`."""
        for network in self._windows():
            for layer in network.layers:
                _ = layer.weight

    def update_spectral_norms(self) -> None:
        """Run one power iteration of every spectral norm; there are no others.

        In training mode, torch would run one at every access of a weight, so results would depend on the
        number of forward passes in a step.
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
    """Return the factors [batch] that scale examples to unit energy (`l2`) or unit RMS (`rms`)."""
    energy = samples.square().flatten(1)
    return (energy.sum(1) if norm == "l2" else energy.mean(1)).clamp_min(_FLOOR**2).rsqrt()


def split_real_fake(
    outputs: Sequence[DiscriminatorOutput],
) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
    """Split outputs for a batch of real examples followed by fake ones."""
    parts = [(one.logits.chunk(2), [features.chunk(2) for features in one.features]) for one in outputs]
    real, fake = (
        [DiscriminatorOutput(logits[half], [pair[half] for pair in features]) for logits, features in parts]
        for half in (0, 1)
    )
    return real, fake


def mean_margins(
    discriminator: Discriminator, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> dict[str, Tensor]:
    """Return mean D(real) - mean D(fake) by window."""
    return {
        f"d/margin/{window}": (one.logits.detach().float().mean() - other.logits.detach().float().mean())
        for window, one, other in zip(discriminator.config.windows, real, fake, strict=True)
    }
