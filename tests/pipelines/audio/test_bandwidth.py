"""How far a source and a mix are known: values of noise whose band and level are chosen."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.audio.bandwidth import known_bandwidth_hz, mix_bandwidth_hz

RATE = 44_100


def noise(level_db: float, *, end_hz: float, seed: int, start_hz: float = 0.0) -> NDArray[np.float32]:
    """Make 3 s of noise between two frequencies, [frames, 2]; the level is that of each 1 kHz of it."""
    frames = 3 * RATE
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal((frames, 2)), axis=0)
    spectrum[: round(start_hz * 3)] = 0
    spectrum[round(end_hz * 3) :] = 0
    in_1_khz = 1_000 / (RATE / 2)
    scale = 10 ** (level_db / 20) / math.sqrt(in_1_khz)
    return (scale * np.fft.irfft(spectrum, frames, axis=0)).astype(np.float32)


def found(*components: tuple[NDArray[np.float32], float]) -> float:
    return mix_bandwidth_hz(components, sum(samples for samples, _ in components))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "measured_hz, lossy, expected",
    [
        (16_000, True, 16_000),
        (16_000, False, 16_000),
        (20_500, False, math.inf),  # an analogue-to-digital converter's own filter
        (20_500, True, 20_500),
        (22_050, True, math.inf),
        (None, True, math.inf),
        (0, False, math.inf),
    ],
)
def test_source_is_known_up_to_its_band_unless_that_is_whole(
    measured_hz: int | None, lossy: bool, expected: float
) -> None:
    assert known_bandwidth_hz(measured_hz, lossy=lossy) == expected


def test_mix_of_sources_that_are_known_completely_is_known_completely() -> None:
    assert found((noise(-30, end_hz=22_050, seed=0), math.inf)) == math.inf
    assert mix_bandwidth_hz([], noise(-30, end_hz=22_050, seed=0)) == math.inf


def test_single_source_limits_its_mix() -> None:
    assert found((noise(-50, end_hz=16_000, seed=0), 16_000.0)) == 16_000


def test_lowest_of_the_components_that_are_strong_at_their_limits_counts() -> None:
    wide = noise(-40, end_hz=22_050, seed=0), math.inf
    sixteen = noise(-45, end_hz=16_000, seed=1), 16_000.0
    nineteen = noise(-45, end_hz=19_000, seed=2), 19_000.0
    assert found(wide, nineteen) == 19_000
    assert found(wide, nineteen, sixteen) == found(sixteen, wide, nineteen) == 16_000


@pytest.mark.parametrize("below_db, expected", [(18.5, 16_000), (21.5, math.inf)])
def test_component_20_db_below_what_the_mix_has_above_its_limit_does_not_count(
    below_db: float, expected: float
) -> None:
    wide = noise(-40, end_hz=22_050, seed=0), math.inf
    assert found(wide, (noise(-40 - below_db, end_hz=16_000, seed=1), 16_000.0)) == expected


def test_component_counts_by_its_level_at_its_limit_not_by_its_level() -> None:
    bass = noise(-20, end_hz=4_000, seed=1), 16_000.0  # loud, with nothing near the limit of its song
    assert found((noise(-60, end_hz=22_050, seed=0), math.inf), bass) == math.inf


def test_component_counts_against_what_is_above_its_limit_not_below() -> None:
    low = noise(-20, end_hz=15_900, seed=0), math.inf  # loud below the limit, silent above
    assert found(low, (noise(-60, end_hz=16_000, seed=1), 16_000.0)) == 16_000


def test_part_that_16_bits_cannot_hold_is_not_missed() -> None:
    """Rounding to 16 bits has a level of -101.1 dB, and of -114.5 dB in 1 kHz."""
    low = noise(-20, end_hz=10_000, seed=0), math.inf
    assert found(low, (noise(-117, end_hz=16_000, seed=1), 16_000.0)) == math.inf
    assert found(low, (noise(-112, end_hz=16_000, seed=1), 16_000.0)) == 16_000


def test_limit_at_the_end_of_the_band_counts() -> None:
    wide = noise(-40, end_hz=22_050, seed=0), math.inf
    assert found(wide, (noise(-40, end_hz=21_895, seed=1), 21_895.0)) == 21_895
