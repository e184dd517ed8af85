"""Examples from one file of tensors: an exact order, levels, and a clear refusal of other files."""

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from apollo import rng
from apollo.training.augmentation import LevelsConfig
from apollo.training.data import Example
from apollo.training.example_file import ExampleFileSource, ExampleFileValidation

COUNT, KINDS, SAMPLES = 6, ["mp3_24000", "mp3_64000"], 40
PLAIN = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0)


def _part(count: int, prefix: str) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(count)
    clean = torch.randint(-9_000, 9_000, (count, 2, SAMPLES), generator=draw, dtype=torch.int16)
    gains = torch.full((count, len(KINDS)), 0.5)
    return {
        "names": [f"{prefix}{number}" for number in range(count)],
        "degradations": KINDS,
        "clean": clean,
        "degraded": torch.stack([clean, clean // 2], dim=1),
        "steps": torch.tensor([[1.0, 2.0]]).repeat(count, 1) / 32_768,
        "gains": gains,
        "bandwidths_hz": torch.tensor([torch.inf, *range(16_000, 16_000 + count - 1)][:count]),
    }


@pytest.fixture
def stored() -> dict[str, Any]:
    return {"format": 2, "sample_rate": 44_100, **_part(COUNT, "t"), "valid": _part(5, "v")}


@pytest.fixture
def file(stored: dict[str, Any], tmp_path: Path) -> Path:
    torch.save(stored, tmp_path / "examples.pt")
    return tmp_path / "examples.pt"


def _read(source: ExampleFileSource | ExampleFileValidation, epoch: int, *positions: int) -> list[Example]:
    return list(source.read(epoch, range(*positions)))


def _names(examples: list[Example]) -> list[str]:
    return [example.name for example in examples]


def test_every_pass_has_every_example_once_in_another_order(file: Path) -> None:
    names = [
        name.partition("/")[0] for name in _names(_read(ExampleFileSource(file, epoch_examples=4), 0, 60))
    ]
    passes = [tuple(names[first : first + COUNT]) for first in range(0, 60, COUNT)]
    assert all(sorted(one) == [f"t{number}" for number in range(COUNT)] for one in passes)
    assert len(set(passes)) > 5


def test_order_is_exact_for_any_number_of_workers(file: Path) -> None:
    alone = _read(ExampleFileSource(file, epoch_examples=9, seed=3), 2, 9)
    for workers in (2, 4, 11):
        source = ExampleFileSource(file, epoch_examples=9, seed=3)
        shares = [_read(source, 2, rank, 9, workers) for rank in range(workers)]
        for place, example in enumerate(alone):
            other = shares[place % workers][place // workers]
            assert other.name == example.name
            assert torch.equal(other.clean, example.clean) and torch.equal(other.degraded, example.degraded)


def test_epochs_follow_each_other_and_seeds_differ(file: Path) -> None:
    source = ExampleFileSource(file, epoch_examples=4)
    assert _names(_read(source, 2, 4)) == _names(_read(source, 0, 8, 12))
    assert _names(_read(source, 0, 12)) != _names(
        _read(ExampleFileSource(file, epoch_examples=4, seed=1), 0, 12)
    )


def test_gain_is_removed_and_the_pair_is_at_full_scale(file: Path) -> None:
    for example in _read(ExampleFileSource(file, PLAIN, epoch_examples=6), 0, 12):
        assert example.clean.abs().max() == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(example.degraded, example.clean, atol=2e-4, rtol=0)


def test_paper_levels_keep_the_gain(file: Path) -> None:
    for example in _read(ExampleFileSource(file, LevelsConfig(mode="paper"), epoch_examples=6), 0, 12):
        torch.testing.assert_close(example.degraded, example.clean * 0.5, atol=2e-4, rtol=0)


def test_levels_and_degradations_are_drawn_for_each(file: Path) -> None:
    examples = _read(ExampleFileSource(file, LevelsConfig(level_db=(-30, -10)), epoch_examples=6), 0, 600)
    levels = [20 * example.clean.abs().max().log10().item() for example in examples]
    assert statistics.mean(levels) == pytest.approx(-20, abs=1)
    kinds = Counter(name.partition("/")[2] for name in _names(examples))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 250


def test_only_selected_degradations_are_used(file: Path) -> None:
    source = ExampleFileSource(file, epoch_examples=6, degradations=("mp3_64000",))
    assert {name.partition("/")[2] for name in _names(_read(source, 0, 30))} == {"mp3_64000"}
    with pytest.raises(ValueError, match="no degradation opus; it has mp3_24000, mp3_64000"):
        ExampleFileSource(file, epoch_examples=6, degradations=("opus",))


def test_validation_is_fixed_and_as_decoded(file: Path, stored: dict[str, Any]) -> None:
    source = ExampleFileValidation(file)
    examples = _read(source, 0, len(source))
    assert _names(examples) == [f"v{number}/{KINDS[number % 2]}" for number in range(5)]
    assert _names(_read(source, 9, 5)) == _names(examples)
    for number, example in enumerate(examples):
        clean = stored["valid"]["clean"][number] / 32_768
        assert torch.equal(example.clean, clean)
        torch.testing.assert_close(example.degraded, clean / 2, atol=4e-5, rtol=0)
    assert len(ExampleFileValidation(file, limit=2)) == 2


def test_bandwidths_are_those_of_the_file_and_infinite_in_older_ones(
    file: Path, stored: dict[str, Any], tmp_path: Path
) -> None:
    for part in (stored, stored["valid"]):
        del part["bandwidths_hz"]
    torch.save(stored | {"format": 1}, tmp_path / "old.pt")
    for path, expected in ((file, [math.inf, 16_000.0, 16_001.0]), (tmp_path / "old.pt", [math.inf] * 3)):
        assert [example.bandwidth_hz for example in _read(ExampleFileValidation(path), 0, 3)] == expected
        examples = {e.name[:2]: e for e in _read(ExampleFileSource(path, epoch_examples=6), 0, 6)}
        assert [examples[name].bandwidth_hz for name in ("t0", "t1", "t2")] == expected


def test_pieces_are_cut_where_the_index_says(file: Path) -> None:
    levels = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0, mode="paper")
    whole = _read(ExampleFileSource(file, levels, epoch_examples=6, seed=2), 1, 6)
    source = ExampleFileSource(file, levels, epoch_examples=6, seed=2, piece_seconds=16 / 44_100)
    pieces = _read(source, 1, 6)
    assert _names(pieces) == _names(whole)
    for position, (piece, example) in enumerate(zip(pieces, whole, strict=True)):
        start = rng.integer_below(SAMPLES - 16 + 1, 4 * (6 + position), 2, "piece")
        clean = example.clean[:, start : start + 16]
        torch.testing.assert_close(piece.clean, clean / clean.abs().max())
        assert piece.degraded.shape == (2, 16)
    again = _read(source, 1, 3, 6)
    assert all(torch.equal(one.clean, other.clean) for one, other in zip(pieces[3:], again, strict=True))


@pytest.mark.parametrize("seconds", [-1.0, 1e-9, 41 / 44_100])
def test_pieces_longer_than_the_examples_are_refused(file: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"at most the length of the file's examples, 0\.000907"):
        ExampleFileSource(file, epoch_examples=6, piece_seconds=seconds)


def test_file_is_mapped_not_read(file: Path) -> None:
    source = ExampleFileSource(file, epoch_examples=6)
    assert str(file) in Path("/proc/self/maps").read_text()
    del source


@pytest.mark.parametrize("content", [b"", b"text", bytes(1_000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match="not a file of examples"):
        ExampleFileSource(tmp_path / "x.pt", epoch_examples=1)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.pt"):
        ExampleFileSource(tmp_path / "x.pt", epoch_examples=1)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"format": 3}, "a format up to 2"),
        ({"bandwidths_hz": torch.ones(2)}, "the shapes of its tensors do not match"),
        ({"gains": torch.ones(3, 2)}, "the shapes of its tensors do not match"),
        ({"degraded": torch.zeros(6, 1, 2, SAMPLES)}, "the shapes of its tensors do not match"),
        ({"names": []}, "the shapes of its tensors do not match"),
        ({"clean": None}, "damaged"),
        (_part(0, "t"), "create it again with jobs/export.py"),
    ],
)
def test_damaged_content_is_refused(
    stored: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    torch.save(stored | change, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=said):
        ExampleFileSource(tmp_path / "x.pt", epoch_examples=1)


def test_file_without_validation_is_refused_for_validation(stored: dict[str, Any], tmp_path: Path) -> None:
    torch.save(stored | {"valid": _part(0, "v")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no such examples"):
        ExampleFileValidation(tmp_path / "x.pt")


class _Harmful:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._target,)


def test_file_that_would_run_code_is_refused(stored: dict[str, Any], tmp_path: Path) -> None:
    torch.save(stored | {"more": _Harmful(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a file of examples"):
        ExampleFileSource(tmp_path / "x.pt", epoch_examples=1)
    assert not (tmp_path / "ran").exists()
