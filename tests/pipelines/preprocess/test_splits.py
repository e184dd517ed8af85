"""Splits: official ones hold, nothing that belongs together parts, and nobody's order matters."""

from collections import Counter

import numpy as np
import pytest

from pipelines.preprocess.splits import SplitAssignment, SplitCandidate, SplitsConfig, assign_splits

ALL = {"train": 1, "valid": 1, "test": 1}
TRAIN_ONLY = {"train": 1}


def _free(number: int, *, artists: int | None = None) -> list[SplitCandidate]:
    return [
        SplitCandidate(f"folder/song {index:03d}", f"artist {index % artists}" if artists else "", None, True)
        for index in range(number)
    ]


def _official(**splits: str) -> list[SplitCandidate]:
    return [SplitCandidate(f"musdb18hq/{name}", "", split, True) for name, split in splits.items()]


def test_official_splits_hold() -> None:
    candidates = _official(a="train", b="valid", c="test", d="train", e="test")
    assignment = assign_splits(candidates, [], ALL, SplitsConfig())
    assert assignment.split == {candidate.song_id: candidate.official for candidate in candidates}


@pytest.mark.parametrize("other", ["train", "valid", None])
def test_recording_that_a_test_song_belongs_to_is_test(other: str | None) -> None:
    twins = [*_official(a="test"), SplitCandidate("another/a", "", other, True)]
    assignment = assign_splits([*twins, *_free(20)], [("another/a", "musdb18hq/a")], ALL, SplitsConfig())
    assert assignment.split["another/a"] == assignment.split["musdb18hq/a"] == "test"
    assert assignment.group["another/a"] == assignment.group["musdb18hq/a"] == "another/a"


def test_valid_wins_over_train_within_a_group() -> None:
    candidates = [*_official(a="train", b="valid"), *_free(20)]
    assignment = assign_splits(candidates, [("musdb18hq/a", "musdb18hq/b")], ALL, SplitsConfig())
    assert {assignment.split["musdb18hq/a"], assignment.split["musdb18hq/b"]} == {"valid"}


def test_chain_of_twins_is_one_group() -> None:
    candidates = _free(30)
    same = [(candidates[n].song_id, candidates[n + 1].song_id) for n in (4, 2, 3)]
    assignment = assign_splits(candidates, same, ALL, SplitsConfig())
    chain = [candidate.song_id for candidate in candidates[2:6]]
    assert {assignment.group[name] for name in chain} == {chain[0]}
    assert len({assignment.split[name] for name in chain}) == 1
    assert assignment.group[candidates[7].song_id] == candidates[7].song_id


def test_artists_stay_together_when_there_are_enough() -> None:
    candidates = _free(300, artists=25)
    assignment = assign_splits(candidates, [], ALL, SplitsConfig(test_share=0.3, valid_share=0.2))
    sides = {candidate.artist: set() for candidate in candidates}
    for candidate in candidates:
        sides[candidate.artist].add(assignment.split[candidate.song_id])
    assert all(len(splits) == 1 for splits in sides.values())
    assert set(assignment.split.values()) == {"train", "valid", "test"}
    assert not assignment.remarks


def test_spelling_of_an_artist_does_not_part_it() -> None:
    candidates = _free(60, artists=30)
    spellings = ["The Band!", "the band", "THE  BAND", " the-band"]
    candidates += [SplitCandidate(f"x/{n}", name, None, True) for n, name in enumerate(spellings)]
    assignment = assign_splits(candidates, [], ALL, SplitsConfig(test_share=0.4, valid_share=0.3))
    assert len({assignment.split[f"x/{n}"] for n in range(4)}) == 1


def test_songs_of_unknown_artists_are_not_one_artist() -> None:
    candidates = [*_free(60, artists=30), *[SplitCandidate(f"x/{n}", "", None, True) for n in range(60)]]
    assignment = assign_splits(candidates, [], ALL, SplitsConfig(test_share=0.4, valid_share=0.3))
    assert len({assignment.split[f"x/{n}"] for n in range(60)}) == 3


def test_too_few_artists_are_flagged_and_not_kept_together() -> None:
    candidates = _free(300, artists=19)
    assignment = assign_splits(candidates, [], ALL, SplitsConfig(test_share=0.3, valid_share=0.2))
    assert any("artists are not kept apart: 19 artists" in remark for remark in assignment.remarks)
    assert len({assignment.split[candidate.song_id] for candidate in candidates[::19]}) > 1


def test_official_songs_alone_need_no_remark_on_artists() -> None:
    assert not assign_splits(_official(a="train", b="valid", c="test"), [], ALL, SplitsConfig()).remarks


def test_shares_are_the_configured_ones() -> None:
    counts = Counter(assign_splits(_free(4_000), [], ALL, SplitsConfig()).split.values())
    assert counts["test"] == pytest.approx(400, abs=63)  # 3.3 standard deviations
    assert counts["valid"] == pytest.approx(200, abs=46)


def test_another_seed_gives_another_assignment() -> None:
    candidates = _free(100)
    assert (
        assign_splits(candidates, [], ALL, SplitsConfig()).split
        != assign_splits(candidates, [], ALL, SplitsConfig(seed=1)).split
    )


