"""What is scored: the items of an evaluation, at one or more degradations.

They come from a split of shards (`pipelines.evaluation.shard_items`) or from a folder of pairs
(`pipelines.evaluation.pair_items`).

Shape legend: samples are [channels, samples], float32, 44,100 Hz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.audio.bandwidth import find_edge_hz, power_spectrogram

_EDGE_ITEMS = 24
_HIGHEST_EDGE_HZ = 20_000.0


class ItemInfo(NamedTuple):
    """One thing to score, at one or more degradations.

    Args:
        name: Recipe id, or the name of a pair.
        songs: Groups of songs that it is made of.
        category: One of `schema.CATEGORIES`.
    """

    name: str
    songs: tuple[str, ...]
    category: str


class Degradation(NamedTuple):
    """A degradation of items.

    Args:
        name: Of the column, or of the folder.
        bitrate_bps: As asked of the encoder; None where nobody knows.
    """

    name: str
    bitrate_bps: int | None


@dataclass(frozen=True)
class EvaluationItem:
    """An item at one degradation.

    Args:
        clean: What the codec was given.
        degraded: What it left, decoded: what `apollo restore` would be given.
        gain: Linear level of the codec's output over the clean audio.
        restored: What somebody's model made of it, by that model's name, where the data bring it along:
            samples in the item's shape, perhaps not finite, or the reason why that result cannot be used.
    """

    clean: NDArray[np.float32]
    degraded: NDArray[np.float32]
    gain: float
    restored: dict[str, NDArray[np.float32] | str] = field(default_factory=dict)


class ItemSource(Protocol):
    """Items; safe to send to other nodes.

    Attributes:
        items: All of them.
        degradations: By bitrate.
        result_models: Models whose results the data bring along.
        fingerprint: Of everything that decides the scores.
    """

    items: tuple[ItemInfo, ...]
    degradations: tuple[Degradation, ...]
    result_models: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A hash; with another one, other scores come."""
        ...

    def indices(self, degradation: str) -> list[int]:
        """Give the places in `items` of those that have a degradation."""
        ...

    def load(self, indices: Sequence[int], degradation: str) -> Iterator[EvaluationItem | str]:
        """Give items at one degradation, in their order; one that cannot be used as the reason why."""
        ...


def choose_evenly(categories: Sequence[str], limit: int | None) -> list[int]:
    """Choose places evenly: of every category its share, and each from all over the split."""
    if limit is None or limit >= len(categories):
        return list(range(len(categories)))
    by_category = sorted(range(len(categories)), key=lambda place: (categories[place], place))
    return sorted(by_category[place * len(by_category) // limit] for place in range(limit))


def find_cutoff_hz(item_source: ItemSource, degradation: str) -> float:
    """Find a degradation's low-pass edge, over the mean spectra of some items; 20 kHz is the highest.

    Returns:
        Hz; 20 kHz too where no item can be used.
    """
    numbers = item_source.indices(degradation)
    numbers = [numbers[place] for place in choose_evenly([""] * len(numbers), min(_EDGE_ITEMS, len(numbers)))]
    sound = [one for one in item_source.load(numbers, degradation) if isinstance(one, EvaluationItem)]
    if not sound:
        return _HIGHEST_EDGE_HZ
    clean, degraded = (
        np.sum([power_spectrogram(samples.T).mean(axis=1) for samples in versions], axis=0)
        for versions in zip(*((one.clean, one.degraded) for one in sound))
    )
    return min(find_edge_hz(clean, degraded), _HIGHEST_EDGE_HZ)
