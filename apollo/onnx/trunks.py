"""The trunks in a graph: the layers of `apollo.model`, with two values in place of a complex one.

Shape legend: real, imaginary, gains [rows, frames, bins]; features [rows, frames, dim], of the band-sequence
trunk [rows, frames, bands, dim].
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from apollo.model.band_sequence import BandSequence, BandSequenceTrunk
from apollo.model.bands import POWER_FLOOR as BAND_POWER_FLOOR
from apollo.model.bands import BandMerge, BandSplit
from apollo.model.config import INITIAL_LOG_GAIN
from apollo.model.frame_convolution import (
    LOG_CENTRE,
    LOG_SCALE,
    POWER_FLOOR,
    FrameBlock,
    FrameConvolutionTrunk,
)
from apollo.model.layers import NORM_EPSILON, BandAttention, TimeBlock
from apollo.model.trunk import Trunk
from apollo.onnx.frames import Frames
from apollo.onnx.graph import GraphBuilder

EXPORTED_TRUNKS = ("band_sequence", "frame_convolution")
EXPORTED_OUTPUTS = ("direct", "correction", "mask_and_noise")


class Complex(NamedTuple):
    """Two values: real and imaginary parts, each [rows, frames, bins]."""

    real: str
    imaginary: str


def add_trunk(
    graph: GraphBuilder,
    frames: Frames,
    trunk: Trunk,
    spectrum: Complex,
) -> tuple[Complex, str | None]:
    """Add a trunk of `EXPORTED_TRUNKS`; return its prediction, and logarithms of noise gains or None."""
    with graph.scope("trunk"):
        if isinstance(trunk, FrameConvolutionTrunk):
            return _add_frame_convolution(graph, frames, trunk, spectrum)
        return _add_band_sequence(graph, frames, cast(BandSequenceTrunk, trunk), spectrum)


def add_power(graph: GraphBuilder, spectrum: Complex) -> str:
    """Add the power of every bin."""
    squares = [graph.op("Mul", part, part) for part in spectrum]
    return graph.op("Add", *squares)


def multiply(graph: GraphBuilder, one: Complex, other: Complex) -> Complex:
    """Add the product of complex values."""
    products = [[graph.op("Mul", part, factor) for factor in other] for part in one]
    real = graph.op("Sub", products[0][0], products[1][1])
    return Complex(real, graph.op("Add", products[0][1], products[1][0]))


def split_parts(graph: GraphBuilder, spectrum: str) -> Complex:
    """Add real and imaginary parts of a spectrum [rows, frames, 2 * bins]."""
    return Complex(*graph.ops("Split", spectrum, num_outputs=2, axis=2))


def _add_frame_convolution(
    graph: GraphBuilder, frames: Frames, trunk: FrameConvolutionTrunk, spectrum: Complex
) -> tuple[Complex, str | None]:
    logs = graph.op("Log", graph.op("Add", add_power(graph, spectrum), graph.number(POWER_FLOOR)))
    centred = graph.op("Sub", logs, graph.number(LOG_CENTRE))
    x = _add_linear(graph, graph.op("Div", centred, graph.number(LOG_SCALE)), trunk.input, "input")
    for number, block in enumerate(trunk.blocks):
        with graph.scope(f"blocks.{number}"):
            x = _add_frame_block(graph, frames, cast(FrameBlock, block), x)
    x = _add_layer_norm(graph, x, trunk.norm)
    gains = None if trunk.gains is None else _add_linear(graph, x, trunk.gains, "gains")
    merged = _add_linear(graph, x, trunk.merge, "merge")
    return split_parts(graph, merged), gains


def _add_frame_block(graph: GraphBuilder, frames: Frames, block: FrameBlock, x: str) -> str:
    dim = block.depthwise.in_channels
    extended, x = frames.extend(x, dim, past=block.past, lookahead=block.lookahead)
    # as an image of one column: runtimes have faster depthwise convolutions in two dimensions than in one
    image = graph.op("Unsqueeze", graph.op("Transpose", extended, perm=[0, 2, 1]), graph.ints(3))
    mixed = _add_convolution(graph, image, block.depthwise.weight[..., None], block.depthwise.bias)
    mixed = graph.op("Transpose", graph.op("Squeeze", mixed, graph.ints(3)), perm=[0, 2, 1])
    hidden = _add_linear(graph, _add_layer_norm(graph, mixed, block.norm), block.expand, "expand")
    error = graph.op("Erf", graph.op("Div", hidden, graph.number(2.0**0.5)))
    doubled = graph.op("Mul", hidden, graph.op("Add", error, graph.number(1.0)))
    hidden = graph.op("Mul", doubled, graph.number(0.5))
    return graph.op("Add", x, _add_linear(graph, hidden, block.contract, "contract", block.scale))


def _add_band_sequence(
    graph: GraphBuilder, frames: Frames, trunk: BandSequenceTrunk, spectrum: Complex
) -> tuple[Complex, str | None]:
    with graph.scope("split"):
        x = _add_split(graph, trunk.split, spectrum)
    for number, layer in enumerate(trunk.layers):
        with graph.scope(f"layers.{number}"):
            layer = cast(BandSequence, layer)
            with graph.scope("bands"):
                x = _add_attention(graph, layer.bands, x)
            for part, block in enumerate(layer.time):
                with graph.scope(f"time.{part}"):
                    x = _add_time_block(
                        graph, frames, cast(TimeBlock, block), x, len(trunk.config.band_widths)
                    )
    gains = None
    if trunk.gains is not None:
        with graph.scope("gains"):
            initial = graph.number(INITIAL_LOG_GAIN)
            gains = graph.op("Add", _add_merge(graph, trunk.gains, x).real, initial)
    with graph.scope("merge"):
        return _add_merge(graph, trunk.merge, x), gains


def _add_split(graph: GraphBuilder, split: BandSplit, spectrum: Complex) -> str:
    if not split.is_sorted:
        order = graph.ints(*split.bin_order.tolist())
        spectrum = Complex(*(graph.op("Gather", part, order, axis=2) for part in spectrum))
    begin, features = 0, []
    for group, (width, bands) in zip(split.groups, split.bands_by_width.items()):
        count = len(bands)
        end = begin + width * count
        bins = Complex(
            *(graph.reshape(graph.slice(part, begin, end, axis=2), 0, 0, count, width) for part in spectrum)
        )
        begin = end
        power = graph.op("ReduceSum", add_power(graph, bins), graph.ints(-1), keepdims=1)
        norm = graph.op("Sqrt", graph.op("Add", power, graph.number(BAND_POWER_FLOOR)))
        normalized = [graph.op("Div", part, norm) for part in bins]
        with graph.scope(f"groups.{width}"):
            joined = graph.concat(*normalized, graph.op("Log", norm), axis=3)
            features.append(_add_group(graph, joined, group))
    joined = graph.concat(*(graph.op("Transpose", one, perm=[1, 2, 0, 3]) for one in features), axis=2)
    if split.is_sorted:
        return joined
    return graph.op("Gather", joined, graph.ints(*split.band_inverse.tolist()), axis=2)


def _add_merge(graph: GraphBuilder, merge: BandMerge, x: str) -> Complex:
    if not merge.is_sorted:
        x = graph.op("Gather", x, graph.ints(*merge.band_order.tolist()), axis=2)
    begin, parts = 0, []
    for group, (width, bands) in zip(merge.groups, merge.bands_by_width.items()):
        features = graph.slice(x, begin, begin + len(bands), axis=2)
        begin += len(bands)
        with graph.scope(f"groups.{width}"):
            outputs, gates = graph.ops("Split", _add_group(graph, features, group), num_outputs=2, axis=3)
            gated = graph.op("Mul", outputs, graph.op("Sigmoid", gates))
            bins = graph.op("Transpose", gated, perm=[1, 2, 0, 3])
            halves = graph.ops("Split", bins, num_outputs=2, axis=3)
            parts.append([graph.reshape(half, 0, 0, len(bands) * width) for half in halves])
    joined = Complex(*(graph.concat(*part, axis=2) for part in zip(*parts)))
    if merge.is_sorted:
        return joined
    order = graph.ints(*merge.bin_inverse.tolist())
    return Complex(*(graph.op("Gather", part, order, axis=2) for part in joined))


def _add_group(graph: GraphBuilder, x: str, group: nn.Module) -> str:
    """Add the norm and the linear layer of each of the bands of one width: [bands, rows, frames, outputs]."""
    norm, weight, bias = (cast(Tensor, getattr(group, name)) for name in ("norm", "weight", "bias"))
    bands = graph.op("Transpose", _add_rms_norm(graph, x, norm), perm=[2, 0, 1, 3])
    product = graph.op("MatMul", bands, graph.weight(weight.transpose(1, 2)[:, None], "weight"))
    return graph.op("Add", product, graph.weight(bias[:, None, None], "bias"))


def _add_attention(graph: GraphBuilder, attention: BandAttention, x: str) -> str:
    bands, pairs = attention.rotary_freqs.shape[0], attention.rotary_freqs.shape[-1]
    heads, shape = attention.heads, graph.op("Shape", x)
    normed = _add_rms_norm(graph, x, attention.norm.weight)
    per_head = attention.project.weight.unflatten(0, (heads, 3, pairs, 2))
    # rows of a query and a key: first members of all pairs, then second ones; their product stays the same
    queries, keys, others = per_head.unbind(1)  # [heads, pairs, 2, dim]
    rows = [one.transpose(1, 2).flatten(0, 2) for one in (queries / (2 * pairs) ** 0.5, keys)]
    both = graph.op("MatMul", normed, graph.weight(torch.cat(rows).t(), "queries_and_keys"))
    values = graph.op("MatMul", normed, graph.weight(others.flatten(0, 2).t(), "values"))
    rotated = _add_rotation(graph, graph.reshape(both, -1, bands, 2 * heads, 2 * pairs), attention)
    query, key = graph.ops("Split", rotated, num_outputs=2, axis=2)
    scores = graph.op(
        "MatMul",
        graph.op("Transpose", query, perm=[0, 2, 1, 3]),
        graph.op("Transpose", key, perm=[0, 2, 3, 1]),
    )
    value = graph.op("Transpose", graph.reshape(values, -1, bands, heads, 2 * pairs), perm=[0, 2, 1, 3])
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    mixed = graph.op("Reshape", graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), shape)
    x = graph.op("Add", x, _add_linear(graph, mixed, attention.output, "output"))
    normed = _add_rms_norm(graph, x, attention.gate_norm.weight, "gate_norm")
    gated = _add_silu(graph, _add_linear(graph, normed, attention.gate, "gate"))
    gate, up = graph.ops("Split", gated, num_outputs=2, axis=3)
    product = graph.op("Mul", _add_silu(graph, gate), up)
    return graph.op("Add", x, _add_linear(graph, product, attention.gate_output, "gate_output"))


def _add_rotation(graph: GraphBuilder, x: str, attention: BandAttention) -> str:
    """Rotate the pairs of queries and keys [rows, bands, heads, first and second members] by band."""
    freqs = attention.rotary_freqs[:, 0]  # [bands, 1, pairs]
    cos, sin = graph.weight(freqs.real, "cos"), graph.weight(freqs.imag, "sin")
    pairs = Complex(*graph.ops("Split", x, num_outputs=2, axis=3))
    return graph.concat(*multiply(graph, pairs, Complex(cos, sin)), axis=3)


def _add_time_block(graph: GraphBuilder, frames: Frames, block: TimeBlock, x: str, bands: int) -> str:
    features = bands * block.depthwise.in_channels
    extended, x = frames.extend(
        graph.reshape(x, 0, 0, features), features, past=block.past, lookahead=block.lookahead
    )
    extended, x = (graph.reshape(one, 0, 0, bands, -1) for one in (extended, x))
    image = graph.op("Transpose", extended, perm=[0, 3, 1, 2])
    mixed = _add_convolution(graph, image, block.depthwise.weight, block.depthwise.bias)
    normed = _add_rms_norm(graph, graph.op("Transpose", mixed, perm=[0, 2, 3, 1]), block.norm.weight)
    hidden = _add_silu(graph, _add_linear(graph, normed, block.expand, "expand"))
    return graph.op("Add", x, _add_linear(graph, hidden, block.contract, "contract"))


def _add_convolution(graph: GraphBuilder, image: str, weight: Tensor, bias: Tensor | None) -> str:
    """Add a depthwise convolution of images [rows, channels, height, width]."""
    constants = [graph.weight(weight, "depthwise.weight"), graph.weight(cast(Tensor, bias), "depthwise.bias")]
    return graph.op("Conv", image, *constants, group=len(weight))


def _add_linear(graph: GraphBuilder, x: str, layer: nn.Linear, name: str, scale: Tensor | None = None) -> str:
    """Add a linear layer, with its outputs scaled."""
    factors = torch.ones(layer.out_features) if scale is None else scale
    with graph.scope(name):
        y = graph.op("MatMul", x, graph.weight(layer.weight.t() * factors, "weight"))
        return y if layer.bias is None else graph.op("Add", y, graph.weight(layer.bias * factors, "bias"))


def _add_layer_norm(graph: GraphBuilder, x: str, norm: nn.LayerNorm) -> str:
    constants = [graph.weight(norm.weight, "norm.weight"), graph.weight(norm.bias, "norm.bias")]
    return graph.op("LayerNormalization", x, *constants, axis=-1, epsilon=norm.eps)


def _add_rms_norm(graph: GraphBuilder, x: str, weight: Tensor, name: str = "norm") -> str:
    power = graph.op("ReduceMean", graph.op("Pow", x, graph.number(2.0)), axes=[-1], keepdims=1)
    root = graph.op("Sqrt", graph.op("Add", power, graph.number(NORM_EPSILON)))
    return graph.op("Mul", graph.op("Div", x, root), graph.weight(weight, name))


def _add_silu(graph: GraphBuilder, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))
