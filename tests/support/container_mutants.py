"""Mutations of audio files as data: what fails shrinks to a short example, which is printed.

Each changes one chunk, with which it is named.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from hypothesis import strategies as st

from tests.support.container_chunks import Chunk, Order, pack, split

_BITS = (7, 8, 15, 16, 31, 32, 63, 64)
NUMBERS = (0, 1, 2, *((1 << bits) - less for bits in _BITS for less in (2, 1, 0)))
TEXTS = (
    b"\n  Duration: 99:00:00.00, start: 0\n  Stream #0:0: Audio: flac, 1 Hz, mono",
    b"\0" * 40,
    b"\xff\xfe\0\xd8\xff\xfb\x90\0",
    b"title=" * 20_000,
    b"\x1b]0;a title\x07\r\n",
)


class Mutation(Protocol):
    """A change of one chunk, which is named."""

    chunk: str

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        """Change a chunk, or the one around it."""


@dataclass(frozen=True)
class Write:
    """Overwrite bytes of a chunk's header and content."""

    chunk: str
    at: int
    width: int
    order: Order
    value: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        inside = chunk.content if isinstance(chunk.content, bytes) else b""
        data = bytearray(chunk.header + inside)
        if data:
            at = self.at % len(data)
            data[at : at + self.width] = pack(self.value, self.width, self.order)
        length = len(chunk.header)
        chunk.header = bytes(data[:length])
        if inside:
            chunk.content = bytes(data[length:])


@dataclass(frozen=True)
class Declare:
    """Write a wrong size into a chunk's header: a value, or one beside the right one."""

    chunk: str
    value: int
    relative: bool

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        chunk.declared = (self.value, self.relative)


@dataclass(frozen=True)
class Cut:
    """Keep the first bytes or chunks of a chunk's content."""

    chunk: str
    keep: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        chunk.content = chunk.content[: self.keep]


@dataclass(frozen=True)
class Copy:
    """Repeat a chunk."""

    chunk: str
    times: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        if around:
            _put(around, chunk, [chunk] * (1 + self.times))
        else:
            chunk.header, chunk.content = b"", [replace(chunk)] * (1 + self.times)


@dataclass(frozen=True)
class Move:
    """Put a chunk at another place in the one around it."""

    chunk: str
    to: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        if around and isinstance(around.content, list):
            _put(around, chunk, [])
            around.content.insert(self.to, chunk)


@dataclass(frozen=True)
class Nest:
    """Put a chunk into copies of its own header."""

    chunk: str
    depth: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        for _ in range(self.depth):
            chunk.content = [replace(chunk)]


@dataclass(frozen=True)
class Insert:
    """Put bytes in front of a chunk's content."""

    chunk: str
    text: int

    def apply(self, chunk: Chunk, around: Chunk | None) -> None:
        text = TEXTS[self.text]
        chunk.content = (
            text + chunk.content
            if isinstance(chunk.content, bytes)
            else [Chunk("text", text), *chunk.content]
        )


def _put(around: Chunk, chunk: Chunk, chunks: list[Chunk]) -> None:
    """Put chunks in place of one."""
    assert isinstance(around.content, list)
    at = next(number for number, one in enumerate(around.content) if one is chunk)
    around.content[at : at + 1] = chunks


@dataclass(frozen=True)
class Mutant:
    """A file and what is done to it, one after the other."""

    original: str
    mutations: tuple[Mutation, ...]

    def make(self, content: bytes) -> bytes:
        """Return the changed file; what a mutation before took away is left out."""
        tree = split(self.original.rpartition(".")[2], content)
        for mutation in self.mutations:
            found = next((pair for pair in tree.walk() if pair[0].name == mutation.chunk), None)
            if found:
                mutation.apply(*found)
        return tree.serialize()


def mutants(originals: dict[str, bytes]) -> st.SearchStrategy[Mutant]:
    """Return the strategy of all mutants of files, which are given by name."""
    return st.sampled_from(sorted(originals)).flatmap(
        lambda name: st.builds(Mutant, st.just(name), _mutations(name, originals[name]))
    )


def _mutations(name: str, content: bytes) -> st.SearchStrategy[tuple[Mutation, ...]]:
    tree = split(name.rpartition(".")[2], content)
    chunks = st.sampled_from([chunk.name for chunk, _ in tree.walk()])
    sized = st.sampled_from([chunk.name for chunk, _ in tree.walk() if chunk.size_bytes] or ["file"])
    orders = st.sampled_from(("big", "little"))
    values = st.sampled_from(NUMBERS) | st.integers(0, (1 << 64) - 1)
    small = st.integers(0, 8) | st.integers(0, 200)
    one = st.one_of(
        st.builds(Write, chunks, st.integers(0, 80), st.sampled_from((1, 2, 3, 4, 8)), orders, values),
        st.builds(Declare, sized, values, st.just(value=False)),
        st.builds(Declare, sized, st.integers(-40, 40), st.just(value=True)),
        st.builds(Cut, chunks, small | st.integers(0, 5_000)),
        st.builds(Copy, chunks, st.integers(1, 4)),
        st.builds(Move, chunks, st.integers(0, 10)),
        st.builds(Nest, chunks, st.integers(1, 100)),
        st.builds(Insert, chunks, st.integers(0, len(TEXTS) - 1)),
    )
    return st.lists(one, min_size=1, max_size=3).map(tuple)
