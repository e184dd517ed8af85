"""Scores against values worked out by hand and an independent least-squares fit; defined for silence too."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from apollo.metrics import flatness_difference, level_error, log_spectral_distance, mid_side, sdr, si_snr, snr

RATE = 44_100
Metric = Callable[..., Tensor]


def _lsd(*, estimate: Tensor, reference: Tensor) -> Tensor:
    return log_spectral_distance(estimate=estimate, reference=reference, sample_rate=RATE)


def _level_error(*, estimate: Tensor, reference: Tensor) -> Tensor:
    bands = [(0, RATE / 2)]
    return level_error(estimate=estimate, reference=reference, sample_rate=RATE, bands_hz=bands)[..., 0]


RATIOS = [snr, si_snr, sdr]
METRICS = [*RATIOS, _lsd, _level_error]


def _flatness(estimate: Tensor, reference: Tensor, **limits: float) -> float:
    value = flatness_difference(estimate=estimate, reference=reference, sample_rate=RATE, **limits)
    return value.item()


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _score(metric: Metric, estimate: Tensor, reference: Tensor) -> float:
    value = metric(estimate=estimate, reference=reference)
    assert value.dtype == torch.float64
    return value.item()


def test_snr_by_hand() -> None:
    reference, estimate = torch.tensor([3.0, 0.0, -4.0]), torch.tensor([3.0, 0.5, -4.0])
    assert _score(snr, estimate, reference) == pytest.approx(20.0)  # 25 over 1/4
    assert _score(snr, 2 * reference, reference) == pytest.approx(0.0)
    assert _score(snr, -reference, reference) == pytest.approx(10 * math.log10(1 / 4))


def test_si_snr_by_hand() -> None:
    reference, orthogonal = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([1.0, 1.0, -2.0])
    # energies of 2 x 4 and 6 x 1/4
    expected = 10 * math.log10(8 / 1.5)
    assert _score(si_snr, 2 * reference + orthogonal / 2, reference) == pytest.approx(expected)


@pytest.mark.parametrize("gain, offset", [(1.0, 0.0), (-0.3, 0.0), (7.0, 0.5)])
def test_si_snr_ignores_gain_sign_and_offset(gain: float, offset: float) -> None:
    estimate, reference = _noise(1000), _noise(1000, seed=2)
    found = _score(si_snr, gain * (estimate + offset), reference - offset)
    assert found == pytest.approx(_score(si_snr, estimate, reference), abs=1e-9)


@pytest.mark.parametrize("noise_db", [-60.0, -20.0, 0.0, 30.0])
def test_known_mix_of_orthogonal_noise_has_its_known_ratio(noise_db: float) -> None:
    reference = _noise(4000) - _noise(4000).mean()
    noise = _noise(4000, seed=2)
    noise = noise - noise.mean()
    noise -= (noise @ reference) / (reference @ reference) * reference
    noise *= 10 ** (noise_db / 20) * reference.norm() / noise.norm()
    assert _score(snr, reference + noise, reference) == pytest.approx(-noise_db, abs=1e-9)
    assert _score(si_snr, reference + noise, reference) == pytest.approx(-noise_db, abs=1e-9)
    assert _score(sdr, reference + noise, reference) >= -noise_db  # a filter can only fit better


@pytest.mark.parametrize(
    "metric, both_silent, made_up, lost",
    [(snr, 100, -100, 0), (si_snr, 100, -100, -100), (sdr, 100, -100, -100)],
)
def test_silence_is_scored_as_defined(metric: Metric, both_silent: int, made_up: int, lost: int) -> None:
    sound, silence = _noise(3000), torch.zeros(3000)
    assert _score(metric, silence, silence) == both_silent
    assert _score(metric, sound, silence) == made_up
    assert _score(metric, silence, sound) == lost
    assert _score(metric, sound, sound) == 100


def test_silence_has_a_spectral_distance() -> None:
    sound, silence = _noise(6000), torch.zeros(6000)
    assert _score(_lsd, silence, silence) == 0
    for distance in (_score(_lsd, sound, silence), _score(_lsd, silence, sound)):
        assert 30 < distance < 100  # noise of -20 dB lies about 55 dB above the floor of -100 in each bin


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("samples", [1, 2, 100, 3000])
@pytest.mark.parametrize("kind", ["sine", "click", "constant", "tiny", "loud", "alternating"])
def test_no_signal_gives_nan(metric: Metric, samples: int, kind: str) -> None:
    time = torch.arange(samples, dtype=torch.float64)
    signal = {
        "sine": 0.5 * torch.sin(0.1 * time),
        "click": (time == samples // 2).double(),
        "constant": torch.full_like(time, 0.1),
        "tiny": 1e-30 * _noise(samples),
        "loud": 1e30 * _noise(samples),
        "alternating": 1.0 - 2.0 * (time % 2),
    }[kind]
    for other in (signal, 0.5 * signal, _noise(samples), torch.zeros(samples)):
        for estimate, reference in ((signal, other), (other, signal)):
            assert -100 <= _score(metric, estimate, reference) <= 1000  # NaN is no number between


@pytest.mark.parametrize("metric", RATIOS)
@pytest.mark.parametrize("cutoff", [100, 4000, 22_050])
def test_identity_of_band_limited_audio_is_100_db(metric: Metric, cutoff: int) -> None:
    """A low-passed reference makes the fit of the filter ill-conditioned."""
    spectrum = torch.fft.rfft(_noise(RATE))
    spectrum[cutoff + 1 :] = 0
    sound = torch.fft.irfft(spectrum, RATE)
    assert _score(metric, sound, sound) == 100


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_samples_are_refused(metric: Metric, bad: float) -> None:
    for signals in ((_noise(9), _noise(9)), (_noise(9), _noise(9))):
        signals[0][4] = bad
        with pytest.raises(ValueError, match="non-finite samples"):
            metric(estimate=signals[0], reference=signals[1])
        with pytest.raises(ValueError, match="non-finite samples"):
            metric(estimate=signals[1], reference=signals[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shapes", [((5,), (6,)), ((1, 5), (5,)), ((0,), (0,)), ((2, 0), (2, 0))])
def test_shapes_that_differ_or_are_empty_are_refused(
    metric: Metric, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match="must have the same shape and at least one sample"):
        metric(estimate=torch.zeros(shapes[0]), reference=torch.zeros(shapes[1]))


@pytest.mark.parametrize("metric", METRICS)
def test_channels_are_scored_as_if_alone(metric: Metric) -> None:
    estimate, reference = _noise(2, 3, 3000), _noise(2, 3, 3000, seed=2)
    estimate[0, 1] = 0
    scores = metric(estimate=estimate, reference=reference)
    assert scores.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = _score(metric, estimate[index], reference[index])
        assert scores[index].item() == pytest.approx(alone, abs=1e-9)


def _fitted_sdr(estimate: NDArray[np.float64], reference: NDArray[np.float64], taps: int) -> float:
    """Fit the filter by plain least squares on the matrix of delayed references."""
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    delayed = np.stack([np.pad(reference, (delay, taps - 1 - delay)) for delay in range(taps)], 1)
    padded = np.pad(estimate, (0, taps - 1))
    projection = delayed @ np.linalg.lstsq(delayed, padded, rcond=None)[0]
    return float(10 * np.log10((projection**2).sum() / ((padded - projection) ** 2).sum()))


@pytest.mark.parametrize("taps", [1, 2, 16, 64])
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_sdr_equals_an_independent_fit(taps: int, noise: float) -> None:
    reference = _noise(700) + 0.3
    echoed = reference + 0.5 * reference.roll(3) + noise * _noise(700, seed=2)
    expected = _fitted_sdr(echoed.numpy(), reference.numpy(), taps)
    found = sdr(estimate=echoed, reference=reference, taps=taps).item()
    assert found == pytest.approx(expected, abs=1e-6)


def test_sdr_ignores_a_gain_and_a_filter_of_its_taps_and_no_longer_one() -> None:
    reference = torch.zeros(6000, dtype=torch.float64)
    reference[:4000] = _noise(4000) - _noise(4000).mean()  # the filter's tail stays inside the signal

    def delayed(samples: int) -> Tensor:
        return 3 * reference - 2 * reference.roll(samples)

    assert _score(sdr, delayed(1), reference) >= 90
    assert _score(sdr, delayed(511), reference) >= 90
    assert _score(sdr, delayed(512), reference) < 10
    assert _score(si_snr, delayed(511), reference) < 10


def test_sdr_finds_its_filter_where_the_solver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate, reference = _noise(2000), _noise(2000) + _noise(2000, seed=2)
    expected = _score(sdr, estimate, reference)
    failed = torch.tensor(1)
    monkeypatch.setattr(torch.linalg, "solve_ex", lambda _, cross: (torch.full_like(cross, math.nan), failed))
    assert _score(sdr, estimate, reference) == pytest.approx(expected, abs=1e-6)


def test_spectral_distance_of_a_gain_is_the_gain() -> None:
    sound = _noise(2, 10_000)
    scores = log_spectral_distance(estimate=2 * sound, reference=sound, sample_rate=RATE)
    torch.testing.assert_close(scores, torch.full((2,), 20 * math.log10(2), dtype=torch.float64))
    assert _score(_lsd, sound[0], sound[0]) == 0


def test_full_scale_sine_lies_100_db_above_the_floor() -> None:
    time = torch.arange(2048 * 400, dtype=torch.float64)
    sine = torch.sin(2 * math.pi * 256 / 2048 * time)
    found = log_spectral_distance(
        estimate=sine, reference=torch.zeros_like(sine), sample_rate=2048, cutoff_hz=256
    )
    # of 769 bins a Hann window shows it in its own and, 6 dB lower, in the next; the one below is cut off
    expected = math.sqrt((100**2 + (100 - 20 * math.log10(2)) ** 2) / 769)
    assert found.item() == pytest.approx(expected, rel=0.03)  # the four frames at the ends see an edge


def test_cutoff_selects_what_is_above_it() -> None:
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    fade = torch.hann_window(RATE, dtype=torch.float64)
    sound = _noise(RATE)
    low = sound + fade * torch.sin(2 * math.pi * 1000 * time)
    high = sound + fade * torch.sin(2 * math.pi * 15_000 * time)

    def distance(estimate: Tensor, cutoff_hz: float) -> float:
        return log_spectral_distance(
            estimate=estimate, reference=sound, sample_rate=RATE, cutoff_hz=cutoff_hz
        ).item()

    assert distance(low, 0) > 0.5 and distance(high, 0) > 0.5
    assert distance(low, 5000) < 0.05 and distance(high, 5000) > 0.5
    assert distance(high, RATE / 2) < 0.05


@pytest.mark.parametrize("cutoff_hz", [-100.0, 22_100.0])
def test_cutoff_outside_the_spectrum_is_refused(cutoff_hz: float) -> None:
    sound = _noise(3000)
    with pytest.raises(ValueError, match="between 0 and 22050"):
        log_spectral_distance(estimate=sound, reference=sound, sample_rate=RATE, cutoff_hz=cutoff_hz)


def test_mid_and_side_by_hand() -> None:
    found = mid_side(torch.tensor([[1.0, 2.0], [3.0, -2.0]]))
    assert found.tolist() == [[2.0, 0.0], [-1.0, 2.0]]
    with pytest.raises(ValueError, match="two channels"):
        mid_side(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="two channels"):
        mid_side(torch.zeros(2))


def test_side_shows_what_a_downmix_hides() -> None:
    reference = _noise(4, 2, 2000)
    downmixed = reference.mean(1, keepdim=True).expand(-1, 2, -1)
    pair = {"estimate": mid_side(downmixed), "reference": mid_side(reference)}
    mid, side = snr(**pair).unbind(-1)
    assert mid.shape == side.shape == (4,)
    assert (mid >= 99).all()
    torch.testing.assert_close(side, torch.zeros(4, dtype=torch.float64))
    mid, side = log_spectral_distance(**pair, sample_rate=RATE, cutoff_hz=4000.0).unbind(-1)
    assert (mid < 1e-6).all() and (side > 20).all()


def _band(samples: Tensor, low_hz: float, high_hz: float) -> Tensor:
    spectrum = torch.fft.rfft(samples)
    frequencies = torch.arange(len(spectrum)) * RATE / len(samples)
    return torch.fft.irfft(spectrum * ((frequencies >= low_hz) & (frequencies < high_hz)), len(samples))


def test_flatness_of_noise_is_its_expected_value() -> None:
    noise = _noise(2_048 * 40)
    clicks = torch.zeros_like(noise)
    clicks[::4_096] = 1  # one in a frame at most: the same power in all bins, so 0 dB
    expected = -10 * 0.5772156649 / math.log(10)  # the power of noise is exponential: Euler's constant
    assert _flatness(noise, clicks) == pytest.approx(expected, abs=0.1)
    assert _flatness(clicks, noise) == pytest.approx(-expected, abs=0.1)


def test_flatness_knows_noise_from_a_tone() -> None:
    time = torch.arange(RATE) / RATE
    tones = sum(0.1 * torch.sin(2 * math.pi * hz * time) for hz in (9_000.0, 12_000.0, 15_000.0))
    noise = _band(_noise(RATE), 8_000, 16_000)
    limits = {"cutoff_hz": 8_000.0, "bandwidth_hz": 16_000.0}
    assert _flatness(noise, tones, **limits) > 15
    assert _flatness(tones, noise, **limits) < -15
    assert _flatness(0.3 * noise, noise, **limits) == pytest.approx(0, abs=1e-9)


def test_flatness_of_what_is_missing_is_not_defined() -> None:
    noise, below = _noise(RATE), _band(_noise(RATE), 0, 7_000)
    assert math.isnan(_flatness(below, noise, cutoff_hz=8_000.0))
    assert math.isnan(_flatness(noise, below, cutoff_hz=8_000.0))
    assert math.isnan(_flatness(noise, torch.zeros_like(noise)))
    assert _flatness(below + 0.2 * noise, noise, cutoff_hz=8_000.0) == pytest.approx(0, abs=0.01)


def test_flatness_ends_at_the_bandwidth() -> None:
    known, above = _band(_noise(RATE), 0, 14_000), _band(_noise(RATE, seed=2), 14_500, 22_050)
    limits = {"cutoff_hz": 8_000.0, "bandwidth_hz": 13_900.0}
    assert _flatness(known + above, known, **limits) == pytest.approx(0, abs=0.01)
    assert _flatness(known + above, known, cutoff_hz=8_000.0) > 1


def test_level_error_by_hand() -> None:
    low, high = _band(_noise(RATE), 0, 7_900), _band(_noise(RATE), 8_100, 22_050)
    bands = [(0.0, 8_000.0), (8_000.0, RATE / 2)]

    def found(estimate: Tensor) -> list[float]:
        values = level_error(estimate=estimate, reference=low + high, sample_rate=RATE, bands_hz=bands)
        assert values.shape == (2,)
        return values.tolist()

    assert found(low + high) == [0, 0]
    assert found(low + 0.5 * high) == pytest.approx([0, 20 * math.log10(2)], abs=1e-2)
    assert found(2 * low + high) == pytest.approx([20 * math.log10(2), 0], abs=1e-2)
    half = torch.where(torch.arange(RATE) < RATE // 2, 2.0, 0.5)  # too loud, then too quiet: no cancelling
    assert found(half * (low + high)) == pytest.approx([20 * math.log10(2)] * 2, abs=0.2)


def test_level_error_of_what_is_missing_ends_at_the_floor() -> None:
    noise = 10 ** (-40 / 20) * _noise(40 * 512) / _noise(40 * 512).square().mean().sqrt()
    found = _score(_level_error, torch.zeros_like(noise), noise)
    assert found == pytest.approx(90 - 40, abs=0.3)
    assert _score(_level_error, 1e-6 * noise, torch.zeros_like(noise)) == 0  # both below the floor


def test_mean_square_of_a_sine_is_its_level() -> None:
    time = torch.arange(RATE) / RATE
    sine = 0.1 * torch.sin(2 * math.pi * 5_000 * time)  # mean square 0.005, -23 dB: 67 dB above the floor
    value = level_error(
        estimate=0 * sine[None], reference=sine[None], sample_rate=RATE, bands_hz=[(4_000, 6_000)]
    )
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(90 + 10 * math.log10(0.005), abs=0.1)
