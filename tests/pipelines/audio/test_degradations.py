"""Degradations other than MP3 at constant bitrates: names, alignment, lengths, levels, bitrates, chains."""

from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.audio import degradations
from pipelines.audio.bitstream import CodecError, decode, media_type
from pipelines.audio.codec import CodecConfig, Encoded, Encoder
from pipelines.audio.payload import measure_bitrate
from tests.pipelines.audio.test_codec import EDGE_LENGTHS, RANDOM_LENGTHS, _lag, _noise

CODECS = ("mp3_v4", "mp3_128000_lr", "mp3_192000", "aac_64000", "opus_64000", "vorbis_64000")
FILTERS = ("resample_22050", "resample_48000", "lowpass_8000", "clip_6", "bits_8")
MANY = "aac_64000>vorbis_64000>mp3_64000"
CHAINS = ("mp3_64000>aac_96000", "lowpass_8000>opus_96000", "mp3_64000>bits_8", MANY)
ALL = (*CODECS, *FILTERS, *CHAINS)
SECONDS = 3
FRAMES = SECONDS * 44_100


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(CodecConfig(degradations=ALL))


@pytest.fixture(scope="module")
def clean() -> NDArray[np.int16]:
    """Three seconds of noise that falls with frequency, as music does."""
    spectrum = np.fft.rfft(np.random.default_rng(5).normal(0, 1, (FRAMES, 2)), axis=0)
    spectrum /= (1 + np.arange(len(spectrum)) / 600)[:, None]
    samples = np.fft.irfft(spectrum, FRAMES, axis=0)
    return (samples / np.abs(samples).max() * 20_000).astype(np.int16)


@pytest.fixture(scope="module")
def encoded(encoder: Encoder, clean: NDArray[np.int16]) -> dict[str, Encoded]:
    return dict(encoder.encode(clean))


@pytest.mark.parametrize("frames", [*EDGE_LENGTHS, *RANDOM_LENGTHS[::3], 30_001, FRAMES])
def test_every_degradation_has_the_length_and_no_lag(encoder: Encoder, frames: int) -> None:
    noise = _noise(frames)
    results = encoder.encode(noise)
    assert list(results) == [name.replace(">", "-") for name in ALL]
    for name, result in results.items():
        decoded = decode(result.stream, frames=frames)
        assert decoded.shape == (frames, 2) and np.isfinite(decoded).all(), (name, frames)
        if frames >= 576:
            assert _lag(noise, decoded) == 0, (name, frames)


def test_opus_is_early_by_two_samples_at_most_where_it_takes_sound_for_speech() -> None:
    """In its speech mode libopus is 45 microseconds early; from 64 kbps on it is in that of music."""
    noise = _noise(FRAMES)
    made = Encoder(CodecConfig(degradations=("opus_24000", "opus_48000"))).encode(noise)
    for name, result in made.items():
        assert -2 <= _lag(noise, decode(result.stream, frames=FRAMES)) <= 0, name


def test_the_same_samples_give_the_same_bytes(
    encoder: Encoder, clean: NDArray[np.int16], encoded: dict[str, Encoded]
) -> None:
    encoder.encode(_noise(5_000))
    again = encoder.encode(clean)
    assert again == encoded
    alone = Encoder(CodecConfig(degradations=(MANY,))).encode(clean)
    (chain,) = alone.values()
    assert chain == encoded["aac_64000-vorbis_64000-mp3_64000"]


def test_real_bitrates_are_measured_without_headers(encoded: dict[str, Encoded]) -> None:
    rates = {name: one.bitrate_bps for name, one in encoded.items()}
    assert rates["mp3_192000"] == 192_000 and rates["mp3_128000_lr"] == 128_000
    assert rates["mp3_v4"] is not None and 60_000 < rates["mp3_v4"] < 260_000
    for name, requested in (("aac_64000", 64_000), ("opus_64000", 64_000), ("vorbis_64000", 64_000)):
        assert rates[name] == pytest.approx(requested, rel=0.35), name
        assert rates[name] < 8 * len(encoded[name].stream) / SECONDS
    assert rates["mp3_64000-aac_96000"] == pytest.approx(96_000, rel=0.35)
    assert all(rates[name] is None for name in (*FILTERS, "mp3_64000-bits_8"))


