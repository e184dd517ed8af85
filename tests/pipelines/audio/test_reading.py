"""Reading audio: what a file is, and windows that equal the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.audio.rejects import AudioError
from pipelines.audio import reading
from pipelines.audio.reading import Probe, SourceReader, probe, to_stereo
from pipelines.storage.folder import join

RATE, FRAMES = 44_100, 50_000
WINDOWED = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAVEX", "PCM_24"),
    ("flac", "FLAC", "PCM_16"),
    ("flac", "FLAC", "PCM_24"),
    ("aiff", "AIFF", "PCM_24"),
    ("w64", "W64", "PCM_16"),
    ("wav", "RF64", "PCM_16"),
    ("caf", "CAF", "PCM_24"),
    ("au", "AU", "PCM_16"),
]


def _noise(frames: int = FRAMES, channels: int = 2, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, (frames, channels)).astype(np.float32)


def _file(path: Path, frames: int, scale: float = 1.0) -> dict[str, Any]:
    return {"readable": str(path), "frames": frames, "scale": scale}


def _write(path: Path, samples: NDArray[np.float32], subtype: str = "FLOAT") -> dict[str, Any]:
    soundfile.write(path, samples, RATE, subtype=subtype)
    return _file(path, len(samples))


@pytest.mark.parametrize("extension, form, subtype", WINDOWED)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_file_is_read_in_windows_that_equal_the_whole(
    tmp_path: Path, extension: str, form: str, subtype: str, channels: int
) -> None:
    path = tmp_path / f"x.{extension}"
    soundfile.write(path, _noise(channels=channels), RATE, format=form, subtype=subtype)
    assert probe(str(path)) == Probe(RATE, channels, FRAMES, lossy=False, windowed=True)
    whole = np.broadcast_to(soundfile.read(path, dtype="float32", always_2d=True)[0], (FRAMES, 2))
    reader, generator = SourceReader(), np.random.default_rng(1)
    for start in [0, FRAMES - 1, *generator.integers(0, FRAMES, 12).tolist()]:
        frames = int(generator.integers(1, 9_000))
        window = reader.read_file(_file(path, FRAMES), start, frames)
        there = whole[start : start + frames]
        assert np.array_equal(window[: len(there)], there)
        assert not window[len(there) :].any()
    reader.close()


@pytest.mark.parametrize(
    "extension, subtype, rate, channels, lossy",
    [
        ("wav", "PCM_16", 48_000, 2, False),
        ("flac", "PCM_24", 96_000, 1, False),
        ("wav", "PCM_16", RATE, 6, False),
        ("wav", "ULAW", RATE, 2, True),
        ("ogg", "VORBIS", RATE, 2, True),
        ("mp3", "MPEG_LAYER_III", RATE, 2, True),
    ],
)
def test_other_rates_channels_and_lossy_codings_are_not_read_in_windows(
    tmp_path: Path, extension: str, subtype: str, rate: int, channels: int, lossy: bool
) -> None:
    path = tmp_path / f"x.{extension}"
    soundfile.write(path, _noise(channels=channels), rate, subtype=subtype)
    assert probe(str(path)) == Probe(rate, channels, FRAMES, lossy=lossy, windowed=False)


def test_extension_does_not_decide_what_a_file_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", _noise(), RATE)
    (tmp_path / "x.wav").rename(tmp_path / "x.mp3")
    assert probe(str(tmp_path / "x.mp3")) == Probe(RATE, 2, FRAMES, lossy=False, windowed=True)


def test_file_named_as_a_dash_is_not_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "x.wav", _noise(), RATE)
    (tmp_path / "x.wav").rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    assert probe("-") is not None


@pytest.mark.parametrize("content", [b"hello, world" * 99, b"RIFF", b"\x00" * 5_000, b"#EXTM3U\nx.wav\n"])
def test_format_that_libsndfile_does_not_know_is_left_to_ffmpeg(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    assert probe(str(tmp_path / "x.wav")) is None


def test_empty_missing_and_folder_have_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="the file is empty"):
        probe(str(tmp_path / "empty.wav"))
    with pytest.raises(AudioError, match="cannot be opened: No such file"):
        probe(str(tmp_path / "missing.wav"))
    with pytest.raises(AudioError, match="cannot be opened"):
        probe(str(tmp_path))


def _cut(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(
    "extension, form, subtype",
    [
        ("wav", "WAV", "PCM_16"),
        ("wav", "WAV", "FLOAT"),
        ("aiff", "AIFF", "PCM_24"),
        ("wav", "RF64", "PCM_16"),
        ("w64", "W64", "PCM_16"),
        pytest.param(
            "au",
            "AU",
            "PCM_16",
        ),
    ],
)
def test_truncated_file_is_refused(
    tmp_path: Path, extension: str, form: str, subtype: str, share: float
) -> None:
    path = tmp_path / f"x.{extension}"
    soundfile.write(path, _noise(), RATE, format=form, subtype=subtype)
    content = path.read_bytes()
    with pytest.raises(AudioError, match="truncated: header declares"):
        probe(_cut(path, content[: int(len(content) * share)]))


def test_cut_smaller_than_what_lies_before_the_samples_is_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "x.caf"
    soundfile.write(path, _noise(), RATE, format="CAF", subtype="PCM_16")
    with pytest.raises(AudioError, match="truncated"):
        probe(_cut(path, path.read_bytes()[:-3_000]))


def test_size_that_a_pipe_left_unknown_is_no_promise(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, _noise(), RATE)
    content = bytearray(path.read_bytes())
    at = content.find(b"data")
    content[at + 4 : at + 8] = content[4:8] = b"\xff\xff\xff\xff"
    found = probe(_cut(path, bytes(content)))
    assert found is not None and found.frames == FRAMES


def test_mono_stands_on_both_sides_at_its_own_level() -> None:
    assert to_stereo(np.array([[0.5], [-1.0]], np.float32)).tolist() == [[0.5, 0.5], [-1.0, -1.0]]
    stereo = _noise(9)
    assert to_stereo(stereo) is stereo


def test_source_is_the_sum_of_its_files_whatever_their_lengths(tmp_path: Path) -> None:
    long, short, mono = _noise(9_000), _noise(4_000, seed=1), _noise(6_000, 1, seed=2)
    files = [_write(tmp_path / f"{n}.wav", x) for n, x in enumerate((short, long, mono))]
    expected = long.copy()
    expected[:4_000] += short
    expected[:6_000] += mono
    reader = SourceReader()
    assert np.allclose(reader.read(files, 0, 9_000), expected, rtol=0, atol=1e-6)
    assert np.allclose(reader.read(files, 3_500, 7_000)[:5_500], expected[3_500:], rtol=0, atol=1e-6)
    assert not reader.read(files, 3_500, 7_000)[5_500:].any()
    assert not reader.read(files, 20_000, 100).any()
    reader.close()


def test_reading_one_file_twice_does_not_change_what_was_read(tmp_path: Path) -> None:
    files = [_write(tmp_path / f"{n}.wav", _noise(500, seed=n)) for n in range(2)]
    reader = SourceReader()
    first = reader.read_file(files[0], 0, 500)
    copy = first.copy()
    reader.read(files, 0, 500)
    assert np.array_equal(first, copy)
    reader.close()


def test_scale_undoes_the_headroom_of_a_cached_file(tmp_path: Path) -> None:
    samples = _noise(1_000)
    _write(tmp_path / "x.wav", samples / np.float32(8))
    reader = SourceReader()
    assert reader.read([_file(tmp_path / "x.wav", 1_000, 8.0)], 0, 1_000) == pytest.approx(samples, abs=1e-6)
    reader.close()


def test_more_files_than_are_kept_open_are_read_rightly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_OPEN_FILES", 2)
    content = [_noise(300, seed=n) for n in range(5)]
    files = [_write(tmp_path / f"{n}.wav", x) for n, x in enumerate(content)]
    reader = SourceReader()
    for number in (0, 1, 2, 3, 4, 0, 4, 2):
        assert np.array_equal(reader.read_file(files[number], 100, 100), content[number][100:200])
        assert len(reader._open) <= 2
    reader.close()
    assert not reader._open


def test_file_that_became_shorter_is_an_error_that_names_it(tmp_path: Path) -> None:
    _write(tmp_path / "x.wav", _noise(1_000))
    reader = SourceReader()
    with pytest.raises(AudioError, match=r"x\.wav: ends 200 samples early at 1000"):
        reader.read_file(_file(tmp_path / "x.wav", 1_200), 500, 5_000)
    with pytest.raises(AudioError, match=r"x\.wav: "):  # a start that is no longer there
        reader.read_file(_file(tmp_path / "x.wav", 3_000), 2_000, 100)


def test_file_that_went_away_is_an_error_and_its_return_is_seen(tmp_path: Path) -> None:
    reader, path = SourceReader(), tmp_path / "x.wav"
    with pytest.raises(AudioError, match=r"x\.wav: "):
        reader.read_file(_file(path, 100), 0, 100)
    samples = _noise(100)
    assert np.array_equal(reader.read_file(_write(path, samples), 0, 100), samples)
    reader.close()


def test_damaged_middle_of_a_flac_is_an_error_there_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    file = _write(path, _noise(), "PCM_16")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3_000] = bytes(3_000)
    path.write_bytes(bytes(content))
    reader = SourceReader()
    with pytest.raises(AudioError, match=r"x\.flac: "):
        reader.read_file(file, 0, FRAMES)
    assert reader.read_file(file, 0, 4_000).any()
    reader.close()


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        pytest.param(
            "Artist - Title",
        ),
        pytest.param(
            "Café #1 50%",
        ),
    ],
)
def test_file_behind_a_uri_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    samples = _noise(500)
    _write(tmp_path / f"{name}.wav", samples)
    path = join(f"file://{tmp_path}", f"{name}.wav")
    assert probe(path) == Probe(RATE, 2, 500, lossy=False, windowed=True)
    reader = SourceReader()
    assert np.array_equal(reader.read_file({"readable": path, "frames": 500, "scale": 1.0}, 0, 500), samples)
    reader.close()
