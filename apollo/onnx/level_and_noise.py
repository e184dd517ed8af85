"""The level of a signal and the noise of an output, in a graph: as `apollo.model.level` and `.noise`.

Shape legend: spectrum [rows, frames, 2 * bins]; level, side shares [rows, frames, 1]; amplitude
[rows, frames, bins]; rows are batch * channels.
"""

import torch

from apollo.model.generator import Generator
from apollo.model.level import LEVEL_FLOOR, LEVEL_FRAMES
from apollo.model.noise import KEPT_POWER, LEAST_MAGNITUDE
from apollo.model.outputs import LOG_GAIN_LIMITS
from apollo.onnx.frames import Frames
from apollo.onnx.graph import FLOAT, GraphBuilder
from apollo.onnx.trunks import Complex, add_power, split_parts

_LEAST_SHARE = 1e-3  # of frames of the signal in an average: before a signal's first there are none


def add_level(
    graph: GraphBuilder, frames: Frames, generator: Generator, spectrum: str, samples: str | None
) -> tuple[str, list[str]]:
    """Add the level of each frame, a moving average.

    Args:
        graph: To add to.
        frames: Of the signal.
        generator: What is exported.
        spectrum: Of the signal.
        samples: [batch, channels, samples], for the side's share of the power; None where it is not needed.

    Returns:
        The level, and the side's share if there are samples, 0 where there are no two channels.
    """
    parts = split_parts(graph, spectrum)
    power = graph.op("ReduceMean", add_power(graph, parts), axes=[2], keepdims=1)
    ones = graph.op("Expand", graph.number(1.0), graph.op("Shape", power))
    quantities = [ones, power]
    if samples is not None:
        quantities += _add_side_power(graph, parts, samples, generator.config.bins)
    joined, _ = frames.extend(
        graph.concat(*quantities, axis=2),
        len(quantities),
        past=LEVEL_FRAMES,
        lookahead=generator.level_lookahead,
    )
    window = LEVEL_FRAMES + 1 + generator.level_lookahead
    averages = graph.op("AveragePool", graph.op("Transpose", joined, perm=[0, 2, 1]), kernel_shape=[window])
    averages = graph.op("Transpose", averages, perm=[0, 2, 1])
    share, *powers = graph.split(averages, [1] * len(quantities), axis=2)
    share = graph.op("Max", share, graph.number(_LEAST_SHARE))
    power, *others = (graph.op("Div", one, share) for one in powers)
    level = graph.op("Sqrt", power)
    if not others:
        return level, []
    both, side = others
    return level, [graph.op("Div", side, graph.op("Add", both, graph.number(LEVEL_FLOOR)))]


def _add_side_power(graph: GraphBuilder, parts: Complex, samples: str, bins: int) -> list[str]:
    """Add the power of both channels and that of the side, weighted by frequency; equal for all channels.

    The first and the last channel stand for left and right: of one channel the side is zero. That of three or
    more is set to zero.
    """
    batch, channels = graph.size(samples, 0), graph.size(samples, 1)
    shape = graph.concat(batch, channels, graph.ints(-1, bins), axis=0)
    items = [graph.op("Reshape", part, shape) for part in parts]
    weights = torch.linspace(0.0, 1.0, bins).square()
    powers = []
    for kind in ("Add", "Sub"):
        pairs = [
            graph.op(kind, *(graph.op("Gather", part, graph.ints(at), axis=1) for at in (0, -1)))
            for part in items
        ]
        weighted = graph.op("Mul", add_power(graph, Complex(*pairs)), graph.weight(weights, "side_weights"))
        powers.append(graph.op("ReduceMean", weighted, axes=[3], keepdims=1))  # [batch, 1, frames, 1]
    mid, side = powers
    is_stereo = graph.op("Cast", graph.op("Equal", channels, graph.ints(2)), to=FLOAT)
    ones = graph.concat(graph.ints(1), channels, graph.ints(1, 1), axis=0)
    rows = graph.concat(graph.ints(-1), graph.size(parts.real, 1), graph.ints(1), axis=0)
    return [
        graph.op("Reshape", graph.op("Expand", power, ones), rows)
        for power in (graph.op("Add", mid, side), graph.op("Mul", side, is_stereo))
    ]


def add_amplitude(graph: GraphBuilder, log_gains: str, limit: float) -> str:
    """Add the noise's gains relative to the level, from their logarithms."""
    least, most = (graph.number(bound) for bound in LOG_GAIN_LIMITS)
    gains = graph.op("Exp", graph.op("Clip", log_gains, least, most))
    if not limit:
        return gains
    relative = graph.op("Div", gains, graph.number(limit))
    squared = graph.op("Add", graph.op("Mul", relative, relative), graph.number(1.0))
    return graph.op("Div", gains, graph.op("Sqrt", squared))


def add_noise(graph: GraphBuilder, spectra: Complex, amplitude: str, share: str) -> Complex:
    """Add the noise to an output, from spectra of white noise [2, frames, bins].

    All channels get the first noise; left gets and right lacks the second, in the side's share.
    """
    magnitude = graph.op("Sqrt", add_power(graph, spectra))
    scale = graph.op("Max", magnitude, graph.number(LEAST_MAGNITUDE))
    scale = graph.op("Mul", scale, graph.number(KEPT_POWER**0.5))
    strength = graph.op("Mul", amplitude, graph.input("strength", [1]))
    rest = graph.op("Relu", graph.op("Sub", graph.number(1.0), share))
    gains = [graph.op("Sqrt", rest), graph.op("Mul", graph.op("Sqrt", share), _signs(graph, share))]
    parts = []
    for white in spectra:
        noises = graph.ops("Split", graph.op("Div", white, scale), num_outputs=2, axis=0)
        mixed = graph.op("Add", *(graph.op("Mul", gain, noise) for gain, noise in zip(gains, noises)))
        parts.append(graph.op("Mul", strength, mixed))
    return Complex(*parts)


def _signs(graph: GraphBuilder, share: str) -> str:
    """Return 1 for even rows and -1 for odd ones, [rows, 1, 1]."""
    bounds = [graph.op("Squeeze", one) for one in (graph.ints(0), graph.size(share, 0), graph.ints(1))]
    parity = graph.op("Cast", graph.op("Mod", graph.op("Range", *bounds), graph.ints(2)), to=FLOAT)
    signs = graph.op("Sub", graph.number(1.0), graph.op("Mul", parity, graph.number(2.0)))
    return graph.op("Unsqueeze", signs, graph.ints(1, 2))
