"""The multi-resolution STFT discriminator: one small network per window length.

Source: Li and Luo (2024), section II-D and Table I. Seven windows, as the table lists and the released
network has (the text says five). The last convolution has no spectral norm, as in the released network.
The gradient penalty is that of Gulrajani et al. (2017), "Improved Training of Wasserstein GANs".

Shape legend: samples [batch, channels, samples], float32; logits [batch, 1, bins', frames'], features
[batch, features, bins', frames'], or (`GatedCritic`) both [batch, frames, features].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from apollo.model.config import DiscriminatorConfig
from apollo.training.gated_critic import GatedCritic
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

    def prepare(self, spectrum: Tensor, scale: Tensor) -> Tensor:
        """Return the parts of a spectrum [batch, channels, bins, frames] times scale [batch].

        Returns:
            [batch, channels x (real, imaginary), bins, frames].
        """
        scaled = torch.view_as_real(spectrum) * (scale * self.scale)[:, None, None, None, None]
        return scaled.movedim(-1, 2).flatten(1, 2)

    def judge(self, x: Tensor, _: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return logits and features of what `prepare` returned."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return self.last(x), features


class Discriminator(nn.Module):
    """The networks of all windows.

    Args:
        config: Channels, windows, normalization and kind.
    """

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiscriminatorConfig()
        network = GatedCritic if self.config.is_conditional else WindowDiscriminator
        self.networks = nn.ModuleList(network(window, self.config) for window in self.config.windows)

    def forward(
        self, signal: Tensor | Spectra, degraded: Tensor | Spectra | None = None
    ) -> list[DiscriminatorOutput]:
        """Classify examples as real or fake.

        Args:
            signal: [batch, channels, samples] or its `Spectra`, longer than half the longest window.
            degraded: What it was restored from, of the same shape, if the discriminator is conditional.

        Returns:
            One output per window.

        Raises:
            ValueError: the channels are not the config's, or there are too few samples, or a conditional
                discriminator is given no degraded signal.
        """
        return self.judge(self.prepare(signal, degraded), self._prepare_condition(degraded))

    def judge(
        self, inputs: Sequence[Tensor], conditions: Sequence[Tensor | None]
    ) -> list[DiscriminatorOutput]:
        """Classify what `prepare` returned; one output per window."""
        return [
            DiscriminatorOutput(*network.judge(one, condition))
            for network, one, condition in zip(self._windows(), inputs, conditions, strict=True)
        ]

    def prepare(self, signal: Tensor | Spectra, degraded: Tensor | Spectra | None) -> list[Tensor]:
        """Return the input of every window's network; arguments and errors as for `forward`."""
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
        if self.config.is_conditional and degraded is None:
            raise ValueError(f"a discriminator of the kind {self.config.kind!r} needs the degraded signal")
        levelled = samples if degraded is None else as_spectra(degraded).samples
        scale = level_scale(levelled, self.config.norm)
        return [network.prepare(spectra[network.window_samples], scale) for network in self._windows()]

    def _prepare_condition(self, degraded: Tensor | Spectra | None) -> Sequence[Tensor | None]:
        return [None] * len(self.networks) if degraded is None else self.prepare(degraded, degraded)

    def gradient_penalty(self, real: Spectra, fake: Spectra, degraded: Spectra | None, mix: Tensor) -> Tensor:
        """Compute the mean of (norm of the gradient - 1)^2, over examples and windows.

        The gradient is that of the mean logit of an example with respect to the network's input, a mixture
        of those of a real and a fake example.

        Args:
            real: Clean audio.
            fake: Restored audio; no gradient flows into it.
            degraded: As for `forward`.
            mix: Share of the fake example, [batch].
        """
        with torch.no_grad():
            sides = zip(self.prepare(real, degraded), self.prepare(fake, degraded), strict=True)
            conditions = self._prepare_condition(degraded)
            mixed = [one.lerp(other, mix.view(-1, *[1] * (one.dim() - 1))) for one, other in sides]
        for one in mixed:
            one.requires_grad_()
        means = [output.logits.flatten(1).mean(1).sum() for output in self.judge(mixed, conditions)]
        gradients = torch.autograd.grad(means, mixed, create_graph=True)
        norms = [(one.square().flatten(1).sum(1) + _FLOOR**2).sqrt() for one in gradients]
        return torch.stack([(norm - 1).square().mean() for norm in norms]).mean()

    def compute_weights(self) -> None:
        """Compute all normalized weights, to be called inside `parametrize.cached`."""
        for layer in self._normalized_layers():
            _ = layer.weight

    def update_spectral_norms(self) -> None:
        """Run one power iteration of every spectral norm; there are no others.

        In training mode, torch would run one at every access of a weight, so results would depend on the
        number of forward passes in a step.
        """
        with torch.no_grad():
            for layer in self._normalized_layers():
                layer.train()
                _ = layer.weight
                layer.eval()

    def _normalized_layers(self) -> list[nn.Module]:
        return [layer for layer in self.modules() if is_parametrized(layer)]

    def _windows(self) -> list[Any]:
        return list(self.networks)


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
