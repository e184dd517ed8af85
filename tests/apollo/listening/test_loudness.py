"""Loudness: the standard's conformance values, an independent meter, and what short clips and silence get."""

import math
import re
import subprocess
from pathlib import Path

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from apollo.audio.ffmpeg import find_ffmpeg
from apollo.listening.loudness import equal_gains, k_weight, k_weighting, loudness_lufs
from tests.support import datasets


def sine(
    level_db: float, seconds: float, hertz: float = 1000.0, rate: int = 48_000, channels: int = 2
) -> Tensor:
    at = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (10 ** (level_db / 20) * torch.sin(2 * math.pi * hertz * at)).float().repeat(channels, 1)


def test_filters_are_the_tables_of_the_standard_at_48_khz() -> None:
    (shelf_b, shelf_a), (pass_b, pass_a) = k_weighting(48_000)
    assert shelf_b == pytest.approx((1.53512485958697, -2.69169618940638, 1.19839281085285), abs=1e-12)
    assert shelf_a == pytest.approx((1.0, -1.69065929318241, 0.73248077421585), abs=1e-12)
    assert pass_b == pytest.approx((1.0, -2.0, 1.0), abs=1e-12)
    assert pass_a == pytest.approx((1.0, -1.99004745483398, 0.99007225036621), abs=1e-12)


@pytest.mark.parametrize("samples", [1, 100, 30_000])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_filtered_samples_are_those_of_the_recursion(rate: int, samples: int) -> None:
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    expected = noise.double().numpy()
    for numerator, denominator in k_weighting(rate):
        expected = lfilter(numerator, denominator, expected, axis=1)
    torch.testing.assert_close(k_weight(noise, rate), torch.from_numpy(expected), atol=1e-9, rtol=0)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_full_scale_sine_in_one_channel_is_minus_3_01(rate: int) -> None:
    tone = sine(0, 3, hertz=997, rate=rate)
    tone[1] = 0
    assert loudness_lufs(tone, rate) == pytest.approx(-3.01, abs=0.01)
    assert loudness_lufs(tone[:1], rate) == pytest.approx(-3.01, abs=0.01)


TECH_3341 = {  # number of the case: (level in dBFS, seconds) in turn, the loudness
    1: ([(-23, 20)], -23.0),
    2: ([(-33, 20)], -33.0),
    3: ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
    4: ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
    5: ([(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
}


@pytest.mark.parametrize("case", TECH_3341)
def test_ebu_tech_3341(case: int) -> None:
    parts, expected = TECH_3341[case]
    signal = torch.cat([sine(level, seconds) for level, seconds in parts], 1)
    assert loudness_lufs(signal, 48_000) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_music_measures_as_ffmpeg_measures_it(rate: int, tmp_path: Path) -> None:
    fade = torch.linspace(0.02, 1, 6 * datasets.SAMPLE_RATE)
    samples = 0.4 * fade * torch.from_numpy(datasets.music(5, seconds=6.0)).T
    path = datasets.write(tmp_path / "a.wav", samples.T.numpy(), rate, subtype="FLOAT")
    command = [find_ffmpeg(), "-nostats", "-i", f"file:{path}", "-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stderr.decode()
    judge = float(re.findall(r"I:\s+(-?[\d.]+) LUFS", said)[-1])
    assert loudness_lufs(samples, rate) == pytest.approx(judge, abs=0.06)  # the judge rounds to 0.1


def test_short_clip_has_the_loudness_of_its_mean() -> None:
    assert loudness_lufs(sine(-23, 0.2), 48_000) == pytest.approx(-23, abs=0.3)
    assert loudness_lufs(sine(-80, 2), 48_000) == pytest.approx(-80, abs=0.1)


@pytest.mark.parametrize("samples", [0, 1, 48_000])
def test_silence_has_no_loudness(samples: int) -> None:
    assert loudness_lufs(torch.zeros(2, samples), 48_000) is None


def test_more_than_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 2 channels"):
        loudness_lufs(torch.zeros(6, 100), 48_000)


@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_equal_gains_only_attenuate_and_none_clips(seconds: float) -> None:
    versions = {"a": sine(-20, seconds), "b": sine(-6, seconds), "c": 0.2 * sine(-6, seconds, hertz=5000)}
    versions["b"][:, 100] = 8.0  # a click, whose version is still over full scale when it is as loud as a
    gains = equal_gains(versions, 48_000)
    levels = [loudness_lufs(gains[name] * versions[name], 48_000) for name in versions]
    assert max(levels) - min(levels) < 1e-3  # type: ignore[type-var, operator]
    assert max(gains.values()) <= 1
    assert max(float((gains[name] * versions[name]).abs().max()) for name in versions) == pytest.approx(
        1, abs=1e-4
    )


def test_quietest_version_is_left_as_it_is() -> None:
    gains = equal_gains({"a": sine(-20, 1), "b": sine(-14, 1)}, 48_000)
    assert gains == {"a": 1.0, "b": pytest.approx(10 ** (-6 / 20), rel=1e-4)}


def test_silent_version_does_not_attenuate_the_others() -> None:
    silent = torch.zeros(2, 48_000)
    assert equal_gains({"a": sine(-20, 1), "zero": silent, "nearly": sine(-90, 1)}, 48_000) == {
        "a": 1.0,
        "zero": 1.0,
        "nearly": 1.0,
    }
    assert equal_gains({"zero": silent}, 48_000) == {"zero": 1.0}
    assert equal_gains({}, 48_000) == {}
