"""Draw recipes: the excerpts of sources and their gains that make each example, before any rendering.

Source: the paper's data section (1 to 8 stems, gains in ±10 dB, 3 s) and the published code's share of real
mixtures. A recipe is a pure function of (seed, split, index): every random number is a hash of these and of
its purpose, so recipes can be drawn in any order and in whole arrays.

Shape legend: arrays are [recipes] or [recipes, slots], with a slot per possible component.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.audio.activity import START_GRID
from pipelines.errors import UsageError
from pipelines.preprocess.catalog import Catalog
from pipelines.schema import CATEGORIES, MIXTURE, RECIPES, SONG, SPLITS, STEMS, VOCALS

_Int = NDArray[np.int64]
_Words = NDArray[np.uint64]
_BATCH = 1 << 15
_DRAWS = {"song": 1, "number": 2, "stem": 3, "source": 4, "window": 5, "start": 6, "gain": 7, "place": 8}
_STARTS = 31


@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """Number and composition of the examples.

    Args:
        train: Number of training examples.
        valid: Number of validation examples.
        test_per_category: Number of test examples in each of the paper's four categories.
        song_share: Share of whole-song excerpts in train and valid; the rest are random mixes of stems.
        max_components: Maximum number of stems in a mix.
        gain_db: Gains are uniform in [-gain_db, gain_db].
    """

    train: int = 40_000
    valid: int = 500
    test_per_category: int = 5_000
    song_share: float = 0.5
    max_components: int = 8
    gain_db: float = 10.0

    def __post_init__(self) -> None:
        if min(self.train, self.valid, self.test_per_category) < 0:
            raise ValueError("recipes.train, recipes.valid and recipes.test_per_category must be at least 0")
        if not self.train + self.valid + self.test_per_category:
            raise ValueError(
                "no recipes requested: set recipes.train, recipes.valid or recipes.test_per_category"
            )
        if not 0 <= self.song_share <= 1:
            raise ValueError(f"recipes.song_share is {self.song_share}: it must be from 0 to 1")
        if self.max_components < 2:
            raise ValueError(f"recipes.max_components is {self.max_components}: it must be at least 2")
        if self.gain_db < 0:
            raise ValueError(f"recipes.gain_db is {self.gain_db}: it must be at least 0")

    @property
    def wanted(self) -> dict[str, int]:
        """Requested number of examples by split (for test: per category)."""
        return {"train": self.train, "valid": self.valid, "test": self.test_per_category}


def num_recipes(split: str, catalog: Catalog, config: RecipesConfig) -> int:
    """Return the number of recipes of a split; that of test depends on the available categories."""
    return config.wanted[split] * (len(catalog.categories()) if split == "test" else 1)


def draw_recipes(
    split: str, catalog: Catalog, config: RecipesConfig, *, seed: int, shard_rows: int
) -> Iterator[pa.RecordBatch]:
    """Draw all recipes of a split, in batches with the schema RECIPES.

    Raises:
        UsageError: recipes are requested, and the split has no source.
    """
    total = num_recipes(split, catalog, config)
    if config.wanted[split] and not catalog.categories():
        raise UsageError(f"the split {split} has no usable source for its {config.wanted[split]} recipes")
    for first in range(0, total, _BATCH):
        yield _batch(split, np.arange(first, min(first + _BATCH, total)), catalog, config, seed, shard_rows)


def _batch(
    split: str, indices: _Int, catalog: Catalog, config: RecipesConfig, seed: int, shard_rows: int
) -> pa.RecordBatch:
    draw = _HashRng(seed, split, indices, config.max_components)
    category, number, stem = _draw_contents(split, indices, catalog, config, draw)
    stem = _scarce_first(catalog, number, stem)
    source, repeats = _draw_sources(catalog, number, stem, draw)
    window = catalog.first_window[source] + draw.below("window", catalog.num_windows[source])
    start = catalog.window_start[window] + _draw_start(catalog.active_starts[window], draw)
    gain = ((2 * draw.unit("gain") - 1) * config.gain_db).astype(np.float32)
    gain[category == CATEGORIES.index(SONG)] = 0
    used = np.arange(config.max_components) < number[:, None]
    stems = pa.DictionaryArray.from_arrays(pa.array(stem[used], pa.int32()), pa.array([*STEMS, MIXTURE]))
    ids = pa.DictionaryArray.from_arrays(pa.array(source[used], pa.int32()), catalog.source_ids)
    components = pa.StructArray.from_arrays(
        [stems.cast(pa.string()), ids.cast(pa.string()), pa.array(start[used]), pa.array(gain[used])],
        fields=list(RECIPES.field("components").type.value_type),
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(number)]), pa.int32())
    return pa.RecordBatch.from_arrays(
        [
            _recipe_ids(split, indices, number, _digests(catalog)[source], start, gain),
            pa.array([split] * len(indices)),
            pa.array(indices // shard_rows, pa.int32()),
            pa.DictionaryArray.from_arrays(pa.array(category, pa.int8()), pa.array(CATEGORIES)).cast(
                pa.string()
            ),
            pa.array(repeats),
            pa.ListArray.from_arrays(offsets, components),
        ],
        schema=RECIPES,
    )


def _scramble(words: Any) -> _Words:
    """Mix 64-bit words (splitmix64's finalizer, Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Words = words ^ (words >> np.uint64(31))
    return mixed


class _HashRng:
    """Random numbers as hashes of (seed, split, index, draw, slot)."""

    def __init__(self, seed: int, split: str, indices: _Int, slots: int) -> None:
        base = hashlib.sha256(f"{seed}\n{SPLITS.index(split)}".encode()).digest()
        self._base = np.uint64(int.from_bytes(base[:8], "little"))
        self._cells = indices.astype(np.uint64)[:, None] * np.uint64(1 << 16) + np.arange(
            slots, dtype=np.uint64
        )

    def words(self, draw: str) -> _Words:
        """Draw 64 random bits for every cell: [recipes, slots]."""
        draw_key = np.uint64(_DRAWS[draw] * 0x9E3779B97F4A7C15 % 2**64)
        return _scramble(_scramble(self._cells + self._base) + draw_key)

    def unit(self, draw: str) -> NDArray[np.float64]:
        """Draw uniformly from [0, 1)."""
        return (self.words(draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, draw: str, limit: _Int | int) -> _Int:
        """Draw integers from 0 to limit - 1."""
        drawn: _Int = np.minimum((self.unit(draw) * limit).astype(np.int64), np.asarray(limit) - 1)
        return drawn


def _draw_contents(
    split: str, indices: _Int, catalog: Catalog, config: RecipesConfig, draw: _HashRng
) -> tuple[_Int, _Int, _Int]:
    """Draw category [recipes], number of components [recipes] and their classes [recipes, slots]."""
    stems, song = catalog.stems, CATEGORIES.index(SONG)
    slots = config.max_components
    number = 1 + draw.below("number", slots)[:, 0]
    if split == "test":
        possible = catalog.categories()
        category = np.array([CATEGORIES.index(name) for name in possible])[indices % len(possible)]
        number = np.where(category < 2, 1, 2 + draw.below("number", slots - 1)[:, 0])
        stem = np.zeros((len(indices), slots), np.int64)
        if len(stems):
            stem = _stems_of_category(category, number, stems, draw)
    else:
        share = config.song_share if catalog.has_songs else 0.0
        whole = (draw.unit("song")[:, 0] < share) | (not len(stems))
        stem = (
            stems[draw.below("stem", len(stems))] if len(stems) else np.zeros((len(indices), slots), np.int64)
        )
        category = np.where(whole, song, _category(number, stem))
    whole = category == song
    stem[whole] = len(STEMS)
    return category, np.where(whole, 1, number), stem


def _category(number: _Int, stem: _Int) -> _Int:
    """Return the category of every mix, by its classes."""
    used = np.arange(stem.shape[1]) < number[:, None]
    vocal = (stem == STEMS.index(VOCALS)) & used
    one_class = ((stem == stem[:, :1]) | ~used).all(axis=1)
    some, every = vocal.any(axis=1), (vocal | ~used).all(axis=1)
    return np.select([every, some, one_class], [0, 3, 1], 2)


def _stems_of_category(category: _Int, number: _Int, stems: _Int, draw: _HashRng) -> _Int:
    """Draw classes [recipes, slots] that make the category: one slot is set where the random ones do not."""
    vocals = STEMS.index(VOCALS)
    others = stems[stems != vocals]
    rows = np.arange(len(category))
    stem = stems[draw.below("stem", len(stems))]
    if len(others):
        plain = draw.below("stem", len(others))
        instrumental = np.isin(category, (1, 2))
        stem[instrumental] = others[plain][instrumental]
        same = (category == 2) & (_category(number, stem) == 1)
        # the next class after the shared one, a random step on
        step = 1 + draw.below("place", max(len(others) - 1, 1))[:, 0]
        stem[same, number[same] - 1] = others[(plain[same, 0] + step[same]) % len(others)]
    stem[category == 0] = vocals
    mixed = category == 3
    place = np.minimum((draw.unit("place")[:, 0] * number).astype(np.int64), number - 1)
    found = _category(number, stem)
    lacking, all_vocal = mixed & (found != 3) & (found != 0), mixed & (found == 0)
    stem[rows[lacking], place[lacking]] = vocals
    if len(others):
        stem[rows[all_vocal], place[all_vocal]] = others[draw.below("place", len(others))[all_vocal, 1]]
    return stem


def _scarce_first(catalog: Catalog, number: _Int, stem: _Int) -> _Int:
    """Sort classes [recipes, slots] by number of songs, so that scarce ones are drawn first."""
    used = np.arange(stem.shape[1]) < number[:, None]
    order = np.argsort(
        np.where(used, catalog.num_sources[stem], np.iinfo(np.int64).max), axis=1, kind="stable"
    )
    return np.take_along_axis(stem, order, axis=1)


def _draw_sources(
    catalog: Catalog, number: _Int, stem: _Int, draw: _HashRng
) -> tuple[_Int, NDArray[np.bool_]]:
    """Draw sources [recipes, slots] of the classes, of different songs; flag [recipes] that repeat one."""
    first, count = catalog.first_source[stem], catalog.num_sources[stem]
    place = draw.below("source", np.maximum(count, 1))
    source = first + place
    repeats = np.zeros(len(stem), bool)
    for slot in range(1, stem.shape[1]):
        taken = catalog.groups[source[:, :slot]]
        open_rows = np.flatnonzero(slot < number)
        for step in range(int(count[:, slot].max(initial=0))):
            group = catalog.groups[source[open_rows, slot]]
            open_rows = open_rows[(taken[open_rows] == group[:, None]).any(axis=1)]
            if not open_rows.size:
                break
            # the next one in the list, cyclic
            here = (place[open_rows, slot] + step + 1) % count[open_rows, slot]
            source[open_rows, slot] = first[open_rows, slot] + here
        if open_rows.size:
            group = catalog.groups[source[open_rows, slot]]
            repeats[open_rows] |= (taken[open_rows] == group[:, None]).any(axis=1)
    return source, repeats


def _draw_start(masks: NDArray[np.uint32], draw: _HashRng) -> _Int:
    """Draw one of the set bits of every mask, as samples from the window's start."""
    wanted = draw.below("start", np.bitwise_count(masks).astype(np.int64))
    start, passed = np.zeros(masks.shape, np.int64), np.zeros(masks.shape, np.int64)
    for bit in range(_STARTS):
        is_set = (masks >> np.uint32(bit)) & np.uint32(1) == 1
        start[is_set & (passed == wanted)] = bit * START_GRID
        passed += is_set
    return start


def _digests(catalog: Catalog) -> _Words:
    names = catalog.source_ids.to_pylist()
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names], np.uint64
    )


def _recipe_ids(
    split: str, indices: _Int, number: _Int, source: _Words, start: _Int, gain: NDArray[np.float32]
) -> pa.Array:
    """Hash every recipe's content: split, index, and source, start and gain of its components."""
    used = np.arange(source.shape[1]) < number[:, None]
    content = np.zeros(source.shape, [("source", "<u8"), ("start", "<i8"), ("gain", "<f4")])
    content["source"], content["start"], content["gain"] = source * used, start * used, gain * used
    rows = content.view(np.uint8).reshape(len(indices), -1)
    salt = hashlib.blake2b(split.encode(), digest_size=16)
    ids = []
    for index, row in zip(indices.tolist(), rows, strict=True):
        digest = salt.copy()
        digest.update(index.to_bytes(8, "little") + row.tobytes())
        ids.append(digest.hexdigest())
    return pa.array(ids)
