"""The short-time spectra of one signal, each computed once, when it is first asked for.

Losses and discriminator look at a signal through the same windows; sharing the transforms saves most of them.

Shape legend: samples [batch, channels, samples]; spectra [batch, channels, bins, frames], complex.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Spectra:
    """A signal with its spectra by window, in samples; the hop is half a window, the window is Hann's.

    Args:
        samples: [batch, channels, samples].
        compute: How to get a spectrum; unset transforms the samples.
    """

    def __init__(self, samples: Tensor, compute: Callable[[int], Tensor] | None = None) -> None:
        self.samples = samples
        self._compute = compute  # no bound method of its own: in a cycle, spectra would outlive their step
        self._spectra: dict[int, Tensor] = {}

    def __getitem__(self, window_samples: int) -> Tensor:
        if window_samples not in self._spectra:
            self._spectra[window_samples] = (self._compute or self._transform)(window_samples)
        return self._spectra[window_samples]

    def detach(self) -> "Spectra":
        """Give the same without a graph; what is computed through it serves the original too."""
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
    """Take a signal with or without its spectra."""
    return signal if isinstance(signal, Spectra) else Spectra(signal)


def concatenate(first: Spectra, second: Spectra) -> Spectra:
    """Put two signals' examples into one batch."""
    return Spectra(
        torch.cat((first.samples, second.samples)),
        lambda window: torch.cat((first[window], second[window])),
    )
