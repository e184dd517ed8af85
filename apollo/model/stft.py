"""Short-time Fourier transform at half-window hops, in pieces that fit together.

The same numbers as `torch.stft(center=True)` and `torch.istft` with a periodic Hann window, without their
edges: `reflect` adds the ends, the others work on any stretch of hops. So a stream and a
whole file go through one implementation.

Shape legend: samples [batch, samples]; spectrum [batch, frames, bins], complex64 or complex128. Frame k is
centred on sample k * hop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def hann_window(window_samples: int, like: Tensor) -> Tensor:
    """Give the periodic Hann window in the dtype and on the device of `like`."""
    return torch.hann_window(window_samples, dtype=like.dtype, device=like.device)


def reflect_pad(samples: Tensor, hop: int) -> Tensor:
    """Add a hop of reflected samples at both ends; samples must be at least hop + 1."""
    return F.pad(samples, (hop, hop), mode="reflect")


def analyze(samples: Tensor, window: Tensor) -> Tensor:
    """Transform samples [batch, (frames + 1) * hop] to a spectrum [batch, frames, bins]."""
    frames = samples.unfold(-1, window.numel(), window.numel() // 2)
    spectrum: Tensor = torch.fft.rfft(frames * window)
    return spectrum


def windowed_halves(spectrum: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Give the windowed halves of frames, of which neighbours are to be added.

    Returns:
        First and second halves, each [batch, frames, hop].
    """
    if not spectrum.shape[1]:  # no frames; FFT libraries refuse them
        empty = window.new_empty(len(spectrum), 0, window.numel() // 2)
        return empty, empty
    first, second = (torch.fft.irfft(spectrum, window.numel()) * window).chunk(2, -1)
    return first, second


def overlap_add(second: Tensor, first: Tensor, window: Tensor) -> Tensor:
    """Add second halves of frames to first halves of their successors and take the window's weight out.

    Args:
        second: [batch, hops, hop], of frames k.
        first: [batch, hops, hop], of frames k + 1.
        window: The window.

    Returns:
        Samples [batch, hops * hop].
    """
    early, late = window.square().chunk(2)
    return ((second + first) / (late + early)).flatten(-2)