def test_gains_are_those_of_the_codecs(encoded: dict[str, Encoded]) -> None:
    for name, one in encoded.items():
        expected = 0.95 if "mp3_64000" in name or name == "mp3_128000_lr" else 1.0  # LAME's scale
        assert one.gain == pytest.approx(expected, abs=0.04), name


def test_filters_do_what_their_names_say(clean: NDArray[np.int16], encoded: dict[str, Encoded]) -> None:
    samples = clean / np.float32(32_768)
    decoded = {name: decode(encoded[name].stream, frames=FRAMES) for name in FILTERS}
    frequencies = np.fft.rfftfreq(FRAMES, 1 / 44_100)

    def level_db(signal: NDArray[np.float32], low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(signal[:, 0])[(frequencies >= low) & (frequencies < high)]) ** 2
        return float(10 * np.log10(power.mean()))

    for name, low, high in (("lowpass_8000", 7_800, 8_300), ("resample_22050", 9_500, 11_100)):
        below = level_db(decoded[name], 200, low) - level_db(samples, 200, low)
        above = level_db(decoded[name], high, 20_000) - level_db(samples, high, 20_000)
        assert abs(below) < 0.1 and above < -25, name
    assert (
        abs(level_db(decoded["resample_48000"] - samples, 200, 19_000) - level_db(samples, 200, 19_000)) > 60
    )
    peak = np.abs(samples).max()
    assert np.abs(decoded["clip_6"]).max() == pytest.approx(peak / 10 ** (6 / 20), abs=1e-4)
    inside = np.abs(samples) < 0.99 * peak / 10 ** (6 / 20)
    assert np.abs(decoded["clip_6"] - samples)[inside].max() < 1e-4
    assert np.unique(decoded["bits_8"] * 128 % 1).tolist() == [0.0]
    assert np.abs(decoded["bits_8"] - samples).max() <= 0.5 / 128


def test_joint_stereo_off_keeps_left_and_right_apart() -> None:
    noise = _noise(FRAMES).astype(np.float32)
    noise[:, 1] = 0  # all in the left channel
    made = Encoder(CodecConfig(degradations=("mp3_64000", "mp3_64000_lr"))).encode(noise.astype(np.int16))
    joint, apart = (decode(made[name].stream, frames=FRAMES) for name in ("mp3_64000", "mp3_64000_lr"))
    assert made["mp3_64000"].stream != made["mp3_64000_lr"].stream
    assert np.abs(apart[:, 1]).max() <= np.abs(joint[:, 1]).max()


def test_pieces_are_those_of_the_whole(encoded: dict[str, Encoded]) -> None:
    for name, one in encoded.items():
        whole = decode(one.stream, frames=FRAMES)
        for first, end in ((0, 1), (40_000, 62_050), (FRAMES - 5, FRAMES)):
            piece = decode(one.stream, frames=FRAMES, piece=slice(first, end))
            assert np.array_equal(piece, whole[first:end]), name


