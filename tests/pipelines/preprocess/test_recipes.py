"""Recipes: a pure function of (seed, split, index) with the paper's distributions.

Bounds on random numbers hold at the 0.1 % level; the seed is fixed, so they hold always or never.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.audio.activity import START_GRID
from pipelines.preprocess import recipes
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.recipes import RecipesConfig, draw_recipes, num_recipes
from pipelines.schema import MIXTURE, RECIPES, STEMS

SEED, SHARD_ROWS = 3, 64
PAPERS_CATEGORIES = ("vocal", "single_stem", "multi_stems", "multi_stems_vocal")
CHI_SQUARE = {3: 16.3, 7: 24.3, 10: 29.6}  # 0.1 % by degrees of freedom
KOLMOGOROV = 1.95  # 0.1 %, over the root of the number of draws


class Collection:
    """Sources of a split: every song with the stems given, and windows with random active starts."""

    def __init__(self, songs: dict[str, tuple[str, ...]]) -> None:
        generator = np.random.default_rng(0)
        self.group: dict[str, str] = {}
        self.segments: dict[str, list[list[Any]]] = {}
        rows = []
        for song, stems in songs.items():
            for stem in stems:
                name = f"{song}/{stem}"
                rows.append({"source_id": name, "stem": stem, "group_id": song})
                self.group[name] = song
                masks = generator.integers(1, 1 << 31, generator.integers(1, 5))
                self.segments[name] = [[k * 132_300, 264_600, -20.0, int(m)] for k, m in enumerate(masks)]
        self.catalog = Catalog.of(rows, self.segments)

    def starts(self, source: str) -> set[int]:
        return {
            first + bit * START_GRID
            for first, _, _, mask in self.segments[source]
            for bit in range(31)
            if mask >> bit & 1
        }


def _songs(number: int, *stems: str) -> dict[str, tuple[str, ...]]:
    return {f"song {index:02d}": stems for index in range(number)}


@pytest.fixture(scope="module")
def full() -> Collection:
    return Collection(_songs(12, *STEMS, MIXTURE))


def _draw(split: str, catalog: Catalog, config: RecipesConfig, *, seed: int = SEED) -> list[dict[str, Any]]:
    batches = list(draw_recipes(split, catalog, config, seed=seed, shard_rows=SHARD_ROWS))
    rows: list[dict[str, Any]] = pa.Table.from_batches(batches, RECIPES).to_pylist()
    return rows


@pytest.fixture(scope="module")
def train(full: Collection) -> list[dict[str, Any]]:
    return _draw("train", full.catalog, RecipesConfig(train=20_000))


@pytest.fixture(scope="module")
def mixes(train: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in train if row["category"] != "song"]


@pytest.fixture(scope="module")
def test_rows(full: Collection) -> list[dict[str, Any]]:
    return _draw("test", full.catalog, RecipesConfig(test_per_category=2_000))


def _classify(components: list[dict[str, Any]]) -> str:
    """The paper's categories, told without the code under test."""
    stems = {component["stem"] for component in components}
    if stems == {"mixture"}:
        return "song"
    if stems == {"vocals"}:
        return "vocal"
    if "vocals" in stems:
        return "multi_stems_vocal"
    return "single_stem" if len(stems) == 1 else "multi_stems"


def _chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


@pytest.mark.parametrize(
    "split, few, many",
    [
        ("train", {"train": 100}, {"train": 3_000}),
        ("valid", {"valid": 65}, {"valid": 500}),
        ("test", {"test_per_category": 20}, {"test_per_category": 300}),
    ],
)
def test_short_plan_is_the_beginning_of_a_long_one(
    full: Collection, split: str, few: dict[str, int], many: dict[str, int]
) -> None:
    short = _draw(split, full.catalog, RecipesConfig(**few))
    assert short == _draw(split, full.catalog, RecipesConfig(**many))[: len(short)]


