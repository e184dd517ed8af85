"""Check positions, and make examples ahead of their use, for all sources of examples."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from apollo.training.data import Example

Item = TypeVar("Item")


def submit_ahead(
    items: Iterable[Item], make: Callable[[Item], Example], pool: ThreadPoolExecutor, look_ahead: int
) -> Iterator[tuple[Item, Future[Example]]]:
    """Make examples of items in a pool, some ahead of the one that is yielded.

    The pool gets work in bursts of half the look-ahead: a thread that wakes may take the consumer's core for
    some milliseconds, so it should not wake at every step.
    """
    ahead: deque[tuple[Item, Future[Example]]] = deque()
    for item in items:
        ahead.append((item, pool.submit(make, item)))
        if len(ahead) > look_ahead:
            while len(ahead) > look_ahead // 2:
                yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


def check_increasing(positions: Iterable[int]) -> Iterator[int]:
    """Yield positions, and check that they are not negative and strictly increasing.

    Raises:
        ValueError: they are not.
    """
    before = -1
    for position in positions:
        if position <= before:
            raise ValueError(f"position {position} comes after {before}: positions must increase, from 0")
        before = position
        yield position


def drain(items: list[Item]) -> Iterator[Item]:
    """Yield the items of a list, and release each."""
    items.reverse()
    while items:
        yield items.pop()
