"""Lazily computed STFTs of a signal, shared by losses and discriminator, which use the same windows.

Shape legend: samples [batch, channels, samples]; spectra [batch, channels, bins, frames], complex.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Spectra:
    """A signal and its STFTs by window length, each computed on first access: Hann windows, half overlap.

    Args:
        samples: [batch, channels, samples].
        compute: Returns the spectrum of a window length in samples; None transforms `samples`.
    """

    def __init__(self, samples: Tensor, compute: Callable[[int], Tensor] | None = None) -> None:
        self.samples = samples
        self._compute = compute  # not a bound method: a reference cycle would outlive the step
        self._spectra: dict[int, Tensor] = {}

    def __getitem__(self, window_samples: int) -> Tensor:
        if window_samples not in self._spectra:
            self._spectra[window_samples] = (self._compute or self._transform)(window_samples)
        return self._spectra[window_samples]

    def detach(self) -> "Spectra":
        """Return a detached view; spectra computed through it are cached in the original too."""
        return Spectra(self.samples.detach(), lambda window: self[window].detach())

    def _transform(self, window_samples: int) -> Tensor:
        samples = self.samples
        window = torch.hann_window(window_samples, dtype=samples.dtype, device=samples.device)
        rows = samples.reshape(-1, samples.shape[-1])
        with torch.autocast(samples.device.type, enabled=False):
            spectrum = torch.stft(
                rows, window_samples, window_samples // 2, window=window, return_complex=True
            )
        return spectrum.reshape(*samples.shape[:2], *spectrum.shape[1:])


def as_spectra(signal: Tensor | Spectra) -> Spectra:
    """Return a signal as Spectra."""
    return signal if isinstance(signal, Spectra) else Spectra(signal)


def concatenate(first: Spectra, second: Spectra) -> Spectra:
    """Concatenate two batches; their cached spectra are reused."""
    return Spectra(
        torch.cat((first.samples, second.samples)),
        lambda window: torch.cat((first[window], second[window])),
    )


EDGE_MARGIN_HZ = 150.0  # measured edges of low-passed audio lie up to 110 Hz above the low-pass


def limit_bandwidth(samples: Tensor, bandwidth_hz: Tensor | None, sample_rate: int) -> Tensor:
    """Remove what lies above each example's bandwidth, less a margin for its measurement.

    Args:
        samples: [examples, channels, samples].
        bandwidth_hz: [examples]; None changes nothing.
        sample_rate: Hz.

    Returns:
        The same shape.
    """
    if bandwidth_hz is None:
        return samples
    length = samples.shape[-1]
    spectrum = torch.fft.rfft(samples)
    frequencies = torch.arange(spectrum.shape[-1], device=samples.device) * (sample_rate / length)
    kept = frequencies <= bandwidth_hz[:, None, None] - EDGE_MARGIN_HZ
    limited: Tensor = torch.fft.irfft(spectrum * kept, length)
    return limited
