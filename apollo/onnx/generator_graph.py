"""A generator as an ONNX graph, with its transforms, in one of two forms.

whole: samples of any length in, restored samples out.

    samples   [batch, channels, samples]   at the model's rate
    noise     [2, (hops + 2) * hop]        white noise of unit variance; more is ignored; hops: of the samples
    strength  [1]                          of the noise
    restored  [batch, channels, samples]

streaming: whole hops of samples in, as many restored samples out, look-ahead + 2 hops later.

    samples   [batch, channels, hops * hop]
    valid     [hops]                       1 where a hop completes a frame of the signal, 0 before and after
    noise     [2, hops * hop]
    strength  [1]
    state     [batch * channels, size]     zeros at first, then what came out
    restored  [batch, channels, hops * hop]
    next_state

Only generators whose output has noise take `noise` and `strength`. Batch items get the same noise.

Shape legend: rows are batch * channels; spectrum [rows, frames, 2 * bins]: real parts, then imaginary parts.
"""

from typing import TYPE_CHECKING

import torch

from apollo.model.generator import Generator
from apollo.model.level import LEVEL_FLOOR
from apollo.onnx.frames import Chunk, Frames, WholeSignal
from apollo.onnx.graph import END, GraphBuilder
from apollo.onnx.level_and_noise import add_amplitude, add_level, add_noise
from apollo.onnx.transforms import add_analysis, add_synthesis
from apollo.onnx.trunks import Complex, add_trunk, multiply, split_parts

if TYPE_CHECKING:
    import onnx


@torch.no_grad()
def build_whole(generator: Generator) -> "onnx.ModelProto":
    """Return the form `whole`."""
    graph, hop = GraphBuilder(), generator.config.hop_samples
    samples = graph.input("samples", ["batch", "channels", "samples"])
    length = graph.size(samples, 2)
    hops = graph.op("Div", graph.op("Add", length, graph.ints(hop - 1)), graph.ints(hop))
    padded = graph.op("Mul", graph.op("Max", hops, graph.ints(2)), graph.ints(hop))
    silence = graph.concat(graph.ints(0, 0, 0), graph.op("Sub", padded, length), axis=0)
    rows = graph.op("Pad", _to_rows(graph, samples), silence)
    rows = graph.op("Pad", rows, graph.ints(0, hop, 0, hop), mode="reflect")
    noise = None
    if generator.config.output == "mask_and_noise":
        white = graph.input("noise", [2, "noise_samples"])
        noise = graph.op("Slice", white, graph.ints(0), graph.size(rows, 1), graph.ints(1))
    restored = _add_network(graph, WholeSignal(graph), generator, samples, rows, noise)
    end = graph.op("Add", length, graph.ints(hop))
    restored = graph.op("Slice", restored, graph.ints(hop), end, graph.ints(1))
    graph.output(_like(graph, restored, samples), "restored", ["batch", "channels", "samples"])
    return graph.build("apollo")


@torch.no_grad()
def build_streaming(generator: Generator) -> "onnx.ModelProto":
    """Return the form `streaming`."""
    graph, hop = GraphBuilder(), generator.config.hop_samples
    samples = graph.input("samples", ["batch", "channels", "samples"])
    valid = graph.input("valid", ["hops"])
    white = graph.input("noise", [2, "samples"]) if generator.config.output == "mask_and_noise" else None
    chunk = Chunk(graph, "state", valid, generator.lookahead_frames)
    rows = chunk.carry(graph.reshape(_to_rows(graph, samples), 0, -1, hop), hop, 1)
    noise = None if white is None else _carry_noise(graph, chunk, white, hop)
    joined = _add_network(graph, chunk, generator, samples, graph.reshape(rows, 0, -1), noise)
    begin = graph.op("Add", chunk.read(hop), graph.slice(joined, 0, hop, axis=1))
    chunk.keep(graph.slice(joined, -hop, END, axis=1))
    restored = graph.concat(begin, graph.slice(joined, hop, -hop, axis=1), axis=1)
    graph.output(_like(graph, restored, samples), "restored", ["batch", "channels", "samples"])
    graph.output(chunk.next_state(), "next_state", ["rows", chunk.size])
    graph.input("state", ["rows", chunk.size])
    return graph.build("apollo")


def _to_rows(graph: GraphBuilder, samples: str) -> str:
    return graph.op("Reshape", samples, graph.concat(graph.ints(-1), graph.size(samples, 2), axis=0))


def _like(graph: GraphBuilder, rows: str, samples: str) -> str:
    return graph.op("Reshape", rows, graph.op("Shape", samples))


def _carry_noise(graph: GraphBuilder, chunk: Chunk, white: str, hop: int) -> str:
    """Return the noise with the hop before it, which is kept in every row and read from the first."""
    first = graph.slice(chunk.read(2 * hop), 0, 1, axis=0)
    joined = graph.concat(graph.reshape(first, 2, hop), white, axis=1)
    last = graph.reshape(graph.slice(joined, -hop, END, axis=1), 1, 2 * hop)
    chunk.keep(graph.op("Expand", last, graph.concat(graph.size("state", 0), graph.ints(1), axis=0)))
    return joined


def _add_network(
    graph: GraphBuilder, frames: Frames, generator: Generator, samples: str, rows: str, noise: str | None
) -> str:
    """Add the generator; `rows` have a hop more than there are frames, as has what is returned."""
    config = generator.config
    spectrum = add_analysis(graph, rows, config.window_samples)
    aligned, sizes, normalized = [spectrum], [2 * config.bins], spectrum
    if generator.normalizes_level:
        level, shares = add_level(graph, frames, generator, spectrum, samples if noise is not None else None)
        spectrum = frames.align(spectrum, 2 * config.bins, 0)
        squared = graph.op("Add", graph.op("Mul", level, level), graph.number(LEVEL_FLOOR))
        normalized = graph.op("Div", spectrum, graph.op("Sqrt", squared))
        aligned, sizes = [spectrum, level, *shares], [2 * config.bins, 1, *(1 for _ in shares)]
    since = frames.delay
    prediction, log_gains = add_trunk(graph, frames, generator.trunk, split_parts(graph, normalized))
    joined = frames.align(graph.concat(*aligned, axis=2), sum(sizes), since)
    degraded, *level_and_share = graph.split(joined, sizes, axis=2)
    output = _combine(graph, generator, split_parts(graph, degraded), prediction, level_and_share)
    if log_gains is not None and noise is not None:
        level, share = level_and_share
        amplitude = graph.op("Mul", add_amplitude(graph, log_gains, config.noise_limit), level)
        spectra = split_parts(graph, add_analysis(graph, noise, config.window_samples))
        mixed = add_noise(graph, spectra, amplitude, share)
        output = Complex(*(graph.op("Add", *pair) for pair in zip(output, mixed)))
    return add_synthesis(graph, graph.concat(*output, axis=2), config.window_samples)


def _combine(
    graph: GraphBuilder, generator: Generator, degraded: Complex, prediction: Complex, level: list[str]
) -> Complex:
    """Add what makes the deterministic part of the output from the trunk's prediction."""
    if generator.config.output == "mask_and_noise":
        prediction = multiply(graph, degraded, prediction)
    elif generator.normalizes_level:
        prediction = Complex(*(graph.op("Mul", part, level[0]) for part in prediction))
    if generator.config.output == "direct":
        return prediction
    return Complex(*(graph.op("Add", *pair) for pair in zip(degraded, prediction)))
