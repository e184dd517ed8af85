"""The short-time Fourier transform and its inverse as convolutions, whose kernels are computed in float64.

Equal to `apollo.model.stft`: Hann window, hops of half a window.

Shape legend: samples [rows, samples]; spectrum [rows, frames, 2 * bins]: real parts, then imaginary parts.
"""

import math

import torch
from torch import Tensor

from apollo.onnx.graph import GraphBuilder


def add_analysis(graph: GraphBuilder, samples: str, window_samples: int) -> str:
    """Add the transform of samples [rows, (frames + 1) * hop]."""
    kernel = graph.weight(analysis_kernel(window_samples), "analysis")
    signal = graph.op("Unsqueeze", samples, graph.ints(1))
    spectrum = graph.op("Conv", signal, kernel, strides=[window_samples // 2])
    return graph.op("Transpose", spectrum, perm=[0, 2, 1])


def add_synthesis(graph: GraphBuilder, spectrum: str, window_samples: int) -> str:
    """Add the inverse transform, to samples [rows, (frames + 1) * hop]; its ends lack the frames beyond."""
    kernel = graph.weight(synthesis_kernel(window_samples), "synthesis")
    signal = graph.op("Transpose", spectrum, perm=[0, 2, 1])
    samples = graph.op("ConvTranspose", signal, kernel, strides=[window_samples // 2])
    return graph.op("Squeeze", samples, graph.ints(1))


def analysis_kernel(window_samples: int) -> Tensor:
    """Return windowed cosines and negative sines, [2 * bins, 1, window_samples], float64."""
    return (_hann(window_samples) * _basis(window_samples))[:, None]


def synthesis_kernel(window_samples: int) -> Tensor:
    """Return what each bin adds to the samples of its frame, [2 * bins, 1, window_samples], float64."""
    window = _hann(window_samples)
    weight = window.square() + window.roll(window_samples // 2).square()  # of both frames over a sample
    bins = window_samples // 2 + 1
    twice = torch.full((bins,), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0  # the others stand for their negative frequencies too
    scale = twice.repeat(2)[:, None] / window_samples
    return (scale * _basis(window_samples) * window / weight)[:, None]


def _hann(window_samples: int) -> Tensor:
    return torch.hann_window(window_samples, dtype=torch.float64)


def _basis(window_samples: int) -> Tensor:
    """Return cosines, then negative sines, of all bins: [2 * bins, window_samples]."""
    bins, at = torch.arange(window_samples // 2 + 1)[:, None], torch.arange(window_samples)
    angles = (bins * at % window_samples).double() * (2 * math.pi / window_samples)
    basis = torch.cat((angles.cos(), -angles.sin()))
    basis[[window_samples // 2 + 1, -1]] = 0.0  # bins without an imaginary part
    return basis
