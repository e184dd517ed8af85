"""Scores of a generator against the metrics themselves, and what makes one checkpoint better than another."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apollo.metrics import log_spectral_distance, si_snr
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.data import Example
from apollo.training.distributed import DistributedContext
from apollo.training.losses import magnitude_loss
from apollo.training.validation import (
    DEGRADED_SUFFIX,
    LSD,
    SI_SNR,
    STFT_LOSS,
    VISQOL,
    choose_best,
    quality,
    restore_examples,
    validate,
)
from tests.support.gloo_runs import Noise

CONTEXT = DistributedContext(torch.device("cpu"))
SMALL = GeneratorConfig(dim=8, layers=1, heads=2, output="correction")


class Halving(nn.Module):
    """Restores half of what it is given."""

    config = SMALL

    def forward(self, samples: Tensor) -> Tensor:
        return samples / 2


class Recorded(Noise):
    """Examples of noise that remember what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, list[int]]] = []

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        self.asked.append((epoch, list(positions)))
        return super().read(epoch, positions)


def _scores(generator: Any, examples: int = 3) -> dict[str, float]:
    return validate(generator, Noise(), examples, CONTEXT)


def test_scores_are_means_of_the_metrics() -> None:
    expected: dict[str, list[float]] = {}
    for example in Noise().read(0, range(3)):
        for ending, estimate in (("", example.degraded / 2), (DEGRADED_SUFFIX, example.degraded)):
            sides = {"estimate": estimate[None], "reference": example.clean[None]}
            distance = log_spectral_distance(**sides, sample_rate=44_100, cutoff_hz=5_000)
            for name, value in (
                (STFT_LOSS, magnitude_loss(**sides)),
                (SI_SNR, si_snr(**sides).mean()),
                (LSD, distance.mean()),
            ):
                expected.setdefault(name + ending, []).append(float(value))
    found = _scores(Halving())
    means = {name: math.fsum(values) / 3 for name, values in expected.items()}
    assert found == pytest.approx(means, rel=1e-6)
    assert found[STFT_LOSS] != pytest.approx(found[STFT_LOSS + DEGRADED_SUFFIX], rel=0.1)


def test_scores_of_the_input_are_those_of_an_untrained_correction() -> None:
    torch.manual_seed(0)
    found = _scores(Generator(SMALL).eval())
    for name in (STFT_LOSS, SI_SNR, LSD):
        assert found[name] == pytest.approx(found[name + DEGRADED_SUFFIX], rel=1e-3), name
    assert quality(found, floor_db=3.0)[0]
    assert quality(found, floor_db=3.0)[1] == pytest.approx(0, abs=1e-3)


def test_the_first_examples_are_read_at_epoch_zero() -> None:
    source = Recorded()
    validate(Halving(), source, 4, CONTEXT)
    assert source.asked == [(0, [0, 1, 2, 3])]


def test_the_first_examples_are_restored() -> None:
    restored = restore_examples(Halving(), Noise(), 3, torch.device("cpu"))
    assert len(restored) == 3
    for one, example in zip(restored, Noise().read(0, range(3)), strict=True):
        assert one.name == example.name
        assert torch.equal(one.clean, example.clean) and torch.equal(one.degraded, example.degraded)
        assert torch.equal(one.restored, example.degraded / 2)
        assert one.restored.shape == (2, 1_500) and not one.restored.requires_grad


def _quality(
    loss: float, *, si_snr: float = 10.0, floor_db: float = 3.0, **more: float
) -> tuple[bool, float]:
    """Rank scores beside an input of loss 0.5 and 10 dB."""
    scores = {
        STFT_LOSS: loss,
        STFT_LOSS + DEGRADED_SUFFIX: 0.5,
        SI_SNR: si_snr,
        SI_SNR + DEGRADED_SUFFIX: 10.0,
    }
    scores |= {VISQOL + name.removeprefix("visqol"): value for name, value in more.items()}
    return quality(scores, floor_db=floor_db)


def test_an_unchanged_input_has_no_gain() -> None:
    assert _quality(0.5) == (True, 0.0)
    assert _quality(0.5, **{"visqol": 4.0, "visqol/degraded": 4.0}) == (True, 0.0)


def test_gains_are_relative_to_the_input() -> None:
    assert _quality(0.4)[1] == pytest.approx(0.2)
    assert _quality(0.6)[1] == pytest.approx(-0.2)
    both = _quality(0.4, **{"visqol": 4.4, "visqol/degraded": 4.0})
    assert both[1] == pytest.approx(0.2 + 0.1)
    assert _quality(0.4, visqol=4.4)[1] == pytest.approx(0.2)  # nothing to compare it with
    assert _quality(0.4) > _quality(0.45) > _quality(0.5) > _quality(0.55)


def test_visqol_can_decide() -> None:
    better = _quality(0.41, **{"visqol": 4.4, "visqol/degraded": 4.0})
    assert better > _quality(0.40, **{"visqol": 4.0, "visqol/degraded": 4.0})


def test_the_floor_comes_before_any_gain() -> None:
    assert _quality(0.1, si_snr=6.99) < _quality(0.6, si_snr=7.0)
    assert _quality(0.1, si_snr=6.99)[0] is False
    assert _quality(0.1, si_snr=6.99) > _quality(0.2, si_snr=6.99)  # among those below it, the gain decides
    assert _quality(0.1, si_snr=6.99, floor_db=4.0) > _quality(0.6)


def test_a_perfect_input_can_only_get_worse() -> None:
    untouched = {
        STFT_LOSS: 0.0,
        STFT_LOSS + DEGRADED_SUFFIX: 0.0,
        SI_SNR: 100.0,
        SI_SNR + DEGRADED_SUFFIX: 100.0,
    }
    assert quality(untouched, floor_db=3.0) == (True, 0.0)
    assert quality(untouched | {STFT_LOSS: 0.1}, floor_db=3.0)[1] < 0


def _candidate(loss: float, **more: float) -> dict[str, float]:
    scores = {STFT_LOSS: loss, STFT_LOSS + DEGRADED_SUFFIX: 1.0, SI_SNR: 10.0, SI_SNR + DEGRADED_SUFFIX: 10.0}
    return scores | {f"valid/{name}": value for name, value in more.items()}


def test_visqol_counts_only_if_all_candidates_have_it() -> None:
    good, worse = _candidate(0.5), _candidate(0.8, visqol=4.0, **{"visqol/degraded": 2.0})
    assert choose_best({1: good, 2: worse}, floor_db=3.0) == 1
    good |= {VISQOL: 2.0, VISQOL + DEGRADED_SUFFIX: 2.0}
    assert choose_best({1: good, 2: worse}, floor_db=3.0) == 2


def test_a_non_finite_score_is_never_best() -> None:
    broken = _candidate(math.nan)
    assert choose_best({1: broken, 2: _candidate(2.0)}, floor_db=3.0) == 2
    assert choose_best({2: _candidate(2.0), 3: _candidate(2.0)}, floor_db=3.0) == 2
    assert choose_best({}, floor_db=3.0) is None
