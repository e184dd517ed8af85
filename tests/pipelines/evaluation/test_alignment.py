"""Lags between versions of a recording: found, told, and taken out when asked."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.alignment import MAX_LAG, describe_lags, measure_lag, shift
from pipelines.evaluation.items import EvaluationItem
from pipelines.evaluation.pair_items import PairItems
from tests.support import datasets

DELAY = 1_105  # of LAME, which decoders without its tag leave in


def _music(seconds: float = 2.0) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return datasets.music(0, seconds=seconds).astype(np.float32).T


@pytest.mark.parametrize("lag", [0, 1, -1, 529, DELAY, -DELAY, MAX_LAG])
def test_a_lag_is_found_to_the_sample_under_noise_and_at_another_level(lag: int) -> None:
    clean = _music()
    noise = np.random.default_rng(1).standard_normal(clean.shape) * clean.std() / 10
    late = shift(0.5 * clean + noise.astype(np.float32), -lag, clean.shape[1])
    assert measure_lag(clean, late) == lag


def test_what_is_aligned_has_no_lag_however_it_was_damaged() -> None:
    clean = _music()
    time = np.arange(clean.shape[1]) / 44_100
    tone = np.stack([np.sin(2 * np.pi * 441 * time)] * 2).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32)
    silence = np.zeros_like(clean)
    assert measure_lag(tone, shift(tone, -3, tone.shape[1])) == 3
    for reference, samples in (
        (clean, clean),
        (tone, tone),
        (clean, noise),
        (clean, silence),
        (silence, clean),
    ):
        assert measure_lag(reference, samples) == 0
    assert measure_lag(clean[:, :3], clean[:, :3]) == 0


def _pairs(folder: Path) -> Path:
    clean = _music()
    length = clean.shape[1]
    item = folder / "64k" / "song"
    datasets.write(item / "clean.wav", clean.T)
    datasets.write(item / "degraded.wav", shift(clean, -DELAY, length).T)
    datasets.write(item / "early.wav", shift(clean, 200, length).T)
    datasets.write(item / "exact.wav", clean.T)
    return folder


def test_32_lags_of_pairs_are_known_and_taken_out_when_asked(tmp_path: Path) -> None:
    folder = str(_pairs(tmp_path))
    (item,) = PairItems(folder, (), None).load([0], "64k")
    assert isinstance(item, EvaluationItem)
    assert (item.lag, item.restored_lags) == (DELAY, {"early": -200, "exact": 0})
    (aligned,) = PairItems(folder, (), None, align=True).load([0], "64k")
    assert isinstance(aligned, EvaluationItem)
    assert (aligned.lag, aligned.restored_lags) == (0, {})
    assert aligned.clean.shape[1] == item.clean.shape[1] - DELAY - 200
    for samples in (aligned.degraded, *aligned.restored.values()):
        assert isinstance(samples, np.ndarray)
        np.testing.assert_allclose(samples, aligned.clean, atol=1e-4)
    assert PairItems(folder, (), None).fingerprint != PairItems(folder, (), None, align=True).fingerprint


def test_32_a_decoder_that_keeps_delay_and_padding_is_named_and_can_be_aligned(tmp_path: Path) -> None:
    clean = _music()
    padded = np.pad(clean, ((0, 0), (DELAY, 407)))
    for name, samples in (("clean", clean), ("degraded", padded)):
        datasets.write(tmp_path / "64k" / "song" / f"{name}.wav", samples.T)
    (reason,) = PairItems(str(tmp_path), (), None).load([0], "64k")
    assert isinstance(reason, str) and f"{DELAY} samples late: --align_pairs true takes that out" in reason
    (item,) = PairItems(str(tmp_path), (), None, align=True).load([0], "64k")
    assert isinstance(item, EvaluationItem)
    np.testing.assert_allclose(item.degraded, item.clean, atol=1e-4)


def test_lags_are_described_with_what_to_do() -> None:
    assert describe_lags({}) == ""
    text = describe_lags({"untouched: a": 1_105, "ours: a": -3})
    assert (
        "2 versions are not aligned" in text and "by -3 to 1105 samples" in text and "--align_pairs" in text
    )
