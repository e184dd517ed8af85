"""The 2f-model: PEAQ's outputs against another implementation's, the formula by hand, and undefined cases.

The expected outputs are those of gstpeaq's functions (fftearmodel, modpatt, movs, movaccum; LGPL), compiled
without GStreamer, for the same float32 samples.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.audio import two_f_model
from pipelines.audio.two_f_model import measure, score

RATE = 48_000
Samples = NDArray[np.float32]


def _pair(kind: str) -> tuple[Samples, Samples]:
    """Make reference and estimate: 3 s at 48 kHz, [channels, samples]."""
    random, samples = np.random.default_rng(0), np.arange(3 * RATE)
    clean = 0.1 * random.standard_normal((2, len(samples)))
    restored = clean + 0.03 * random.standard_normal(clean.shape)
    envelope = np.abs(np.sin(samples / 4_000))
    if kind == "quieter modulated noise":
        clean, restored = clean * envelope, 0.9 * restored * envelope
    if kind == "silent ends":
        clean = clean * envelope
        clean[:, :20_000] = clean[:, -30_000:] = 0
        restored = clean + 0.001 * random.standard_normal(clean.shape)
    if kind == "tone":
        clean = 0.3 * np.sin(0.1 * samples)[None]
        restored = clean + 0.003 * random.standard_normal(clean.shape)
    return clean.astype(np.float32), restored.astype(np.float32)


@pytest.mark.parametrize(
    "kind, modulation_difference, distorted_block",
    [
        ("noise", 17.946762831, 1.406880471),
        ("quieter modulated noise", 12.531467038, 1.561540639),
        ("silent ends", 0.792060794, 0.000000000),
        ("tone", 65.027405916, 3.086239775),
    ],
)
def test_outputs_equal_another_implementation(
    kind: str, modulation_difference: float, distorted_block: float
) -> None:
    found = measure(*(samples.astype(np.float64) for samples in _pair(kind)))
    assert found == pytest.approx((modulation_difference, distorted_block), abs=1e-8)


def test_score_is_the_formula_of_the_outputs() -> None:
    modulation_difference, distorted_block = 17.946762831, 1.406880471
    expected = 56.1345 / (1 + (-0.0282 * modulation_difference - 0.8628) ** 2)
    expected += -27.1451 * distorted_block + 86.3515
    assert score(*_pair("noise"), RATE) == pytest.approx(expected, abs=1e-3)


def test_identity_has_the_top_score_and_more_noise_lower_ones() -> None:
    clean = _pair("noise")[0]
    noise = np.random.default_rng(4).standard_normal(clean.shape).astype(np.float32)
    scores = [score(clean, clean + share * noise, RATE) or 0.0 for share in (0.0, 0.03, 0.1)]
    assert scores[0] == 100  # ADB is 0: 56.1 / 1.74 + 86.4 is above the scale
    assert scores == sorted(set(scores), reverse=True)


def test_distortion_is_detected_in_the_worse_channel_and_modulation_averaged() -> None:
    clean, restored = (samples[:1].astype(np.float64) for samples in _pair("noise"))
    both = measure(np.repeat(clean, 2, 0), np.repeat(restored, 2, 0))
    half = measure(np.repeat(clean, 2, 0), np.concatenate([clean, restored]))
    assert both == pytest.approx(measure(clean, restored))
    assert both is not None
    assert half == pytest.approx((both[0] / 2, both[1]))


def test_silence_short_and_non_finite_audio_have_no_score() -> None:
    clean, restored = _pair("noise")
    assert score(np.zeros_like(clean), restored, RATE) is None
    assert score(clean[:, : RATE - 1], restored[:, : RATE - 1], RATE) is None
    assert score(clean[:, :0], restored[:, :0], RATE) is None
    assert score(clean[:, :RATE], restored[:, :RATE], RATE) is not None
    assert score(clean, np.zeros_like(clean), RATE) is not None
    restored[0, 9] = math.nan
    assert score(clean, restored, RATE) is None
    with pytest.raises(ValueError, match="one shape"):
        score(clean, clean[:, :-1], RATE)


def test_bands_are_the_recommendations() -> None:
    model = two_f_model._ear_model()
    assert model.centres_hz[[0, 1, 108]] == pytest.approx([91.708, 115.216, 17_690.045], abs=2e-3)  # table 6
    frequencies = np.arange(1_025) * RATE / 2_048
    inside = (frequencies > 100) & (frequencies < 17_980)
    assert (model.grouping.sum(0)[inside] > 0).all()
