"""Frames around each frame, in a graph: of a whole signal, or of a chunk with a state.

In a chunk, what needs later frames comes out later: its values lag behind the input by `delay` frames. The
state is one vector a row, so that a program carries one value from call to call.

Shape legend: values [rows, frames, features], float32.
"""

from typing import Protocol

from apollo.onnx.graph import END, GraphBuilder


class Frames(Protocol):
    """How a graph reaches the frames before and after a frame.

    Attributes:
        delay: Frames by which values lag behind the input here.
    """

    delay: int

    def extend(self, x: str, features: int, *, past: int, lookahead: int) -> tuple[str, str]:
        """Return x with frames before and after it, zeros where the signal has none; and x.

        From here on values lag behind by `lookahead` frames more, in a chunk.
        """

    def align(self, x: str, features: int, since: int) -> str:
        """Return x, which lagged behind by `since` frames, so that it lags behind as values do here."""


class WholeSignal:
    """All frames of a signal at once: nothing lags behind."""

    delay = 0

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph

    def extend(self, x: str, features: int, *, past: int, lookahead: int) -> tuple[str, str]:
        """Return x with zeros before and after it; and x."""
        return self._graph.op("Pad", x, self._graph.ints(0, past, 0, 0, lookahead, 0)), x

    def align(self, x: str, features: int, since: int) -> str:
        """Return x."""
        return x


class Chunk:
    """The next frames of a signal.

    Args:
        graph: To add to.
        state: Value [rows, size]; the attribute `size` is right once all is added.
        valid: Value [frames]: 1 for frames of the signal, 0 for those before and after it.
        lookahead: Frames by which the last values will lag behind.
    """

    def __init__(self, graph: GraphBuilder, state: str, valid: str, lookahead: int) -> None:
        self.delay, self.size = 0, 0
        self._graph, self._state, self._after = graph, state, list[str]()
        self._lookahead, self._num_frames = lookahead, graph.size(valid, 0)
        shape = graph.concat(graph.size(state, 0), self._num_frames, graph.ints(1), axis=0)
        per_row = graph.op("Expand", graph.op("Unsqueeze", valid, graph.ints(1)), shape)
        self._valid = self.carry(per_row, 1, lookahead)

    def extend(self, x: str, features: int, *, past: int, lookahead: int) -> tuple[str, str]:
        """Return x with frames before and after it, and x, both lagging behind by `lookahead` more."""
        mask = self._cut(self._valid, self._lookahead - self.delay)
        extended = self.carry(self._graph.op("Mul", x, mask), features, past + lookahead)
        self.delay += lookahead
        return extended, self._cut(extended, past)

    def align(self, x: str, features: int, since: int) -> str:
        """Return x with as many frames of earlier calls before it as it must lag behind more."""
        return x if self.delay == since else self._cut(self.carry(x, features, self.delay - since), 0)

    def carry(self, x: str, features: int, frames: int) -> str:
        """Return x with the last frames of earlier calls before it."""
        if not frames:
            return x
        graph = self._graph
        before = graph.reshape(self.read(frames * features), 0, frames, features)
        joined = graph.concat(before, x, axis=1)
        self.keep(graph.reshape(graph.slice(joined, -frames, END, axis=1), 0, frames * features))
        return joined

    def read(self, size: int) -> str:
        """Return the next part of the state, [rows, size]; `keep` must follow before another `read`."""
        self.size += size
        return self._graph.slice(self._state, self.size - size, self.size, axis=1)

    def keep(self, value: str) -> None:
        """Set the part of the next state that was read last: [rows, size]."""
        self._after.append(value)

    def next_state(self) -> str:
        """Return the state after these frames."""
        return self._graph.concat(*self._after, axis=1)

    def _cut(self, x: str, begin: int) -> str:
        """Return as many frames of x as came in, from `begin` on."""
        graph = self._graph
        end = graph.op("Add", self._num_frames, graph.ints(begin))
        return graph.op("Slice", x, graph.ints(begin), end, graph.ints(1))
