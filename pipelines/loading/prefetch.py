"""What every source of examples does with the positions that it is asked for: check them, and work ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from apollo.training.data import Example

Item = TypeVar("Item")


def submit_ahead(
    items: Iterable[Item], make: Callable[[Item], Example], pool: ThreadPoolExecutor, look_ahead: int
) -> Iterator[tuple[Item, Future[Example]]]:
    """Let a pool make examples of items, some ahead of the one that is given.

    The pool gets its work in bursts, half of what is ahead at a time: a thread that wakes may take the
    consumer's core from it for some milliseconds, so it should not wake at every step.
    """
    ahead: deque[tuple[Item, Future[Example]]] = deque()
    for item in items:
        ahead.append((item, pool.submit(make, item)))
        if len(ahead) > look_ahead:
            while len(ahead) > look_ahead // 2:
                yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


def check_increasing(start: int, positions: Iterable[int]) -> Iterator[int]:
    """Add a start to positions.

    Raises:
        ValueError: they do not rise from 0 or more.
    """
    before = -1
    for position in positions:
        if position <= before:
            raise ValueError(f"position {position} comes after {before}: positions must rise, from 0")
        before = position
        yield start + position
