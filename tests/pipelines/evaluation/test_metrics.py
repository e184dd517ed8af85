"""Scores of one item: recorded values, values worked out by hand, and defined where there is nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.evaluation.items import EvaluationItem
from pipelines.evaluation.metrics import score
from pipelines.evaluation.pair_items import PairItems
from pipelines.schema import ERROR_BANDS, LEVEL_BANDS, METRICS, NOT_FINITE, SCORED, SILENT
from tests.support import datasets

CUTOFF = 8_000.0
Samples = NDArray[np.float32]


def music(seconds: float = 1.2, seed: int = 1) -> Samples:
    return datasets.music(seed, seconds=seconds).T.astype(np.float32).copy()


def of(clean: Samples, estimate: Samples, gain: float = 1.0) -> dict[str, Any]:
    found = score(clean, estimate, gain=gain, cutoff_hz=CUTOFF)
    assert not [name for name in METRICS if found[name] is not None and not np.isfinite(found[name])]
    assert set(found) == {"status", "reason", *METRICS}
    return found


def test_scores_of_the_published_clips_equal_the_recorded_ones(recordings: Path, golden: Path) -> None:
    expected = json.loads((golden / "metrics_apollo_demo.json").read_text())["scores"]
    pairs = PairItems(str(recordings / "apollo-demo"), (), None)
    compared = 0
    for degradation in pairs.degradations:
        (clip,) = pairs.load(pairs.indices(degradation.name), degradation.name)
        assert isinstance(clip, EvaluationItem)
        for name, estimate in {"degraded": clip.degraded, **clip.restored}.items():
            found = score(clip.clean, estimate, gain=clip.gain, cutoff_hz=CUTOFF)
            recorded = expected[f"{degradation.name}/{name}"]
            assert found["sdr"] == pytest.approx(recorded["sdr_db"], abs=0.01)
            assert found["si_snr"] == pytest.approx(recorded["si_snr_db"], abs=0.01)
            assert found["visqol"] == pytest.approx(recorded["visqol_mos"], abs=0.01)
            compared += 1
    assert compared == len(expected) == 10


def test_gain_of_the_codec_is_not_an_error() -> None:
    clean = music()
    found = of(clean, (0.5 * clean).astype(np.float32), gain=0.5)
    assert found["snr"] == 100
    assert found["lsd_high"] == pytest.approx(0, abs=1e-6)
    assert [found[name] for name in ERROR_BANDS] == [-100.0] * len(ERROR_BANDS)
    assert [found[name] for name in LEVEL_BANDS] == pytest.approx([0] * len(LEVEL_BANDS), abs=1e-6)
    assert found["zimtohrli"] == pytest.approx(5, abs=1e-3)
    assert of(clean, (0.5 * clean).astype(np.float32))["snr"] == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_a_band_that_is_missing_has_an_error_of_0_db_and_no_other_has_one() -> None:
    clean = music()
    spectrum = np.fft.rfft(clean)
    edges = [round(edge * clean.shape[1] / datasets.SAMPLE_RATE) for edge in (8_000, 12_000)]
    spectrum[:, edges[0] : edges[1]] = 0
    found = of(clean, np.fft.irfft(spectrum, clean.shape[1]).astype(np.float32))
    assert found["error_8000_12000_hz"] == pytest.approx(0, abs=1e-4)
    assert all(found[name] < -80 for name in ERROR_BANDS if name != "error_8000_12000_hz")


def test_metrics_by_frequency_end_where_the_clean_audio_is_known() -> None:
    clean = music()
    spectrum = np.fft.rfft(clean)
    spectrum[:, round(10_000 * clean.shape[1] / datasets.SAMPLE_RATE) :] = 0
    estimate = np.fft.irfft(spectrum, clean.shape[1]).astype(np.float32)

    def known_to(bandwidth_hz: float) -> dict[str, Any]:
        return score(clean, estimate, gain=1.0, cutoff_hz=CUTOFF, bandwidth_hz=bandwidth_hz)

    whole, part, none = known_to(np.inf), known_to(9_500.0), known_to(CUTOFF)
    assert whole == of(clean, estimate)
    assert whole["lsd_high"] > 10 and part["lsd_high"] < 1 and none["lsd_high"] is None
    assert whole["error_8000_12000_hz"] > -10 and part["error_8000_12000_hz"] < -80
    assert whole["error_12000_16000_hz"] is not None and part["error_12000_16000_hz"] is None
    assert none["error_8000_12000_hz"] is None
    for name in ("sdr", "si_snr", "visqol", "snr", "error_0_4000_hz", "error_4000_8000_hz"):
        assert whole[name] == part[name] == none[name]


def test_noise_above_the_cutoff_in_place_of_noise_is_as_flat_and_as_loud() -> None:
    clean = music()  # its highs are noise
    frequencies = np.fft.rfftfreq(clean.shape[1], 1 / datasets.SAMPLE_RATE)
    spectrum, noise = (
        np.fft.rfft(samples) * (frequencies >= CUTOFF)
        for samples in (clean, np.random.default_rng(3).standard_normal(clean.shape))
    )
    noise *= np.sqrt((abs(spectrum) ** 2).sum() / (abs(noise) ** 2).sum())
    low = clean - np.fft.irfft(spectrum, clean.shape[1])
    codec, noisy = (
        of(clean, low.astype(np.float32)),
        of(clean, (low + np.fft.irfft(noise)).astype(np.float32)),
    )
    assert codec["flatness_high"] is None
    assert noisy["flatness_high"] == pytest.approx(0, abs=0.2)
    for name in ("level_error_8000_12000_hz", "level_error_12000_16000_hz"):
        assert noisy[name] < codec[name]


def test_snr_of_noise_of_known_power() -> None:
    clean = music()
    noise = np.random.default_rng(5).standard_normal(clean.shape).astype(np.float32)
    noise *= np.sqrt((clean**2).sum(1, keepdims=True) / (noise**2).sum(1, keepdims=True)) * 10 ** (-12 / 20)
    found = of(clean, clean + noise)
    assert found["snr"] == pytest.approx(12, abs=1e-3)
    assert found["si_snr"] == pytest.approx(12, abs=0.1)
    assert found["sdr"] >= found["si_snr"] - 1e-6


def test_silence_is_counted_and_has_no_scores() -> None:
    silence = np.zeros((2, 50_000), np.float32)
    for estimate in (silence, music(50_000 / datasets.SAMPLE_RATE)):
        found = of(silence, estimate)
        assert found["status"] == SILENT
        assert {found[name] for name in METRICS} == {None}
    assert of(np.full((2, 50_000), 0.25, np.float32), silence)["status"] == SILENT


def test_a_silent_channel_does_not_count() -> None:
    clean, estimate = music(), music()
    estimate[0] += 0.01 * np.random.default_rng(1).standard_normal(estimate.shape[1]).astype(np.float32)
    alone = of(clean[:1], estimate[:1])
    clean[1] = 0
    found = of(clean, estimate)
    assert found["status"] == SCORED
    for name in ("sdr", "si_snr", "snr", "lsd_high"):
        assert found[name] == pytest.approx(alone[name], rel=1e-9)


def test_identity_has_the_highest_scores() -> None:
    clean = music()
    found = of(clean, clean)
    assert (found["sdr"], found["si_snr"], found["snr"], found["lsd_high"]) == (100, 100, 100, 0)
    assert found["visqol"] == pytest.approx(4.732, abs=0.001)


def test_mono_has_no_side_score() -> None:
    clean = music()
    clean[1] = clean[0]
    found = of(clean, music(seed=2))
    assert found["si_snr_side"] is None
    assert found["si_snr_mid"] is not None
    assert of(clean[:1], clean[:1])["si_snr_mid"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_result_has_status_not_finite(value: float) -> None:
    broken = music()
    broken[1, 77] = value
    found = of(music(), broken)
    assert found["status"] == NOT_FINITE
    assert {found[name] for name in METRICS} == {None}


@pytest.mark.parametrize("samples", [1, 2, 441, 1_000, 42_000])
def test_short_items_have_all_but_visqol(samples: int) -> None:
    clean = music()[:, :samples]
    found = of(clean, music(seed=2)[:, :samples])
    assert found["visqol"] is None
    if samples > 1:
        assert found["status"] == SCORED
        assert found["si_snr"] is not None


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        score(music(), music()[:, :-1], gain=1.0, cutoff_hz=CUTOFF)
