"""Matching: one recording is recognised through level, noise, shift and coding; other music is not."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipelines.audio.codec import CodecConfig, Encoder, decode
from pipelines.audio.fingerprints import HOP, FingerprintExtractor, find_same_recordings

RATE, SECONDS = 44_100, 15


def _music(seed: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Random chords with overtones and a little noise: [frames, 2]."""
    generator = np.random.default_rng(seed)
    notes = []
    for _ in range(int(seconds * 4)):
        time = np.arange(RATE // 4) / RATE
        tones = 55 * 2 ** (generator.integers(0, 48, 3) / 12)
        chord = sum(np.sin(2 * np.pi * f * k * time) / k for f in tones for k in range(1, 7))
        notes.append(chord * np.exp(-6 * time))
    mono = np.concatenate(notes) * 0.05 + generator.normal(0, 0.002, len(notes) * (RATE // 4))
    return np.stack([mono, 0.8 * mono], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def music() -> NDArray[np.float32]:
    return _music(1)


def _print(samples: NDArray[np.float32], block: int = 3 * RATE) -> NDArray[np.uint32]:
    extractor = FingerprintExtractor()
    for start in range(0, len(samples), block):
        extractor.add(samples[start : start + block])
    return extractor.sub_fingerprints()


def _are_same(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return find_same_recordings([_print(first), _print(second)]) == [(0, 1)]


@pytest.mark.parametrize("block", [1_000, 2_048, 44_100, 10**7])
def test_words_do_not_depend_on_the_blocks_that_samples_come_in(
    music: NDArray[np.float32], block: int
) -> None:
    whole = _print(music)
    assert len(whole) == (len(music) - 16_384) // HOP + 1
    assert np.array_equal(_print(music, block), whole)


@pytest.mark.parametrize("level_db", [-30, -6, 12])
def test_same_recording_at_another_level_matches(music: NDArray[np.float32], level_db: float) -> None:
    assert _are_same(music, music * np.float32(10 ** (level_db / 20)))


def test_same_recording_under_noise_matches(music: NDArray[np.float32]) -> None:
    noise = np.random.default_rng(9).normal(0, 0.1 * np.std(music), music.shape).astype(np.float32)
    assert _are_same(music, music + noise)


@pytest.mark.parametrize("frames", [1, 777, HOP, HOP // 2, 3 * RATE + 1_000])
def test_same_recording_begun_later_matches_either_way(music: NDArray[np.float32], frames: int) -> None:
    assert _are_same(music, music[frames:])
    assert _are_same(music[frames:], music)


def test_same_recording_behind_a_pause_matches(music: NDArray[np.float32]) -> None:
    pause = np.zeros((4 * RATE, 2), np.float32)
    assert _are_same(music, np.concatenate([pause, music]))


def test_same_recording_in_mono_or_16_bits_matches(music: NDArray[np.float32]) -> None:
    assert _are_same(music, np.repeat(music.mean(axis=1, keepdims=True), 2, axis=1))
    assert _are_same(music, np.round(music * 32_767).astype(np.float32) / 32_767)


def test_same_recording_through_mp3_at_every_bitrate_matches(music: NDArray[np.float32]) -> None:
    clean = np.rint(music / np.abs(music).max() * 30_000).astype(np.int16)
    encoded = Encoder(CodecConfig()).encode(clean)
    prints = [_print(music), *(_print(decode(e.stream, frames=len(clean))) for e in encoded.values())]
    assert find_same_recordings(prints) == [(i, j) for i in range(7) for j in range(i + 1, 7)]


def test_different_music_does_not_match(music: NDArray[np.float32]) -> None:
    assert find_same_recordings([_print(x) for x in (music, _music(2), _music(3), -_music(4)[::-1])]) == []


def test_pair_is_found_among_others(music: NDArray[np.float32]) -> None:
    prints = [_print(x) for x in (_music(2), music, _music(3), music * np.float32(0.3))]
    assert find_same_recordings(prints) == [(1, 3)]


def test_excerpt_matches_but_less_than_half_in_common_does_not(music: NDArray[np.float32]) -> None:
    middle = len(music) // 3
    assert _are_same(music, music[middle : 2 * middle])
    mostly_other = np.concatenate([music[: len(music) // 3], _music(5, SECONDS * 2 / 3)])
    assert not _are_same(music, mostly_other)


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_does_not_match_even_silence(music: NDArray[np.float32], level: float) -> None:
    silence = np.random.default_rng(0).normal(0, 1, music.shape).astype(np.float32) * np.float32(level)
    assert not _print(silence).any()
    assert find_same_recordings([_print(x) for x in (silence, silence, music)]) == []


def test_mostly_silent_songs_match_by_their_music_alone(music: NDArray[np.float32]) -> None:
    pause = np.zeros((60 * RATE, 2), np.float32)
    ours, other = (np.concatenate([pause, x[: 6 * RATE]]) for x in (music, _music(6)))
    assert not _are_same(ours, other)
    assert _are_same(ours, ours * np.float32(0.5))


def test_songs_too_short_for_a_sub_fingerprint_do_not_match() -> None:
    short = np.ones((16_383, 2), np.float32)
    assert len(_print(short)) == 0
    assert find_same_recordings([_print(short), _print(short)]) == []
    assert find_same_recordings([]) == []


def test_real_recordings_match_themselves_and_no_other() -> None:
    folder = os.environ.get("APOLLO_AUDIO")
    if not folder:
        pytest.skip("APOLLO_AUDIO does not name the folder of recordings")
    demo = Path(folder, "apollo-demo")
    prints = [
        _print(soundfile.read(demo / rate / f"{name}.flac", dtype="float32")[0])
        for rate in ("48k", "64k", "96k")  # at 24 and 32 kbps six seconds give too few votes
        for name in ("clean", "degraded")
    ]
    assert find_same_recordings(prints) == [(0, 1), (2, 3), (4, 5)]