@pytest.mark.parametrize("name", ["aac_64000", "opus_64000", "vorbis_64000", "bits_8"])
def test_damaged_streams_are_errors(encoded: dict[str, Encoded], name: str) -> None:
    stream = encoded[name].stream
    for damaged in (stream[: len(stream) // 2], stream[:30], stream[:8] + bytes(len(stream) - 8)):
        with pytest.raises(CodecError):
            decode(damaged, frames=FRAMES)
    with pytest.raises(CodecError):
        decode(stream, frames=2 * FRAMES)


def test_a_stream_that_claims_hours_is_not_decoded_to_its_end(encoder: Encoder) -> None:
    silence = Encoder(CodecConfig(degradations=("aac_64000",))).encode(np.zeros((60 * 44_100, 2), np.int16))
    assert len(decode(silence["aac_64000"].stream, frames=1_000)) == 1_000


def test_media_types_of_pages(encoded: dict[str, Encoded]) -> None:
    types = {name: media_type(one.stream).removeprefix("audio/") for name, one in encoded.items()}
    assert (types["mp3_v4"], types["aac_64000"]) == ("mpeg", "mp4")
    assert (types["opus_64000"], types["vorbis_64000"], types["bits_8"]) == ("ogg", "ogg", "flac")


@pytest.mark.parametrize(
    ("name", "words", "bitrate"),
    [
        ("mp3_24000", "MP3 at 24 kbps", 24_000),
        ("mp3_v5", "MP3 at VBR quality 5", None),
        ("mp3_128000_lr", "MP3 at 128 kbps, left and right apart", 128_000),
        ("opus_48000", "Opus at 48 kbps", 48_000),
        ("mp3_64000-aac_96000", "MP3 at 64 kbps, then AAC at 96 kbps", 64_000),
        ("lowpass_8000", "low-pass at 8 kHz", None),
        ("vinyl", "codec's output (vinyl)", None),
        ("tape_1980", "codec's output (tape_1980)", 1_980),
    ],
)
def test_names_in_words_and_their_bitrates(name: str, words: str, bitrate: int | None) -> None:
    assert degradations.describe(name) == words
    assert degradations.requested_bitrate(name) == bitrate


def test_names_are_sorted_by_codec_then_bitrate() -> None:
    names = ["opus_96000", "mp3_64000", "vinyl", "mp3_128000", "opus_48000", "mp3_v2"]
    assert sorted(names, key=degradations.sort_key) == [
        *("mp3_v2", "mp3_64000", "mp3_128000", "opus_48000", "opus_96000", "vinyl"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("flac_1",), r"'flac_1' is unknown: the forms are mp3_64000, .*chains such as mp3_64000>aac_96000"),
        (("mp3_7000",), "mp3_7000 needs a value of 8000 to 320000"),
        (("mp3_v10",), "mp3_v10 needs a value of 0 to 9"),
        (("opus_v5",), "'opus_v5' is unknown"),
        (("mp3_64000>",), "is unknown"),
        (("mp3_64000", "mp3_64000"), "each may be named once"),
        (("mp3_64000>bits_8", "mp3_64000-bits_8"), "each may be named once"),
    ],
)
def test_unknown_degradations_are_refused_with_the_list(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecConfig(degradations=names)


def test_bitrates_are_the_short_form() -> None:
    long, short = (
        CodecConfig(degradations=("mp3_24000", "mp3_64000")),
        CodecConfig(bitrates_bps=(24_000, 64_000)),
    )
    assert long.columns == short.columns and long.to_dict() == short.to_dict()
    mixed = CodecConfig(degradations=("mp3_64000", "mp3_64000>opus_48000"))
    assert mixed.to_dict()["degradations"] == ("mp3_64000", "mp3_64000-opus_48000")
    assert CodecConfig(**mixed.to_dict()).columns == mixed.columns
    assert CodecConfig(**{**asdict(CodecConfig()), "bitrates_bps": (64_000,)}).columns == ("mp3_64000",)


def test_an_encoder_that_ffmpeg_lacks_is_named() -> None:
    config = CodecConfig(degradations=("mp3_64000", "aac_64000>heaac_32000"))
    with pytest.raises(
        ValueError, match=f"heaac_32000 needs ffmpeg's encoder libfdk_aac, which {find_ffmpeg()}"
    ):
        config.check_available()
    with pytest.raises(ValueError, match="libfdk_aac"):
        Encoder(config)
    CodecConfig(degradations=ALL).check_available()


def test_bitrates_of_damaged_files_are_errors(encoded: dict[str, Encoded]) -> None:
    for name in ("opus_64000", "aac_64000"):
        with pytest.raises(ValueError, match=r"no Ogg page|no media data"):
            measure_bitrate(encoded[name].stream[:40] + b"x" * 40, 1.0)