def test_song_keeps_its_split_when_others_come() -> None:
    few, many = (assign_splits(_free(number), [], TRAIN_ONLY, SplitsConfig()).split for number in (50, 80))
    assert few == {name: many[name] for name in few}


@pytest.mark.parametrize("number", [3, 4, 7])
def test_every_requested_split_gets_a_song_with_a_remark(number: int) -> None:
    config = SplitsConfig(valid_share=0.0, test_share=0.0)  # by chance alone, all would train
    assignment = assign_splits(_free(number), [], ALL, config)
    assert set(assignment.split.values()) == {"train", "valid", "test"}
    taken = [remark for remark in assignment.remarks if "had no usable song and took" in remark]
    assert len(taken) == 2 and all("from train" in remark for remark in taken)


def test_split_that_is_not_requested_takes_no_song() -> None:
    config = SplitsConfig(valid_share=0.0, test_share=0.0)
    assignment = assign_splits(_free(5), [], {"train": 1, "valid": 0, "test": 0}, config)
    assert set(assignment.split.values()) == {"train"}


def test_empty_split_rather_takes_a_song_without_an_official_split() -> None:
    candidates = [*_official(a="train", b="train", c="test"), *_free(1)]
    config = SplitsConfig(valid_share=0.0, test_share=0.0)
    assignment = assign_splits(candidates, [], ALL, config)
    assert assignment.split[candidates[-1].song_id] == "valid"
    assert assignment.split["musdb18hq/a"] == assignment.split["musdb18hq/b"] == "train"


def test_published_test_song_never_goes_elsewhere() -> None:
    candidates = _official(a="test", b="test", c="test")
    with pytest.raises(ValueError, match="no song is left for the split train"):
        assign_splits(candidates, [], {"train": 1, "test": 1}, SplitsConfig())
    assignment = assign_splits([*candidates, *_free(2)], [], ALL, SplitsConfig())
    assert {assignment.split[candidate.song_id] for candidate in candidates} == {"test"}


@pytest.mark.parametrize("number, wanted", [(0, {"train": 1}), (1, {"train": 1, "test": 1}), (2, ALL)])
def test_too_few_songs_are_an_error_with_a_remedy(number: int, wanted: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match=rf"{number} usable recordings for {len(wanted)}.*--recipes\.valid 0"
    ):
        assign_splits(_free(number), [], wanted, SplitsConfig())


def test_twins_count_as_one_recording() -> None:
    candidates = _free(3)
    with pytest.raises(ValueError, match="2 usable recordings for 3"):
        assign_splits(candidates, [(candidates[0].song_id, candidates[2].song_id)], ALL, SplitsConfig())


def test_unusable_songs_fill_no_split() -> None:
    candidates = [*_free(2), SplitCandidate("folder/silent", "", None, False)]
    with pytest.raises(ValueError, match="2 usable recordings for 3"):
        assign_splits(candidates, [], ALL, SplitsConfig())
    assert len(assign_splits(candidates, [], {"train": 1, "test": 1}, SplitsConfig()).split) == 3


@pytest.mark.parametrize("shares", [(0.6, 0.4), (-0.1, 0.1), (0.1, -0.1), (0.0, 1.0)])
def test_shares_must_leave_something_to_train_on(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="splits"):
        SplitsConfig(valid_share=shares[0], test_share=shares[1])


def _random_scene(seed: int) -> tuple[list[SplitCandidate], list[tuple[str, str]]]:
    generator = np.random.default_rng(seed)
    candidates = [
        SplitCandidate(
            f"s/{number}",
            f"artist {generator.integers(40)}" if generator.random() < 0.7 else "",
            str(generator.choice(["train", "valid", "test"])) if generator.random() < 0.3 else None,
            bool(generator.random() < 0.9),
        )
        for number in range(generator.integers(12, 80))
    ]
    names = [candidate.song_id for candidate in candidates]
    same = [tuple(generator.choice(names, 2, replace=False).tolist()) for _ in range(len(candidates) // 6)]
    return candidates, same


def _shuffled(seed: int, candidates: list[SplitCandidate], same: list[tuple[str, str]]) -> SplitAssignment:
    generator = np.random.default_rng(seed)
    pairs = [(b, a) if generator.random() < 0.5 else (a, b) for a, b in same]
    order, pair_order = generator.permutation(len(candidates)), generator.permutation(len(same))
    return assign_splits([candidates[i] for i in order], [pairs[i] for i in pair_order], ALL, SplitsConfig())


@pytest.mark.parametrize("seed", range(25))
def test_any_collection_is_divided_without_a_leak_in_any_order(seed: int) -> None:
    candidates, same = _random_scene(seed)
    assignment = assign_splits(candidates, same, ALL, SplitsConfig())
    assert (
        assignment.split.keys() == assignment.group.keys() == {candidate.song_id for candidate in candidates}
    )
    assert all(assignment.split[a] == assignment.split[b] for a, b in same)
    assert all(assignment.group[a] == assignment.group[b] for a, b in same)
    assert all(
        assignment.split[candidate.song_id] == "test"
        for candidate in candidates
        if candidate.official == "test"
    )
    assert {assignment.split[m.song_id] for m in candidates if m.usable} == {"train", "valid", "test"}
    for order in range(3):
        assert _shuffled(order, candidates, same) == assignment
