"""Progress for people: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from pipelines.redaction import shown
from pipelines.runtime import prometheus

_Item = TypeVar("_Item")
_LINE_SECONDS = 30.0


_speak: Callable[[str], object] | None = None


def speak_through(speak: Callable[[str], object]) -> None:
    """Let `say` in this process speak through something else: a worker has no terminal."""
    global _speak
    _speak = speak


def say(text: str) -> None:
    """Print a line at once, without passwords, without disturbing a bar."""
    text = shown(text)
    if _speak is not None:
        _speak(text)
        return
    tqdm.write(text, file=sys.stderr)


def watch(items: Iterable[_Item], *, total: int, done: int, what: str, unit: str) -> Iterator[_Item]:
    """Pass items through and show how far they are, to Prometheus too.

    Args:
        items: What is counted.
        total: All there are, those done before included.
        done: Done before.
        what: What is being done.
        unit: Name of one item.
    """
    items = _counted(items, total - done, what)
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=done, desc=what, unit=f" {unit}", file=sys.stderr)
        return
    began = spoke = time.monotonic()
    count = done
    for item in items:
        count += 1
        yield item
        now = time.monotonic()
        if now - spoke >= _LINE_SECONDS or count == total:
            left = (now - began) / (count - done) * (total - count)
            say(f"{what}: {count} of {total} {unit}s, {now - began:.0f} s, about {left:.0f} s left")
            spoke = now


def _counted(items: Iterable[_Item], left: int, stage: str) -> Iterator[_Item]:
    prometheus.record("apollo_items_open", left, stage=stage)
    for item in items:
        left -= 1
        prometheus.record("apollo_items_open", left, stage=stage)
        yield item