@pytest.mark.parametrize("rows", [1, 7, 64, 1_000])
def test_recipes_do_not_depend_on_the_batches_they_are_drawn_in(
    full: Collection, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    config = RecipesConfig(train=200, test_per_category=50)
    whole = {split: _draw(split, full.catalog, config) for split in ("train", "test")}
    monkeypatch.setattr(recipes, "_BATCH", rows)
    assert {split: _draw(split, full.catalog, config) for split in ("train", "test")} == whole


def test_seeds_and_splits_give_other_recipes(full: Collection) -> None:
    config = RecipesConfig(train=200, valid=200, song_share=0.0)
    drawn = [
        [row["components"] for row in _draw(split, full.catalog, config, seed=seed)]
        for split, seed in (("train", 0), ("train", 1), ("valid", 0), ("valid", 1))
    ]
    assert all(
        sum(a == b for a, b in zip(first, second, strict=True)) == 0
        for number, first in enumerate(drawn)
        for second in drawn[:number]
    )


def test_ids_are_unique_over_all_splits(
    full: Collection, train: list[dict[str, Any]], test_rows: list[dict[str, Any]]
) -> None:
    valid = _draw("valid", full.catalog, RecipesConfig(valid=2_000))
    ids = [row["recipe_id"] for row in train + valid + test_rows]
    assert len(set(ids)) == len(ids)
    assert {len(name) for name in ids} == {32}


def test_id_depends_on_the_content(full: Collection) -> None:
    rows = _draw("train", full.catalog, RecipesConfig(train=300))
    louder = _draw("train", full.catalog, RecipesConfig(train=300, gain_db=9.0))
    for row, other in zip(rows, louder, strict=True):
        assert (row["recipe_id"] == other["recipe_id"]) is (row["components"] == other["components"])


def test_rows_follow_the_schema_and_are_numbered_by_shard(train: list[dict[str, Any]]) -> None:
    assert [row["shard"] for row in train] == [index // SHARD_ROWS for index in range(len(train))]
    assert {row["split"] for row in train} == {"train"}


def test_gains_are_uniform_in_plus_or_minus_10_db(mixes: list[dict[str, Any]]) -> None:
    gains = np.sort([component["gain_db"] for row in mixes for component in row["components"]])
    assert -10 <= gains[0] < -9.99
    assert 9.99 < gains[-1] <= 10
    distance = np.abs(np.arange(1, len(gains) + 1) / len(gains) - (gains + 10) / 20).max()
    assert distance < KOLMOGOROV / np.sqrt(len(gains))


def test_gains_of_neighbouring_recipes_and_slots_are_unrelated(mixes: list[dict[str, Any]]) -> None:
    pairs = np.array(
        [[c["gain_db"] for c in row["components"][:2]] for row in mixes if len(row["components"]) > 1]
    )
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 3.3 / np.sqrt(len(pairs))
    assert abs(np.corrcoef(pairs[:-1, 0], pairs[1:, 0])[0, 1]) < 3.3 / np.sqrt(len(pairs))


def test_gains_starts_and_numbers_of_components_are_unrelated() -> None:
    """Each has a lane of random bits of its own."""
    collection = Collection({"a": ("drums",)})
    collection.catalog.active_starts[:] = (1 << 31) - 1
    rows = _draw("train", collection.catalog, RecipesConfig(train=5_000, gain_db=10.0))
    drawn = np.array(
        [
            (c["gain_db"], c["start"] % 132_300 // START_GRID, c["start"] // 132_300, len(row["components"]))
            for row in rows
            for c in row["components"][:1]
        ]
    )
    correlation = np.corrcoef(drawn.T) - np.eye(4)
    assert np.abs(correlation).max() < 3.9 / np.sqrt(len(drawn))  # six pairs


def test_numbers_of_components_are_uniform_from_1_to_8(mixes: list[dict[str, Any]]) -> None:
    counts = Counter(len(row["components"]) for row in mixes)
    assert set(counts) == set(range(1, 9))
    assert _chi_square(list(counts.values())) < CHI_SQUARE[7]


def test_classes_are_uniform_over_those_that_are_there(mixes: list[dict[str, Any]]) -> None:
    counts = Counter(component["stem"] for row in mixes for component in row["components"])
    assert set(counts) == set(STEMS)
    assert _chi_square(list(counts.values())) < CHI_SQUARE[10]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_song_share_is_the_share_of_whole_songs(full: Collection, share: float) -> None:
    rows = _draw("train", full.catalog, RecipesConfig(train=8_000, song_share=share))
    found = sum(row["category"] == "song" for row in rows) / len(rows)
    assert abs(found - share) <= 3.3 * np.sqrt(share * (1 - share) / len(rows))


def test_whole_songs_are_one_mixture_at_0_db(train: list[dict[str, Any]]) -> None:
    songs = [row["components"] for row in train if row["category"] == "song"]
    assert {len(components) for components in songs} == {1}
    assert {(c["stem"], c["gain_db"]) for components in songs for c in components} == {(MIXTURE, 0.0)}


def test_mixture_never_is_part_of_a_mix(mixes: list[dict[str, Any]]) -> None:
    assert MIXTURE not in {component["stem"] for row in mixes for component in row["components"]}


def test_categories_agree_with_an_independent_classification(
    train: list[dict[str, Any]], test_rows: list[dict[str, Any]]
) -> None:
    for row in train + test_rows:
        assert row["category"] == _classify(row["components"])


def test_component_names_its_own_class(train: list[dict[str, Any]], test_rows: list[dict[str, Any]]) -> None:
    for row in train + test_rows:
        assert all(c["source_id"].rpartition("/")[2] == c["stem"] for c in row["components"])


def test_test_split_is_balanced_over_the_four_categories(test_rows: list[dict[str, Any]]) -> None:
    assert Counter(row["category"] for row in test_rows) == dict.fromkeys(PAPERS_CATEGORIES, 2_000)


@pytest.mark.parametrize("category", ["multi_stems", "multi_stems_vocal"])
def test_test_mixes_have_2_to_8_components_uniformly(test_rows: list[dict[str, Any]], category: str) -> None:
    counts = Counter(len(row["components"]) for row in test_rows if row["category"] == category)
    assert set(counts) == set(range(2, 9))
    assert _chi_square(list(counts.values())) < 22.5  # 6 degrees of freedom


@pytest.mark.parametrize(
    "stems",
    [("vocals", "drums"), ("drums", "bass"), ("vocals",), ("drums",), ("vocals", "piano", "wind"), STEMS],
)
@pytest.mark.parametrize("max_components", [2, 3, 8])
def test_test_split_is_balanced_and_right_over_what_the_classes_can_fill(
    stems: tuple[str, ...], max_components: int
) -> None:
    catalog = Collection(_songs(9, *stems, MIXTURE)).catalog
    config = RecipesConfig(test_per_category=150, max_components=max_components)
    rows = _draw("test", catalog, config)
    assert Counter(row["category"] for row in rows) == dict.fromkeys(catalog.categories(), 150)
    assert len(rows) == num_recipes("test", catalog, config)
    assert all(row["category"] == _classify(row["components"]) for row in rows)
    assert max(len(row["components"]) for row in rows) <= max_components


def test_components_are_of_different_songs_when_there_are_enough(
    full: Collection, train: list[dict[str, Any]], test_rows: list[dict[str, Any]]
) -> None:
    for row in train + test_rows:
        songs = [full.group[component["source_id"]] for component in row["components"]]
        assert len(set(songs)) == len(songs)
        assert not row["songs_repeat"]


@pytest.mark.parametrize(
    "songs",
    [
        _songs(3, *STEMS),
        _songs(1, "drums", "vocals"),
        {"a": ("drums", "wind"), "b": ("drums",), "c": ("drums", "bass"), "d": ("bass", "vocals")},
    ],
    ids=["three-songs", "one-song", "uneven"],
)
def test_recipe_whose_songs_repeat_is_flagged_and_no_other(songs: dict[str, tuple[str, ...]]) -> None:
    collection = Collection(songs)
    rows = _draw("train", collection.catalog, RecipesConfig(train=1_000))
    flags = set()
    for row in rows:
        names = [collection.group[component["source_id"]] for component in row["components"]]
        assert row["songs_repeat"] is (len(set(names)) < len(names))
        flags.add(row["songs_repeat"])
    assert flags == {True, False}


def test_rare_class_does_not_make_songs_repeat() -> None:
    """Whichever song the others are from, they have others to choose from; the rare class has not."""
    collection = Collection({**_songs(12, "drums", "bass"), "song 00": ("drums", "bass", "wind")})
    rows = _draw("train", collection.catalog, RecipesConfig(train=3_000))
    once = [row for row in rows if [c["stem"] for c in row["components"]].count("wind") <= 1]
    assert not any(row["songs_repeat"] for row in once)


def test_two_songs_of_one_group_are_one_song() -> None:
    rows = [{"source_id": f"{n}/drums", "stem": "drums", "group_id": "one"} for n in range(4)]
    catalog = Catalog.of(rows, {row["source_id"]: [[0, 264_600, -20.0, 1]] for row in rows})
    drawn = _draw("train", catalog, RecipesConfig(train=100))
    assert all(row["songs_repeat"] is (len(row["components"]) > 1) for row in drawn)


def test_sources_of_a_class_are_drawn_evenly(mixes: list[dict[str, Any]]) -> None:
    counts = Counter(
        row["components"][0]["source_id"] for row in mixes if row["components"][0]["stem"] == "bass"
    )
    assert len(counts) == 12
    assert _chi_square(list(counts.values())) < 31.3  # 11 degrees of freedom


def test_excerpts_begin_at_active_starts_only(
    full: Collection, train: list[dict[str, Any]], test_rows: list[dict[str, Any]]
) -> None:
    starts = {name: full.starts(name) for name in full.segments}
    for row in train + test_rows:
        for component in row["components"]:
            assert component["start"] in starts[component["source_id"]]


def test_every_active_start_is_drawn_sooner_or_later() -> None:
    collection = Collection({"a": ("drums",)})
    rows = _draw("train", collection.catalog, RecipesConfig(train=2_000))
    drawn = {component["start"] for row in rows for component in row["components"]}
    assert drawn == collection.starts("a/drums")


@pytest.mark.parametrize(
    "split, number",
    [
        ("train", 200),
        ("valid", 50),
        pytest.param(
            "test",
            30,
        ),
    ],
)
def test_folders_with_only_songs_give_whole_songs(split: str, number: int) -> None:
    catalog = Collection(_songs(5, MIXTURE)).catalog
    config = RecipesConfig(train=200, valid=50, test_per_category=30, song_share=0.0)
    rows = _draw(split, catalog, config)
    assert [row["category"] for row in rows] == ["song"] * number
    assert {component["stem"] for row in rows for component in row["components"]} == {MIXTURE}


def test_folders_without_songs_give_mixes_only() -> None:
    rows = _draw("train", Collection(_songs(9, "drums", "vocals")).catalog, RecipesConfig(train=300))
    assert "song" not in {row["category"] for row in rows}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_split_without_a_source_is_an_error_only_if_requested(split: str) -> None:
    empty = Catalog.of([], {})
    with pytest.raises(ValueError, match=f"the split {split} has no usable source"):
        _draw(split, empty, RecipesConfig())
    none = RecipesConfig(
        train=int(split != "train"), valid=int(split != "valid"), test_per_category=int(split != "test")
    )
    assert _draw(split, empty, none) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": -1},
        {"train": 0, "valid": 0, "test_per_category": 0},
        {"song_share": 1.1},
        {"song_share": -0.1},
        {"max_components": 1},
        {"gain_db": -1.0},
    ],
)
def test_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="recipes"):
        RecipesConfig(**wrong)


def test_gain_range_is_as_configured(full: Collection) -> None:
    rows = _draw("train", full.catalog, RecipesConfig(train=500, gain_db=3.0))
    gains = [component["gain_db"] for row in rows for component in row["components"]]
    assert 2.9 < max(gains) <= 3.0
    assert all(
        component["gain_db"] == 0
        for row in _draw("train", full.catalog, RecipesConfig(train=200, gain_db=0.0))
        for component in row["components"]
    )
