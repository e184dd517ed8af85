"""Pieces: uniform over their starts, a function of (seed, index), and not silent where that can be helped."""

import statistics

import pytest
import torch

from apollo.training.pieces import draw_piece

CLEAN = torch.linspace(0.1, 0.5, 1_000).repeat(2, 1)


def _draw(clean: torch.Tensor, index: int, piece_samples: int = 100, seed: int = 0) -> slice:
    samples = clean.shape[1]
    piece, found = draw_piece(
        lambda piece: clean[:, piece], samples=samples, piece_samples=piece_samples, seed=seed, index=index
    )
    assert torch.equal(found, clean[:, piece])
    return piece


def test_starts_are_uniform_and_reach_both_ends() -> None:
    starts = [_draw(CLEAN, index, 990).start for index in range(400)]
    assert set(starts) == set(range(11))
    starts = [_draw(CLEAN, index).start for index in range(800)]
    assert statistics.mean(starts) == pytest.approx(450, abs=37)  # four standard errors
    assert {_draw(CLEAN, index).stop - _draw(CLEAN, index).start for index in range(20)} == {100}


def test_piece_is_a_function_of_seed_and_index() -> None:
    first = [_draw(CLEAN, index).start for index in range(50)]
    assert [_draw(CLEAN, index).start for index in reversed(range(50))] == first[::-1]
    assert [_draw(CLEAN, index, seed=1).start for index in range(50)] != first
    assert len(set(first)) > 40


def test_no_length_and_the_whole_length_take_all() -> None:
    assert _draw(CLEAN, 7, 0) == _draw(CLEAN, 7, 1_000) == slice(0, 1_000)


def test_silent_pieces_are_drawn_again() -> None:
    """Three quarters are silent: one draw would find silence in 3 of 4, four draws do in 1 of 3."""
    clean = CLEAN.clone()
    clean[:, :750] = 0.0009
    starts = [_draw(clean, index, 1).start for index in range(1_000)]
    assert sum(start < 750 for start in starts) == pytest.approx(1_000 * 0.75**4, abs=60)


def test_silent_example_yields_its_last_draw() -> None:
    assert _draw(CLEAN * 0, 3).stop <= 1_000


def test_piece_longer_than_the_example_is_an_error() -> None:
    with pytest.raises(ValueError, match="a piece of 1001 samples is longer than the example, of 1000"):
        _draw(CLEAN, 0, 1_001)
