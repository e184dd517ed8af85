"""The catalog: sources and windows of a split as arrays, and which test categories they can fill."""

from typing import Any

import numpy as np
import pytest

from pipelines.preprocess.catalog import Catalog
from pipelines.schema import MIXTURE, STEMS


def _row(stem: str, song: str, group: str | None = None) -> dict[str, Any]:
    return {"source_id": f"{song}/{stem}", "stem": stem, "group_id": group or song}


def _catalog(*stems: str) -> Catalog:
    rows = [_row(stem, f"song {number}") for number, stem in enumerate(stems)]
    return Catalog.of(rows, {row["source_id"]: [[0, 264_600, -20.0, 1]] for row in rows})


def test_sources_are_sorted_by_class_and_name_whatever_order_they_come_in() -> None:
    rows = [_row(stem, song) for song in ("b", "a", "c") for stem in ("vocals", MIXTURE, "bass")]
    segments = {row["source_id"]: [[number, 9, -1.0, number + 1]] for number, row in enumerate(rows)}
    forward, backward = Catalog.of(rows, segments), Catalog.of(rows[::-1], segments)
    expected = [f"{song}/{stem}" for stem in ("bass", "vocals", MIXTURE) for song in "abc"]
    for catalog in (forward, backward):
        assert catalog.source_ids.to_pylist() == expected
        assert catalog.window_start.tolist() == [segments[name][0][0] for name in expected]
        assert catalog.active_starts.tolist() == [segments[name][0][3] for name in expected]


def test_ranges_lead_from_class_to_sources_to_windows() -> None:
    rows = [_row("drums", "a"), _row("drums", "b"), _row("wind", "a"), _row(MIXTURE, "b")]
    segments = {
        "a/drums": [[0, 9, -1.0, 1], [7, 9, -1.0, 2]],
        "b/drums": [[5, 9, -1.0, 3]],
        "a/wind": [[1, 9, -1.0, 4], [2, 9, -1.0, 5], [3, 9, -1.0, 6]],
        "b/mixture": [[4, 9, -1.0, 7]],
    }
    catalog = Catalog.of(rows, segments)
    for number, stem in enumerate((*STEMS, MIXTURE)):
        first, count = catalog.first_source[number], catalog.num_sources[number]
        names = catalog.source_ids.to_pylist()[first : first + count]
        assert names == [row["source_id"] for row in rows if row["stem"] == stem]
    for number, name in enumerate(catalog.source_ids.to_pylist()):
        first, count = catalog.first_window[number], catalog.num_windows[number]
        assert catalog.window_start[first : first + count].tolist() == [w[0] for w in segments[name]]


def test_songs_of_one_group_share_a_number_and_count_as_one() -> None:
    rows = [_row("drums", "a", "one"), _row("drums", "b", "one"), _row("drums", "c", "two")]
    catalog = Catalog.of(rows, {row["source_id"]: [[0, 9, -1.0, 1]] for row in rows})
    assert catalog.groups[0] == catalog.groups[1] != catalog.groups[2]
    assert catalog.num_songs == 2


@pytest.mark.parametrize(
    "stems, categories",
    [
        (("vocals", "drums", "bass", MIXTURE), ("vocal", "single_stem", "multi_stems", "multi_stems_vocal")),
        (("vocals", "drums"), ("vocal", "single_stem", "multi_stems_vocal")),
        (("vocals",), ("vocal",)),
        (("vocals", MIXTURE), ("vocal",)),
        (("drums", "drums"), ("single_stem",)),
        (("drums", "bass"), ("single_stem", "multi_stems")),
        ((MIXTURE,), ("song",)),
        ((), ()),
    ],
)
def test_categories_are_those_that_the_classes_can_fill(
    stems: tuple[str, ...], categories: tuple[str, ...]
) -> None:
    assert _catalog(*stems).categories() == categories


def test_stems_are_the_classes_with_a_source_and_songs_stand_apart() -> None:
    catalog = _catalog("wind", "bass", MIXTURE)
    assert [STEMS[number] for number in catalog.stems] == ["bass", "wind"]
    assert catalog.has_songs
    assert not _catalog("bass").has_songs


def test_empty_split_is_an_empty_catalog() -> None:
    catalog = Catalog.of([], {})
    assert (len(catalog.source_ids), catalog.num_songs, catalog.has_songs) == (0, 0, False)
    assert not np.any(catalog.num_sources)
