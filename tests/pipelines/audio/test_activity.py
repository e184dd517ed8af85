"""Source activity: powers and windows worked out by hand, and the published rule's own starts."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.audio.activity import FRAME, HOP, START_GRID, WINDOW, active_frames, find_segments, frame_power

WINDOW_FRAMES, EXCERPT_FRAMES = 600, 300


def _ramp(frames: int) -> NDArray[np.float64]:
    """Rising powers, all above the floor."""
    return np.arange(1, frames + 1, dtype=np.float64)


def _two_levels(runs: list[tuple[float, int]]) -> NDArray[np.float64]:
    return np.concatenate([np.full(frames, power) for power, frames in runs])


def test_frame_power_is_the_sum_over_samples_and_channels() -> None:
    samples = np.zeros((2 * FRAME + 440, 2), np.float32)
    samples[:FRAME] = [0.5, -0.25]
    samples[FRAME] = [1.0, 0.0]
    samples[2 * FRAME :] = 9.0  # not a whole frame
    assert frame_power(samples).tolist() == [FRAME * (0.25 + 0.0625), 1.0]


@pytest.mark.parametrize("frames", [0, 1, 440])
def test_less_than_a_frame_has_no_power(frames: int) -> None:
    assert frame_power(np.ones((frames, 2), np.float32)).shape == (0,)


def test_frame_power_of_blocks_of_whole_frames_is_that_of_the_whole() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (9 * FRAME + 100, 2)).astype(np.float32)
    blocks = [frame_power(samples[start : start + 3 * FRAME]) for start in range(0, len(samples), 3 * FRAME)]
    assert np.array_equal(np.concatenate(blocks), frame_power(samples))


def test_active_frames_exceed_the_15_percent_quantile_of_the_audible_ones() -> None:
    power = np.concatenate([np.zeros(50), np.full(20, 1e-3), _ramp(100)])
    # 100 sounding frames 1, 2 … 100: the quantile is 1 + 0.15 * 99 = 15.85
    assert active_frames(power).tolist() == [False] * (70 + 15) + [True] * 85


def test_frames_all_at_one_level_are_not_above_their_own_quantile() -> None:
    assert not active_frames(np.full(700, 2.0)).any()


@pytest.mark.parametrize("power", [0.0, 1e-3])
def test_nothing_is_active_in_silence(power: float) -> None:
    assert not active_frames(np.full(1_000, power)).any()
    assert find_segments(np.full(1_000, power)) == []


def test_window_has_start_length_level_and_active_starts() -> None:
    power = np.concatenate([np.zeros(200), _ramp(400)])
    (segment,) = find_segments(power)
    # 400 sounding frames 1 … 400, quantile 60.85: frames 260 to 599 of the window are active, 340 of 600.
    # The 300 frames from f hold f + 40 of them, more than 150 from f = 120 on: bits 12 to 30.
    assert (segment.start, segment.frames) == (0, WINDOW)
    assert segment.active_starts == sum(1 << bit for bit in range(12, 31))
    assert segment.rms_db == pytest.approx(10 * np.log10((400 * 401 / 2) / (600 * 441 * 2)))


@pytest.mark.parametrize("active, kept", [(300, False), (301, True)])
def test_window_is_kept_with_more_than_half_of_its_frames_active(active: int, kept: bool) -> None:
    power = _two_levels([(1.0, 600 - active), (2.0, active)])  # the quantile is 1.0
    assert bool(find_segments(power)) is kept


def test_windows_follow_every_3_seconds_and_the_last_full_one_counts() -> None:
    power = np.tile(_ramp(100), 15)  # 85 % active everywhere
    assert [s.start for s in find_segments(power)] == [0, HOP, 2 * HOP, 3 * HOP]
    assert [s.start for s in find_segments(power[:-1])] == [0, HOP, 2 * HOP]


@pytest.mark.parametrize("frames, windows", [(299, 0), (300, 1), (599, 1), (600, 1), (899, 1), (900, 2)])
def test_source_shorter_than_a_window_is_one_window_and_below_3_seconds_none(
    frames: int, windows: int
) -> None:
    found = find_segments(np.tile(_ramp(100), 9)[:frames])
    assert len(found) == windows
    assert all(segment.frames == min(frames, 600) * FRAME for segment in found)


def test_short_window_whose_activity_no_3_seconds_hold_is_left_out() -> None:
    # 210 of 400 frames are active, but only 135 in each of the two possible excerpts' 300
    runs = [(2.0, 75), (1.0, 70), (2.0, 60), (1.0, 120), (2.0, 75)]
    assert find_segments(_two_levels(runs)) == []


def test_every_active_start_is_itself_active() -> None:
    generator = np.random.default_rng(7)
    power = np.repeat(generator.uniform(0, 1, 90) * generator.integers(0, 2, 90), 37)
    active = active_frames(power)
    segments = find_segments(power)
    assert segments
    for segment in segments:
        for bit in range(31):
            first = (segment.start + bit * START_GRID) // FRAME
            expected = active[first : first + EXCERPT_FRAMES].mean() > 0.5
            assert bool(segment.active_starts >> bit & 1) is bool(expected), (segment.start, bit)
        assert 0 < segment.active_starts < 1 << 31


def _golden_cases() -> list[Any]:
    folder = os.environ.get("APOLLO_GOLDEN")
    if not folder:
        skip = pytest.mark.skip(reason="APOLLO_GOLDEN does not name the folder of golden vectors")
        return [pytest.param(None, marks=skip, id="no-golden")]
    listing = json.loads(Path(folder, "source_activity.json").read_text())
    return [pytest.param(case, id=f"{case['seconds']}s") for case in listing["cases"]]


@pytest.mark.parametrize("case", _golden_cases())
def test_published_starts_are_kept_and_at_most_the_last_full_window_added(case: dict[str, Any]) -> None:
    envelope = np.concatenate([np.full(frames, value) for value, frames in case["envelope_runs"]])
    n = np.arange(len(envelope) * FRAME, dtype=np.float64)
    sines = np.stack([np.sin(2 * np.pi * 440 * (c + 1) * n / 44_100) for c in (0, 1)], axis=1)
    starts = {
        segment.start
        for segment in find_segments(frame_power(envelope[n.astype(int) // FRAME, None] * sines))
    }
    last_full = (len(n) - WINDOW) // HOP * HOP
    assert len(n) == case["seconds"] * 44_100
    assert starts >= set(case["starts_samples"])
    assert starts - set(case["starts_samples"]) <= {last_full}
