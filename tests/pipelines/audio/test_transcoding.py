"""Ingest: every format becomes aligned 44.1 kHz stereo FLAC, and nothing damaged or disguised does."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.audio import sample_stream as subject
from apollo.audio.ffmpeg import FfmpegError, find_ffmpeg
from apollo.audio.rejects import AudioError
from pipelines.audio.reading import SourceReader, probe
from pipelines.audio.transcoding import (
    HEADROOM,
    INFO_SUFFIX,
    TranscodedFile,
    cache_name,
    check_cache_size,
    transcode,
    trim_cache,
)
from pipelines.storage.folder import Folder

RATE, SECONDS = 44_100, 2
FORMATS = {  # by file name: ffmpeg's options, whether the coding is lossy
    "x.mp3": (["-b:a", "192k"], True),
    "x.ogg": (["-c:a", "libvorbis", "-q:a", "6"], True),
    "x.opus": (["-c:a", "libopus", "-b:a", "160k"], True),
    "x.m4a": (["-c:a", "aac", "-b:a", "192k"], True),
    "alac.m4a": (["-c:a", "alac"], False),
    "x.wv": (["-c:a", "wavpack"], False),
    "x.oga": (["-c:a", "flac"], False),
    "48k.flac": (["-ar", "48000"], False),
    "video.mka": (["-c:a", "libvorbis", "-q:a", "6"], True),
}


def _music(seconds: float = SECONDS, rate: int = RATE) -> NDArray[np.float64]:
    """Low-passed noise on the left, a sweep on the right: every lag and side can be told."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.3, len(time) + 15)
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 700 * time) * time)
    return np.stack([np.convolve(noise, np.full(16, 1 / 16), "valid"), sweep], axis=1)


