"""Progress of a stage: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from pipelines.runtime import prometheus

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_LINE_SECONDS = 30.0


def track_progress(
    items: Iterable[_Item], *, total: int, done: int, description: str, unit: str
) -> Iterator[_Item]:
    """Yield items, and show the progress on the terminal or in the log, and in Prometheus.

    Args:
        items: Results as they come.
        total: Number of items, with those done before.
        done: Number of items done before.
        description: Name of the stage.
        unit: Name of one item.
    """
    items = _counted(items, total - done, description)
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=done, desc=description, unit=f" {unit}", file=sys.stderr)
        return
    began = logged = time.monotonic()
    count = done
    for item in items:
        count += 1
        yield item
        now = time.monotonic()
        if now - logged >= _LINE_SECONDS or count == total:
            left = (now - began) / (count - done) * (total - count)
            logger.info(
                f"{description}: {count} of {total} {unit}s, {now - began:.0f} s, about {left:.0f} s left"
            )
            logged = now


def _counted(items: Iterable[_Item], left: int, stage: str) -> Iterator[_Item]:
    prometheus.record("apollo_items_open", left, stage=stage)
    for item in items:
        left -= 1
        prometheus.record("apollo_items_open", left, stage=stage)
        yield item
