"""Items of an evaluation: clean audio at one or more degradations.

They come from a split of shards (`pipelines.evaluation.shard_items`) or from a folder of pairs
(`pipelines.evaluation.pair_items`).

Shape legend: samples are [channels, samples], float32, 44,100 Hz.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.audio.bandwidth import measure_cutoff_hz, power_spectrogram

_CUTOFF_ITEMS = 24
_MAX_CUTOFF_HZ = 20_000.0


class ItemInfo(NamedTuple):
    """An item, without its audio.

    Args:
        name: Recipe id, or the name of a pair.
        songs: Song groups that it is mixed from; intervals are bootstrapped over them.
        category: One of `schema.CATEGORIES`.
    """

    name: str
    songs: tuple[str, ...]
    category: str


class Degradation(NamedTuple):
    """A degradation of items.

    Args:
        name: Column of the shards, or folder of the pairs.
        bitrate_bps: Requested of the encoder; None if unknown.
    """

    name: str
    bitrate_bps: int | None


@dataclass(frozen=True)
class EvaluationItem:
    """An item's audio at one degradation.

    Args:
        clean: The codec's input, [channels, samples].
        degraded: The decoded output of the codec, in the same shape.
        gain: Linear gain of the codec's output over the clean audio.
        restored: Results that the data contain, by model: samples in the same shape, which may be non-finite,
            or the reason why the result cannot be used.
        bandwidth_hz: Frequency up to which the clean audio is known; infinite if completely.
        lag: Samples by which `degraded` is later than `clean`; 0 where that was taken out.
        restored_lags: The same of results that the data contain, by model.
    """

    clean: NDArray[np.float32]
    degraded: NDArray[np.float32]
    gain: float
    restored: dict[str, NDArray[np.float32] | str] = field(default_factory=dict)
    bandwidth_hz: float = math.inf
    lag: int = 0
    restored_lags: dict[str, int] = field(default_factory=dict)


class ItemSource(Protocol):
    """A set of items that can be pickled and sent to other nodes.

    Attributes:
        items: All items.
        degradations: Sorted by bitrate.
        result_models: Models whose results the data contain.
        fingerprint: Hash of all that determines the scores.
    """

    items: tuple[ItemInfo, ...]
    degradations: tuple[Degradation, ...]
    result_models: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of all that determines the scores."""
        ...

    def indices(self, degradation: str) -> list[int]:
        """Return the indices in `items` of those that have a degradation."""
        ...

    def load(self, indices: Sequence[int], degradation: str) -> Iterator[EvaluationItem | str]:
        """Yield items at one degradation in the given order, or the reason why one cannot be used."""
        ...


def choose_evenly(categories: Sequence[str], limit: int | None) -> list[int]:
    """Choose `limit` indices evenly over the categories and, within each, over the whole sequence."""
    if limit is None or limit >= len(categories):
        return list(range(len(categories)))
    by_category = sorted(range(len(categories)), key=lambda place: (categories[place], place))
    return sorted(by_category[place * len(by_category) // limit] for place in range(limit))


def find_cutoff_hz(item_source: ItemSource, degradation: str) -> float:
    """Measure the low-pass cutoff of a degradation on the mean spectra of up to 24 items.

    Returns:
        Hz, at most 20 kHz; 20 kHz if no item can be read.
    """
    numbers = item_source.indices(degradation)
    numbers = [
        numbers[place] for place in choose_evenly([""] * len(numbers), min(_CUTOFF_ITEMS, len(numbers)))
    ]
    readable = [one for one in item_source.load(numbers, degradation) if isinstance(one, EvaluationItem)]
    if not readable:
        return _MAX_CUTOFF_HZ
    clean, degraded = (
        np.sum([power_spectrogram(samples.T).mean(axis=1) for samples in versions], axis=0)
        for versions in zip(*((one.clean, one.degraded) for one in readable))
    )
    return min(measure_cutoff_hz(clean, degraded), _MAX_CUTOFF_HZ)
