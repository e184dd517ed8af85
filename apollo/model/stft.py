"""Short-time Fourier transform at half-window hops, in parts that work on streams and on whole files.

Equal to `torch.stft(center=True)` and `torch.istft` with a periodic Hann window, but without their edges:
`reflect_pad` adds these, the other functions work on any consecutive hops.

Shape legend: samples [batch, samples]; spectrum [batch, frames, bins], complex64 or complex128. Frame k is
centred on sample k * hop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def hann_window(window_samples: int, like: Tensor) -> Tensor:
    """Return the periodic Hann window with the dtype and device of `like`."""
    return torch.hann_window(window_samples, dtype=like.dtype, device=like.device)


def reflect_pad(samples: Tensor, hop: int) -> Tensor:
    """Pad both ends by a hop of reflected samples; requires at least hop + 1 samples."""
    return F.pad(samples, (hop, hop), mode="reflect")


def analyze(samples: Tensor, window: Tensor) -> Tensor:
    """Compute the spectrum [batch, frames, bins] of samples [batch, (frames + 1) * hop]."""
    frames = samples.unfold(-1, window.numel(), window.numel() // 2)
    spectrum: Tensor = torch.fft.rfft(frames * window)
    return spectrum


def windowed_halves(spectrum: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the windowed inverse transform of each frame, as two halves for `overlap_add`.

    Returns:
        First and second halves, each [batch, frames, hop].
    """
    if not spectrum.shape[1]:  # no frames; FFT libraries refuse them
        empty = window.new_empty(len(spectrum), 0, window.numel() // 2)
        return empty, empty
    first, second = (torch.fft.irfft(spectrum, window.numel()) * window).chunk(2, -1)
    return first, second


def overlap_add(second: Tensor, first: Tensor, window: Tensor) -> Tensor:
    """Add second halves of frames to first halves of the next ones, and divide by the window's weight.

    Args:
        second: Second halves of frames k, [batch, hops, hop].
        first: First halves of frames k + 1, [batch, hops, hop].
        window: Analysis and synthesis window, [2 * hop].

    Returns:
        Samples [batch, hops * hop].
    """
    early, late = window.square().chunk(2)
    return ((second + first) / (late + early)).flatten(-2)
