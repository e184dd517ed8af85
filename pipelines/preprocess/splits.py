"""Assign songs to train, valid and test: no recording, and if possible no artist, is in two splits.

Songs that are one recording form a group. MUSDB18-HQ's official splits are kept; a group with a test song is
test. Every other group is assigned by a hash of its name, together with the other groups of its artist if
there are enough artists.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.errors import UsageError
from pipelines.schema import SPLITS

_PRECEDENCE = ("test", "valid", "train")  # a song in two official splits is assigned to the first of these


@dataclass(frozen=True, kw_only=True)
class SplitsConfig:
    """Assignment of songs without an official split.

    Args:
        valid_share: Share of the songs for validation.
        test_share: Share of the songs for the test.
        min_artists: With at least this many artists among these songs, no artist is in two splits.
        seed: Seed of the assignment.
    """

    valid_share: float = 0.05
    test_share: float = 0.1
    min_artists: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"splits.valid_share {self.valid_share} and splits.test_share {self.test_share}: they must "
                "be at least 0, with a sum below 1"
            )


@dataclass(frozen=True)
class SplitCandidate:
    """A song to assign."""

    song_id: str
    artist: str
    official: str | None
    usable: bool


@dataclass
class SplitAssignment:
    """Split and group by song id, and remarks for the report."""

    split: dict[str, str] = field(default_factory=dict)
    group: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    artists_apart: bool = False


def assign_splits(
    candidates: Sequence[SplitCandidate],
    same: Sequence[tuple[str, str]],
    wanted: Mapping[str, int],
    config: SplitsConfig,
) -> SplitAssignment:
    """Assign songs to splits.

    Args:
        candidates: All songs.
        same: Pairs of ids of songs that are one recording.
        wanted: Requested recipes by split; a split with some must have a usable song.
        config: Shares.

    Raises:
        UsageError: there are fewer usable recordings than requested splits.
    """
    assignment = SplitAssignment()
    by_id = {candidate.song_id: candidate for candidate in candidates}
    groups = _groups(sorted(by_id), same)
    assignment.group = {song: name for name, songs in groups.items() for song in songs}
    units = _units(groups, by_id, config, assignment)
    of_artist = _officials_of_artists(candidates) if assignment.artists_apart else {}
    splits: dict[str, str] = {}
    for unit, names in units.items():
        officials = _officials(names, groups, by_id)
        if officials == {None}:
            keys = {_artist_key(by_id[song].artist) for name in names for song in groups[name]}
            officials = set().union(*(of_artist.get(key, set()) for key in keys))
        splits[unit] = next((split for split in _PRECEDENCE if split in officials), _draw_split(unit, config))
    _fill_empty(splits, units, groups, by_id, wanted, config, assignment)
    assignment.split = {
        song: splits[unit] for unit, names in units.items() for name in names for song in groups[name]
    }
    return assignment


def _groups(songs: Sequence[str], same: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Group songs that are one recording; a group is named after its first song."""
    leader = {song: song for song in songs}

    def find(song: str) -> str:
        while leader[song] != song:
            song = leader[song]
        return song

    for first, second in same:
        low, high = sorted((find(first), find(second)))
        leader[high] = low
    groups: dict[str, list[str]] = defaultdict(list)
    for song in songs:
        groups[find(song)].append(song)
    return dict(groups)


def _artist_key(artist: str) -> str:
    return re.sub(r"\W+", " ", artist.casefold()).strip()


def _officials_of_artists(candidates: Sequence[SplitCandidate]) -> dict[str, set[str | None]]:
    """Return the official splits of each artist's songs, which the artist's other songs follow."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for candidate in candidates:
        if candidate.official is not None and (key := _artist_key(candidate.artist)):
            found[key].add(candidate.official)
    return found


def _units(
    groups: dict[str, list[str]],
    by_id: Mapping[str, SplitCandidate],
    config: SplitsConfig,
    assignment: SplitAssignment,
) -> dict[str, list[str]]:
    """Join groups that must stay together: those of one artist, unless a song has an official split."""
    free = [name for name, songs in groups.items() if all(by_id[song].official is None for song in songs)]
    artists = {key for name in free for song in groups[name] if (key := _artist_key(by_id[song].artist))}
    units = {name: [name] for name in groups}
    if not free:
        return units
    if len(artists) < config.min_artists:
        assignment.remarks.append(
            f"artists are not kept apart: {len(artists)} artists among the songs without an official split, "
            f"{config.min_artists} would be needed"
        )
        return units
    assignment.artists_apart = True
    pairs: list[tuple[str, str]] = []
    first: dict[str, str] = {}
    for name in free:
        for song in groups[name]:
            if key := _artist_key(by_id[song].artist):
                pairs.append((first.setdefault(key, name), name))
    joined = _groups(free, pairs)
    return {name: [name] for name in groups if name not in set(free)} | joined


def _rank(unit: str, config: SplitsConfig) -> float:
    """Return a number in [0, 1) that depends only on the name and the seed."""
    digest = hashlib.sha256(f"{config.seed}\n{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _draw_split(unit: str, config: SplitsConfig) -> str:
    rank = _rank(unit, config)
    if rank < config.test_share:
        return "test"
    return "valid" if rank < config.test_share + config.valid_share else "train"


def _fill_empty(
    splits: dict[str, str],
    units: Mapping[str, list[str]],
    groups: Mapping[str, list[str]],
    by_id: Mapping[str, SplitCandidate],
    wanted: Mapping[str, int],
    config: SplitsConfig,
    assignment: SplitAssignment,
) -> None:
    """Move a usable song to each requested split without one, from the split with most."""
    usable = [
        unit for unit, names in units.items() if any(by_id[s].usable for name in names for s in groups[name])
    ]
    free = {unit for unit in usable if _officials(units[unit], groups, by_id) == {None}}
    requested = [split for split in SPLITS if wanted.get(split, 0)]
    if len(usable) < len(requested):
        raise UsageError(
            f"{len(usable)} usable recordings for {len(requested)} splits ({', '.join(requested)}): a song "
            "may be in one split only. Add songs, or request no recipes of a split (--recipes.valid 0 or "
            "--recipes.test_per_category 0)"
        )
    for split in requested:
        owned = {other: [unit for unit in usable if splits[unit] == other] for other in SPLITS}
        if owned[split]:
            continue
        spare = [
            unit
            for other in SPLITS
            if len(owned[other]) > (other in requested)
            for unit in owned[other]
            if "test" not in _officials(units[unit], groups, by_id)  # a published test song never trains
        ]
        if not spare:
            raise UsageError(
                f"no song is left for the split {split}. Add songs, or request none of its recipes"
            )
        taken = min(
            spare, key=lambda unit: (unit not in free, -len(owned[splits[unit]]), _rank(unit, config))
        )
        assignment.remarks.append(f"{split} had no usable song and took {taken} from {splits[taken]}")
        splits[taken] = split


def _officials(
    names: Sequence[str], groups: Mapping[str, list[str]], by_id: Mapping[str, SplitCandidate]
) -> set[str | None]:
    return {by_id[song].official for name in names for song in groups[name]}