def _encode(source: Path, target: Path, *options: str) -> Path:
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two seconds in every format."""
    folder = tmp_path_factory.mktemp("encoded")
    soundfile.write(folder / "original.wav", _music(), RATE, subtype="FLOAT")
    for name, (options, _) in FORMATS.items():
        _encode(folder / "original.wav", folder / name, *options)
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during a test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def _ingest(path: Path, cache: Path, program: str | None = None) -> TranscodedFile:
    return transcode(
        str(path),
        cache=Folder(str(cache)),
        name="made.flac",
        known=probe(str(path)),
        program=program or find_ffmpeg(),
    )


def _samples(cache: Path, made: TranscodedFile) -> NDArray[np.float32]:
    file = {"readable": str(cache / made.name), "frames": made.frames, "scale": HEADROOM}
    return SourceReader().read([file], 0, made.frames)


def _lag(first: NDArray[np.floating], second: NDArray[np.floating]) -> int:
    size = 1 << 18
    product = np.fft.rfft(first, size).conj() * np.fft.rfft(second, size)
    peak = int(np.fft.irfft(product).argmax())
    return peak if peak < size // 2 else peak - size


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_aligned_at_its_level_with_its_sides(
    encoded: Path, tmp_path: Path, name: str
) -> None:
    made = _ingest(encoded / name, tmp_path)
    assert made == TranscodedFile("made.flac", SECONDS * RATE, FORMATS[name][1])
    samples, original = _samples(tmp_path, made), _music()
    for side in (0, 1):
        assert _lag(original[:, side], samples[:, side]) == 0
        assert np.std(samples[:, side]) == pytest.approx(np.std(original[:, side]), rel=0.06)  # lossy levels
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.05


def test_cached_file_is_44_khz_stereo_24_bit_flac(encoded: Path, tmp_path: Path) -> None:
    _ingest(encoded / "x.opus", tmp_path)
    info = soundfile.info(tmp_path / "made.flac")
    assert (info.samplerate, info.channels, info.format, info.subtype) == (RATE, 2, "FLAC", "PCM_24")


def test_mono_at_8_khz_stands_on_both_sides_at_its_own_level(tmp_path: Path) -> None:
    time = np.arange(2 * 8_000) / 8_000
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1_000 * time), 8_000)
    made = _ingest(tmp_path / "x.wav", tmp_path)
    samples = _samples(tmp_path, made)
    assert (made.frames, made.lossy) == (2 * RATE, False)
    assert np.array_equal(samples[:, 0], samples[:, 1])
    assert np.abs(samples[5_000:-5_000]).max() == pytest.approx(0.5, rel=0.01)


def test_96_khz_float_over_full_scale_keeps_its_level(tmp_path: Path) -> None:
    time = np.arange(2 * 96_000) / 96_000
    tone = 2.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "x.wav", np.stack([tone, -tone], axis=1), 96_000, subtype="FLOAT")
    made = _ingest(tmp_path / "x.wav", tmp_path)
    samples = _samples(tmp_path, made)
    assert made.frames == 2 * RATE
    assert np.abs(samples[5_000:-5_000]).max() == pytest.approx(2.5, rel=0.001)
    assert np.allclose(samples[:, 0], -samples[:, 1], rtol=0, atol=1e-4)


def test_more_than_18_db_over_full_scale_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.full((48_000, 2), 9.0), 48_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"exceeds full scale by more than 18 dB near 0\.0 s"):
        _ingest(tmp_path / "x.wav", tmp_path)


def test_six_channels_become_two_with_left_on_the_left(tmp_path: Path) -> None:
    channels = np.zeros((RATE, 6))
    channels[:, 0] = _music(1)[:, 1]
    soundfile.write(tmp_path / "x.wav", channels, RATE, format="WAVEX")
    made = _ingest(tmp_path / "x.wav", tmp_path)
    samples = _samples(tmp_path, made)
    assert made.frames == RATE
    assert np.std(samples[:, 0]) > 0.05
    assert np.abs(samples[:, 1]).max() < 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_an_error(tmp_path: Path, value: float) -> None:
    samples = np.full((48_000, 2), 0.1)
    samples[30_000, 1] = value
    soundfile.write(tmp_path / "x.wav", samples, 48_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="non-finite samples"):
        _ingest(tmp_path / "x.wav", tmp_path)


@pytest.mark.parametrize(
    "name", [" %03d.m4a", "-i.m4a", "concat:a|b.m4a", "new\nline.m4a", "it's; $(x).m4a", "é" * 120 + ".m4a"]
)
def test_odd_names_are_taken_literally(encoded: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((encoded / "x.m4a").read_bytes())
    assert _ingest(tmp_path / name, tmp_path / "cache").frames == SECONDS * RATE


def test_uri_is_ingested_as_a_path_is(encoded: Path, tmp_path: Path) -> None:
    made = transcode(
        f"file://{encoded}/x.m4a", cache=Folder(str(tmp_path)), name="a", known=None, program=find_ffmpeg()
    )
    assert made.frames == SECONDS * RATE


def test_real_recordings_become_as_long_as_they_play(tmp_path: Path) -> None:
    folder = os.environ.get("APOLLO_AUDIO")
    if not folder:
        pytest.skip("APOLLO_AUDIO does not name the folder of recordings")
    path = sorted(Path(folder, "everythingisfree").glob("*/*.m4a"))[0]
    made = _ingest(path, tmp_path)
    assert made.lossy
    assert made.frames == pytest.approx(45 * RATE, abs=RATE // 2)  # published as excerpts of 45 s
    assert np.isfinite(_samples(tmp_path, made)).all()


def _damage(content: bytes, kind: str) -> bytes:
    if kind == "half":
        return content[: len(content) // 2]
    middle, length = len(content) // 2, len(content) // 20
    garbage = np.random.default_rng(1).integers(0, 256, length, np.uint8).tobytes()
    return content[:middle] + garbage + content[middle + length :]


@pytest.mark.parametrize("kind", ["half", "middle"])
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_file_is_refused_rather_than_shortened(
    encoded: Path, tmp_path: Path, scratch: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(_damage((encoded / name).read_bytes(), kind))
    with pytest.raises(AudioError, match=r"damaged|truncated|cannot be decoded|no audio"):
        _ingest(tmp_path / name, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
@pytest.mark.parametrize(
    "name",
    [
        "x.mp3",
        "48k.flac",
        "x.wv",
        "x.ogg",
        "x.oga",
    ],
)
def test_truncated_file_is_an_error(encoded: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (encoded / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError, match=r"damaged|truncated|cannot be decoded"):
        _ingest(tmp_path / name, tmp_path / "cache")


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    "pls": "[playlist]\nFile1={secret}\n",
}


@pytest.mark.parametrize("extension", ["wav", "mp3", "m4a"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlist_disguised_as_audio_opens_no_other_file(
    encoded: Path, tmp_path: Path, kind: str, extension: str
) -> None:
    path = tmp_path / f"x.{extension}"
    path.write_text(PLAYLISTS[kind].format(secret=encoded / "original.wav"))
    with pytest.raises(AudioError, match="no audio that libsndfile or ffmpeg can read"):
        _ingest(path, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["text", "random", "zeros", "png", "one-byte"])
def test_what_is_no_audio_is_refused(tmp_path: Path, kind: str) -> None:
    content = {
        "text": b"no audio at all\n" * 500,
        "random": np.random.default_rng(5).integers(0, 256, 50_000, np.uint8).tobytes(),
        "zeros": bytes(50_000),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "one-byte": b"x",
    }[kind]
    (tmp_path / "x.mp3").write_bytes(content)
    with pytest.raises(AudioError, match=r"\w"):
        _ingest(tmp_path / "x.mp3", tmp_path / "cache")


@pytest.mark.parametrize("frames", [0, 1, 100])
def test_tiny_files_have_their_length_and_empty_ones_are_refused(tmp_path: Path, frames: int) -> None:
    soundfile.write(tmp_path / "x.wav", np.full((frames, 3), 0.1), RATE)
    if not frames:
        with pytest.raises(AudioError, match="contains no samples"):
            _ingest(tmp_path / "x.wav", tmp_path)
    else:
        assert _ingest(tmp_path / "x.wav", tmp_path).frames == frames


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be opened: No such file"):
        transcode(
            str(tmp_path / "x.m4a"),
            cache=Folder(str(tmp_path)),
            name="a",
            known=None,
            program=find_ffmpeg(),
        )


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_companded_wav_is_lossy(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "x.wav", _music(), RATE, subtype=subtype)
    assert _ingest(tmp_path / "x.wav", tmp_path).lossy


def _fake_ffmpeg(folder: Path, *, looking: str, decoding: str) -> str:
    program = folder / "ffmpeg"
    program.write_text(
        f"#!/bin/sh\nREAL='{find_ffmpeg()}'\necho $$ > '{folder}/pid'\n"
        f'case "$*" in *framecrc*) {looking};; *) {decoding};; esac\n'
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    "decoding",
    ["exit 0", 'exec "$REAL" -t 0.5 "$@"', "exit 3", '"$REAL" "$@" | head -c 100000; exit 0'],
    ids=["silent", "short", "fails", "cut"],
)
def test_failing_ffmpeg_leaves_no_file_in_the_cache(
    encoded: Path, tmp_path: Path, scratch: Path, decoding: str
) -> None:
    program = _fake_ffmpeg(tmp_path, looking='exec "$REAL" "$@"', decoding=decoding)
    with pytest.raises(AudioError, match=r"damaged|no samples|cannot be decoded"):
        _ingest(encoded / "48k.flac", tmp_path / "cache", program)
    assert not (tmp_path / "cache").exists()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    "hang",
    [
        "decoding",
        pytest.param(
            "looking",
        ),
    ],
)
def test_hanging_ffmpeg_is_killed_and_is_an_error_of_this_file(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str
) -> None:
    monkeypatch.setattr(subject, "STALL_TIMEOUT_SECONDS", 1.0)
    does = {"looking": 'exec "$REAL" "$@"', "decoding": 'exec "$REAL" "$@"'} | {hang: "exec sleep 600"}
    with pytest.raises((AudioError, FfmpegError)):
        _ingest(encoded / "x.m4a", tmp_path / "cache", _fake_ffmpeg(tmp_path, **does))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_cache_name_depends_on_path_size_and_time() -> None:
    names = [
        cache_name(*facts) for facts in (("a", 1, 2), ("b", 1, 2), ("a", 2, 2), ("a", 1, 3), ("a1", 1, 2))
    ]
    assert len(set(names)) == 5
    assert cache_name("a", 1, 2) == names[0]
    assert all(len(name) == 37 and name.endswith(".flac") for name in names)


def _cache(folder: Path, *names: str) -> Folder:
    """Files of 100 bytes with their notes, the first the oldest."""
    for age, name in enumerate(names):
        (folder / name).write_bytes(bytes(100))
        (folder / (name + INFO_SUFFIX)).write_text("{}")
        os.utime(folder / name, (1_000_000 + age, 1_000_000 + age))
    return Folder(str(folder))


@pytest.mark.parametrize(
    "limit, keep, left",
    [
        (400, set(), {"b.flac", "a.flac", "d.flac", "c.flac"}),
        (399, set(), {"a.flac", "d.flac", "c.flac"}),
        (150, set(), {"c.flac"}),
        (150, {"b.flac", "a.flac"}, {"a.flac", "b.flac"}),
        (0, {"a.flac"}, {"a.flac"}),
    ],
)
def test_cache_makes_room_by_its_oldest_files_that_are_not_needed(
    tmp_path: Path, limit: int, keep: set[str], left: set[str]
) -> None:
    trim_cache(_cache(tmp_path, "b.flac", "a.flac", "d.flac", "c.flac"), keep=keep, limit_bytes=limit)
    assert {path.name for path in tmp_path.iterdir()} == left | {name + INFO_SUFFIX for name in left}


def test_cache_over_its_limit_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    cache = _cache(tmp_path, "a.flac", "b.flac")
    check_cache_size(cache, 204)
    with pytest.raises(RuntimeError, match=r"sources\.cache_gb"):
        check_cache_size(cache, 203)


def test_flac_of_unknown_length_is_not_read_in_windows_and_keeps_every_sample(
    encoded: Path, tmp_path: Path
) -> None:
    _encode(encoded / "original.wav", tmp_path / "x.flac")
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples: 36 bits of the STREAMINFO
    content[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(content)
    known = probe(str(tmp_path / "x.flac"))
    assert known is not None
    assert (known.windowed, known.frames) == (False, 0)
    assert _ingest(tmp_path / "x.flac", tmp_path / "cache") == TranscodedFile(
        "made.flac", SECONDS * RATE, False
    )


@pytest.mark.parametrize("kind", ["tag behind", "damaged cover", "longer picture", "chained"])
def test_whole_files_with_something_beside_the_audio_are_not_damaged(
    encoded: Path, tmp_path: Path, kind: str
) -> None:
    body, seconds = (encoded / "x.mp3").read_bytes(), SECONDS
    path = tmp_path / {"longer picture": "x.mp4", "chained": "x.opus"}.get(kind, "x.mp3")
    if kind == "tag behind":
        item = (8).to_bytes(4, "little") + bytes(4) + b"REPLAYGAIN_TRACK_GAIN\x00-6.50 dB"
        sizes = b"".join(number.to_bytes(4, "little") for number in (2_000, len(item) + 32, 1, 0))
        path.write_bytes(body + item + b"APETAGEX" + sizes + bytes(8))
    elif kind == "damaged cover":
        picture = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + np.random.default_rng(0).bytes(90_000)
        frame = b"\x00image/jpeg\x00\x03\x00" + picture
        frame = b"APIC" + len(frame).to_bytes(4, "big") + b"\x00\x00" + frame
        size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
        path.write_bytes(b"ID3\x03\x00\x00" + size + frame + body)
    elif kind == "longer picture":
        film = ("-f", "lavfi", "-i", "color=black:s=64x64:r=10:d=5", "-c:v", "mpeg4", "-c:a", "aac")
        _encode(encoded / "original.wav", path, *film, "-map", "0:a", "-map", "1:v")
    else:
        links = [
            _encode(
                encoded / "original.wav", tmp_path / "link.opus", "-serial_offset", str(number)
            ).read_bytes()
            for number in (1, 2)
        ]
        path.write_bytes(b"".join(links))
        seconds = 2 * SECONDS
    made = _ingest(path, tmp_path / "cache")
    assert made.frames == pytest.approx(seconds * RATE, abs=1_100)  # AAC fills its last frame


# changes of format midway, and sizes that a header declares wrongly


@pytest.mark.parametrize("extension, options", [("aac", ("-b:a", "128k")), ("ac3", ("-b:a", "192k"))])
@pytest.mark.parametrize("channels", [(2, 1), (1, 2)])
def test_file_whose_channels_change_midway_is_refused(
    encoded: Path, tmp_path: Path, extension: str, options: tuple[str, ...], channels: tuple[int, int]
) -> None:
    """ffmpeg converts the rest to the channels that it began with: mono becomes 3 dB lower."""
    parts = [
        _encode(encoded / "original.wav", tmp_path / f"{number}.{extension}", *options, "-ac", str(number))
        for number in channels
    ]
    path = tmp_path / f"joined.{extension}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(AudioError, match=r"changes midway .*to 44100 Hz, \w+: the level is not kept"):
        _ingest(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_file_whose_sample_rate_alone_changes_midway_gets_a_remark(encoded: Path, tmp_path: Path) -> None:
    rates = ("44100", "32000")
    parts = [
        _encode(encoded / "original.wav", tmp_path / f"{rate}.aac", "-b:a", "192k", "-ar", rate)
        for rate in rates
    ]
    (tmp_path / "x.aac").write_bytes(b"".join(part.read_bytes() for part in parts))
    made = _ingest(tmp_path / "x.aac", tmp_path / "cache")
    assert made.remark == "changes midway from 44100 Hz, stereo to 32000 Hz, stereo: resampled"
    assert made.frames == pytest.approx(2 * SECONDS * RATE, abs=5_000)
    samples = _samples(tmp_path / "cache", made)
    halves = [samples[int(start * RATE) : int((start + 1) * RATE)] for start in (0.5, 2.6)]
    first, second = (np.sqrt((half**2).mean()) for half in halves)
    assert second == pytest.approx(first, rel=0.2)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("extension", ["wav", "flac", "aiff", "au", "caf", "w64", "tta"])
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, extension: str, rate: int) -> None:
    """As `cat a.flac b.flac` makes them, and as `apollo restore` reads them."""
    soundfile.write(tmp_path / "in.wav", _music(rate=rate), rate)
    content = _encode(tmp_path / "in.wav", tmp_path / f"x.{extension}").read_bytes()
    (tmp_path / f"joined.{extension}").write_bytes(content * 2)
    known = probe(str(tmp_path / f"joined.{extension}"))
    assert known is None or not known.windowed
    made = _ingest(tmp_path / f"joined.{extension}", tmp_path / "cache")
    assert made.remark is None
    assert made.frames == 2 * SECONDS * RATE
    if rate == RATE:
        expected = np.concatenate([_music(), _music()])
        assert _samples(tmp_path / "cache", made) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_unfinished_wav_is_read_to_its_end_with_a_remark(tmp_path: Path, rate: int, subtype: str) -> None:
    """A recorder that was killed leaves sizes of 0."""
    music = _music(rate=rate)
    soundfile.write(tmp_path / "x.wav", music, rate, subtype=subtype)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    at = content.find(b"data") + 4
    content[4:8] = content[at : at + 4] = bytes(4)
    (tmp_path / "x.wav").write_bytes(content)
    made = _ingest(tmp_path / "x.wav", tmp_path / "cache")
    assert made.frames == SECONDS * RATE
    assert made.remark is not None and made.remark.startswith("unfinished: header declares no samples")
    if rate == RATE:
        assert _samples(tmp_path / "cache", made) == pytest.approx(music, abs=1e-4)


def test_unfinished_au_is_read_to_its_end_with_a_remark(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.au", _music(), RATE)
    content = bytearray((tmp_path / "x.au").read_bytes())
    content[8:12] = bytes(4)
    (tmp_path / "x.au").write_bytes(content)
    made = _ingest(tmp_path / "x.au", tmp_path / "cache")
    assert made.frames == len(_music())
    assert made.remark is not None and made.remark.startswith("unfinished: header declares no samples")


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_samples_beyond_those_that_a_header_declares_are_a_remark(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "x.wav", _music(rate=rate), rate)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = (4 * rate).to_bytes(4, "little")  # 1 of 2 s
    (tmp_path / "x.wav").write_bytes(content)
    known = probe(str(tmp_path / "x.wav"))
    assert known is not None
    remark = known.remark if known.windowed else _ingest(tmp_path / "x.wav", tmp_path / "cache").remark
    assert (known.windowed, known.frames) == (rate == RATE, rate)
    assert remark is not None and remark.startswith(
        f"header declares {4 * rate} bytes of samples, {4 * rate}"
    )
