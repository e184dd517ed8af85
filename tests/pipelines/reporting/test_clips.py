"""Pictures and clips of validation: whole, on one scale, and defined for odd samples."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from numpy.typing import NDArray

from pipelines.reporting.clips import write_clips, write_picture
from pipelines.reporting.spectrograms import picture_size

RATE = 44_100
Samples = NDArray[np.float32]


def _tone(hertz: float, seconds: float = 1.0, level: float = 0.5) -> Samples:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.tile(level * np.sin(2 * math.pi * hertz * time), (2, 1)).astype(np.float32)


def _panels(path: Path) -> list[Samples]:
    """Cut the spectrograms out of the picture: brightness [rows, columns], the lowest frequency first."""
    picture = imread(path)[:, :, :3]
    brightness = picture.sum(2)
    height, width = brightness.shape
    dark = np.abs(picture - picture[0, 0]).sum(2) > 0.1  # other than the background
    columns = dark[: int(0.85 * height)].mean(0) > 0.8
    edges = np.flatnonzero(np.diff(columns.astype(int), prepend=0, append=0))
    spans = [(start, end) for start, end in zip(edges[::2], edges[1::2]) if end - start > 0.2 * width]
    rows = np.flatnonzero(dark[:, spans[0][0] + 5 : spans[0][1] - 5].mean(1) > 0.9)
    return [brightness[rows[2] : rows[-2], start + 3 : end - 3][::-1] for start, end in spans]


def _peak_hz(panel: Samples) -> float:
    return float(panel.mean(1).argmax()) / len(panel) * RATE / 2


def test_panels_show_clean_degraded_and_restored_in_that_order(tmp_path: Path) -> None:
    write_picture(tmp_path / "p.png", _tone(4_000), _tone(9_000), _tone(16_000), RATE)
    assert [_peak_hz(panel) for panel in _panels(tmp_path / "p.png")] == [
        pytest.approx(hertz, abs=250) for hertz in (4_000, 9_000, 16_000)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_scale_is_the_clean_ones(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", _tone(4_000), _tone(9_000), _tone(16_000), RATE)
    write_picture(tmp_path / "b.png", _tone(4_000), _tone(9_000), 1000 * _tone(16_000), RATE)
    for one, other in list(zip(_panels(tmp_path / "a.png"), _panels(tmp_path / "b.png")))[:2]:
        np.testing.assert_array_equal(one, other)


def test_silence_is_black(tmp_path: Path) -> None:
    silence = np.zeros((2, RATE), np.float32)
    write_picture(tmp_path / "p.png", silence, silence, silence, RATE)
    panels = _panels(tmp_path / "p.png")
    assert len(panels) == 3
    assert max(float(panel[5:-5, 5:-5].max()) for panel in panels) < 0.1


@pytest.mark.parametrize("samples", [1, 500, 3000])
def test_short_audio_has_a_picture_and_clips(samples: int, tmp_path: Path) -> None:
    clips = [_tone(4_000)[:, :samples]] * 3
    write_picture(tmp_path / "p.png", *clips, RATE)
    assert imread(tmp_path / "p.png").shape[:2] == picture_size(3)[::-1]
    assert [soundfile.info(path).frames for path in write_clips(tmp_path, "x", *clips, RATE)] == [samples] * 3


def test_non_finite_samples_are_drawn_and_written_as_silence(tmp_path: Path) -> None:
    odd = _tone(4_000)
    odd[:, 5], odd[:, 6] = math.nan, math.inf
    write_picture(tmp_path / "p.png", _tone(4_000), _tone(9_000), odd, RATE)
    assert _peak_hz(_panels(tmp_path / "p.png")[2]) == pytest.approx(4_000, abs=250)
    write_clips(tmp_path, "x", _tone(4_000), _tone(9_000), odd, RATE)
    found = soundfile.read(tmp_path / "x-restored.flac")[0]
    assert found[5].tolist() == [0, 0] and np.isfinite(found).all()


def test_clips_hold_the_samples_to_half_a_step_of_16_bit(tmp_path: Path) -> None:
    clips = [_tone(hertz, level=0.9) for hertz in (400, 900, 1600)]
    paths = write_clips(tmp_path / "clips", "first", *clips, RATE)
    assert [path.name for path in paths] == ["first-clean.flac", "first-degraded.flac", "first-restored.flac"]
    for path, clip in zip(paths, clips):
        found, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(found.T, clip, atol=0.51 / 32_768)
    assert sorted((tmp_path / "clips").iterdir()) == paths


@pytest.mark.parametrize("peak, gain", [(1.5, 1 / 1.5), (100.0, 0.25)])
def test_clips_beyond_full_scale_are_all_as_much_quieter(peak: float, gain: float, tmp_path: Path) -> None:
    paths = write_clips(tmp_path, "x", _tone(400), _tone(400), _tone(400, level=peak), RATE)
    peaks = [float(np.abs(soundfile.read(path)[0]).max()) for path in paths]
    assert peaks == [
        pytest.approx(value, abs=1e-3) for value in (0.5 * gain, 0.5 * gain, min(1.0, peak * gain))
    ]


def test_failed_writes_raise_and_leave_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(OSError):
        write_picture(tmp_path / "a-file" / "p.png", *[_tone(400)] * 3, RATE)
    (tmp_path / "x-degraded.flac").mkdir()
    with pytest.raises(OSError):
        write_clips(tmp_path, "x", *[_tone(400)] * 3, RATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-file",
        "x-clean.flac",
        "x-degraded.flac",
    ]


def test_pictures_are_drawn_without_state_of_pyplot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_picture(tmp_path / "p.png", *[_tone(400)] * 3, RATE)
