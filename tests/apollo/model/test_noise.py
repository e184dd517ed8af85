"""Noise is a function of seed, channel and position, white, and of unit variance."""

import pytest
import torch

from apollo import rng
from apollo.model import stft
from apollo.model.level import LEVEL_FRAMES, moving_average
from apollo.model.noise import NoiseOptions, noise_spectra, white_noise


def test_samples_are_splitmix64_of_their_position() -> None:
    found = white_noise(7, 1, -3, 6)
    words = [rng.random_bits(position, 7, "noise", 1) for position in range(-3, 3)]
    expected = torch.tensor([((word >> 40) * 2.0**-24 - 0.5) * 12**0.5 for word in words])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_any_stretch_is_part_of_the_whole() -> None:
    whole = white_noise(3, 0, -1_000, 3_000)
    assert torch.equal(white_noise(3, 0, -200, 500), whole[800:1_300])


def test_noise_is_white_and_of_unit_variance() -> None:
    noise = white_noise(0, 0, 0, 1_000_000).double()
    assert abs(float(noise.mean())) < 0.004  # four standard errors
    assert abs(float(noise.var()) - 1) < 0.004
    for lag in (1, 2, 441, 882):
        assert abs(float((noise[lag:] * noise[:-lag]).mean())) < 0.004
    for other in (white_noise(1, 0, 0, 1_000_000), white_noise(0, 1, 0, 1_000_000)):
        assert abs(float((noise * other).mean())) < 0.004


@pytest.mark.parametrize("window_samples", [256, 882, 2048])
def test_samples_of_the_spectra_have_unit_power_a_bin_and_hardly_fluctuate(window_samples: int) -> None:
    window = torch.hann_window(window_samples)
    (spectrum,) = noise_spectra(NoiseOptions(), 0, 4_000, window)
    magnitudes = spectrum.abs()
    torch.testing.assert_close(magnitudes, magnitudes[:1, :1].expand_as(magnitudes))
    halves = stft.windowed_halves(spectrum[None], window)
    samples = stft.overlap_add(halves[1][:, :-1], halves[0][:, 1:], window)
    assert samples.square().mean() * window.square().sum() == pytest.approx(1.0, abs=0.005)
    white = white_noise(0, 0, 0, samples.shape[-1])[None] / window.square().sum().sqrt()
    fluctuations = []
    for signal in (samples, white):
        power = stft.analyze(signal, window)[0].abs().square()
        power = power[: len(power) // 8 * 8, : power.shape[1] // 16 * 16]
        pooled = power.reshape(-1, 8, power.shape[1] // 16, 16).mean((1, 3))  # 8 frames, 16 bins
        fluctuations.append(float((10 * pooled.log10())[:, 1:-1].std(0).mean()))
    assert fluctuations[0] < 0.2 * fluctuations[1]


def test_spectra_of_a_frame_depend_on_its_place_seed_and_channel_alone() -> None:
    window = torch.hann_window(882)
    (spectrum,) = noise_spectra(NoiseOptions(), 0, 4_000, window)
    left, right = noise_spectra(NoiseOptions(channels=2), 0, 10, window)
    assert torch.equal(left, spectrum[:10])
    assert not torch.equal(right, left)
    later = noise_spectra(NoiseOptions(), 100, 5, window)[0]
    assert torch.equal(later, spectrum[100:105])
    assert stft.analyze(white_noise(0, 0, -441, 882)[None], window).shape == (1, 1, 442)


@pytest.mark.parametrize("lookahead", [0, LEVEL_FRAMES])
@pytest.mark.parametrize("chunks", [[100], [1] * 100, [30, 0, 5, 65]])
def test_moving_average_is_over_the_frames_that_exist(lookahead: int, chunks: list[int]) -> None:
    values = torch.rand(2, 100, 3, dtype=torch.float64)
    expected = torch.stack(
        [values[:, max(at - LEVEL_FRAMES, 0) : at + lookahead + 1].mean(1) for at in range(100)], 1
    )
    state, parts = None, []
    for number, part in enumerate(values.split(chunks, 1)):
        averages, state = moving_average(part, state, lookahead=lookahead, final=number == len(chunks) - 1)
        parts.append(averages)
    torch.testing.assert_close(torch.cat(parts, 1), expected)
