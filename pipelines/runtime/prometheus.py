"""Metrics for Prometheus: one table of all, and how they are recorded; see docs/observability.md.

Ray prefixes names with `ray_`. A process exports its metrics every ten seconds and when it ends, also when
Ray ends it; a process that is killed otherwise (out of memory) loses what it counted since. So results of
actors are counted in the driver, from the rows that they return: once, however often an actor died, and in
one series per run. Training workers count for themselves: what a killed one had not exported are mostly steps
that are repeated.

Without an initialized Ray nothing is recorded, and Ray is not imported.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from apollo.audio.rejects import RejectKind


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: Without Ray's prefix; ends with its unit, a counter's with `_total`.
        kind: Counters only rise, gauges are set, histograms count values by size.
        unit: Of its values: `seconds`, `bytes`, or what is counted.
        tags: Names of its tags; each has few values.
        text: Description, in a sentence.
        buckets: Upper edges of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    tags: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


_ENCODE_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_SONG_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 3_600.0, 10_800.0)
_TABLE = (
    # every stage that goes through items one by one: scan, render, restore
    ("apollo_items_open", "gauge", "items", ("stage",), "Items that a stage has left."),
    # preprocess
    ("apollo_songs_scanned_total", "counter", "songs", (), "Songs scanned."),
    ("apollo_sources_rejected_total", "counter", "sources", ("reason",), "Sources left out of a new plan."),
    ("apollo_shards_committed_total", "counter", "shards", ("split",), "Shards made."),
    ("apollo_shard_bytes_total", "counter", "bytes", (), "Size of the shards made."),
    ("apollo_recipes_committed_total", "counter", "recipes", ("split",), "Recipes made: rows of shards."),
    ("apollo_recipes_rejected_total", "counter", "recipes", ("reason",), "Recipes that could not be made."),
    ("apollo_render_cpu_seconds_total", "counter", "seconds", (), "Processor time of shards, encoders' too."),
    ("apollo_encode_seconds", "histogram", "seconds", (), "An excerpt at all bitrates.", _ENCODE_BUCKETS),
    # train
    ("apollo_training_starts_total", "counter", "starts", (), "Starts of rank 0, restarts included."),
    ("apollo_training_steps_total", "counter", "steps", (), "Steps, repeated ones included."),
    ("apollo_training_skipped_steps_total", "counter", "steps", (), "Steps skipped as non-finite."),
    ("apollo_training_examples_total", "counter", "examples", (), "Examples of these, of all workers."),
    ("apollo_training_seconds_total", "counter", "seconds", (), "Time of steps, on the first worker."),
    ("apollo_training_data_wait_seconds_total", "counter", "seconds", (), "The part spent without examples."),
    ("apollo_training_rows_rejected_total", "counter", "rows", ("reason",), "Rows that a worker left out."),
    ("apollo_training_checkpoints_total", "counter", "checkpoints", (), "Checkpoints written."),
    # evaluate
    ("apollo_items_scored_total", "counter", "items", ("status",), "Items scored, by status."),
    # restore
    ("apollo_songs_restored_total", "counter", "songs", (), "Songs restored."),
    ("apollo_songs_failed_total", "counter", "songs", ("reason",), "Songs that could not be restored."),
    ("apollo_restored_audio_seconds_total", "counter", "seconds", (), "Length of the songs restored."),
    ("apollo_restore_seconds", "histogram", "seconds", (), "Time of a song restored.", _SONG_BUCKETS),
)  # fmt: skip
METRICS = {row[0]: Metric(*row) for row in _TABLE}


def record(name: str, value: float = 1.0, **tags: str) -> None:
    """Add to a counter, set a gauge, or observe a value in a histogram; does nothing without Ray.

    Args:
        name: Of METRICS.
        value: In its unit.
        tags: A value for each of its tags.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    kind = METRICS[name].kind
    if kind == "gauge":
        _instrument(name).set(float(value), tags)
    elif kind == "histogram":
        _instrument(name).observe(float(value), tags)
    elif value > 0:  # Ray refuses to add nothing
        _instrument(name).inc(float(value), tags)


@cache
def _instrument(name: str) -> Any:
    from ray.util import metrics

    metric = METRICS[name]
    if metric.kind == "counter":
        return metrics.Counter(name, metric.text, metric.tags)
    if metric.kind == "gauge":
        return metrics.Gauge(name, metric.text, metric.tags)
    return metrics.Histogram(name, metric.text, list(metric.buckets), metric.tags)


def count_rejects(name: str, rejects: Iterable[Mapping[str, Any]]) -> None:
    """Add rejects to a counter whose tag is the kind of their reason; older records have none."""
    for kind, number in Counter(reject.get("kind") or RejectKind.OTHER for reject in rejects).items():
        record(name, number, reason=str(kind))
