"""Zimtohrli: its own values for one channel, channels combined, and defined where it has none."""

import math
import subprocess
import sys

import numpy as np
import pytest
import soxr
import zimtohrli as package
from numpy.typing import NDArray

from pipelines.audio import zimtohrli
from pipelines.audio.zimtohrli import score

RATE = 44_100
Samples = NDArray[np.float32]


def _noise(seconds: float = 1.0, seed: int = 1, channels: int = 2) -> Samples:
    shape = channels, round(seconds * RATE)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_one_channel_has_the_score_of_the_package_at_48_khz() -> None:
    clean, restored = _noise(channels=1), _noise(channels=1) + 0.3 * _noise(seed=2, channels=1)
    pair = [soxr.resample(samples[0], RATE, 48_000) for samples in (clean, restored)]
    assert score(clean, restored, RATE) == pytest.approx(package.mos_from_signals(*pair), abs=1e-6)


def test_identity_has_the_top_score_and_more_noise_lower_ones() -> None:
    clean = _noise()
    scores = [score(clean, clean + share * _noise(seed=2), RATE) or 0.0 for share in (0.0, 0.3, 3.0)]
    assert scores[0] == pytest.approx(5, abs=1e-6)
    assert scores == sorted(set(scores), reverse=True)


def test_channels_are_combined_as_root_mean_square_of_distances() -> None:
    clean = _noise()
    restored = np.stack([clean[0], clean[1] + 0.5 * _noise(seed=2)[0]])
    pair = [soxr.resample(samples[1], RATE, 48_000) for samples in (clean, restored)]
    distance = package.Pyohrli().distance(*pair)
    expected = package.mos_from_zimtohrli(math.sqrt(distance**2 / 2))
    assert score(clean, restored, RATE) == pytest.approx(expected, abs=1e-4)


def test_a_channel_that_is_silent_in_the_clean_audio_does_not_count() -> None:
    clean, restored = _noise(), _noise() + 0.3 * _noise(seed=2)
    alone = score(clean[:1], restored[:1], RATE)
    clean[1] = 0
    assert score(clean, restored, RATE) == alone


@pytest.mark.parametrize("seconds", [0.0, 1 / RATE, 0.05, 0.49])
def test_short_audio_has_no_score(seconds: float) -> None:
    assert score(_noise(seconds), _noise(seconds, seed=2), RATE) is None


def test_silence_and_non_finite_samples_have_no_score() -> None:
    clean, broken = _noise(), _noise()
    broken[0, 5] = math.nan
    assert score(np.zeros_like(clean), clean, RATE) is None
    assert score(clean, broken, RATE) is None
    assert score(clean, np.zeros_like(clean), RATE) is not None
    with pytest.raises(ValueError, match="one shape"):
        score(clean, clean[:, :-1], RATE)


def test_without_the_package_there_is_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    zimtohrli._load.cache_clear()
    monkeypatch.setitem(sys.modules, "zimtohrli", None)
    assert score(_noise(), _noise(), RATE) is None
    zimtohrli._load.cache_clear()


def test_the_package_is_imported_when_a_score_is_asked_for() -> None:
    code = "import sys, pipelines.evaluation.metrics; print('zimtohrli' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
