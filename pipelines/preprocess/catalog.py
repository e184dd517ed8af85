"""The usable sources of a split and their active windows, as arrays that recipes are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.schema import MIXTURE, SONG, STEMS, VOCALS

_Int = NDArray[np.int64]


@dataclass(frozen=True)
class Catalog:
    """The usable sources of one split, by class, and their active windows.

    Args:
        source_ids: Ids, sorted by class and id.
        groups: Number of the recording that each source belongs to.
        first_source, num_sources: Range of each class (STEMS, then MIXTURE) in the sources.
        first_window, num_windows: Range of each source in the windows.
        window_start: First sample of each window.
        active_starts: Bit mask of each window, as in segments.parquet.
    """

    source_ids: pa.Array
    groups: _Int
    first_source: _Int
    num_sources: _Int
    first_window: _Int
    num_windows: _Int
    window_start: _Int
    active_starts: NDArray[np.uint32]

    @classmethod
    def of(cls, sources: list[dict[str, Any]], segments: Mapping[str, list[Any]]) -> "Catalog":
        """Build a catalog from rows of sources.parquet and, by id, (start, frames, RMS, active starts)."""
        classes = (*STEMS, MIXTURE)
        rows = sorted(sources, key=lambda row: (classes.index(row["stem"]), row["source_id"]))
        numbers = {group: number for number, group in enumerate(sorted({row["group_id"] for row in rows}))}
        windows = [segments[row["source_id"]] for row in rows]
        counts = np.array([len(found) for found in windows], np.int64)
        of_class = np.array([classes.index(row["stem"]) for row in rows], np.int64)
        num_sources = np.bincount(of_class, minlength=len(classes)).astype(np.int64)
        flat = [window for found in windows for window in found]
        return cls(
            pa.array([row["source_id"] for row in rows], pa.string()),
            np.array([numbers[row["group_id"]] for row in rows], np.int64),
            np.cumsum(num_sources) - num_sources,
            num_sources,
            np.cumsum(counts) - counts,
            counts,
            np.array([window[0] for window in flat], np.int64),
            np.array([window[3] for window in flat], np.uint32),
        )

    @property
    def stems(self) -> _Int:
        """Numbers of the stem classes with a source."""
        return np.flatnonzero(self.num_sources[: len(STEMS)])

    @property
    def has_songs(self) -> bool:
        """Whether there is a whole song."""
        return bool(self.num_sources[len(STEMS)])

    def categories(self) -> tuple[str, ...]:
        """Return the test categories that these sources can fill; whole songs only if no other."""
        others = [stem for stem in self.stems if STEMS[stem] != VOCALS]
        vocals = len(others) < len(self.stems)
        possible = {
            "vocal": vocals,
            "single_stem": bool(others),
            "multi_stems": len(others) > 1,
            "multi_stems_vocal": vocals and bool(others),
        }
        found = tuple(name for name, is_possible in possible.items() if is_possible)
        return found or ((SONG,) if self.has_songs else ())

    @property
    def num_songs(self) -> int:
        """Number of different recordings."""
        return len(np.unique(self.groups))
