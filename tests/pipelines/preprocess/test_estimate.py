"""Estimates: a dry run counts what is there and what would be made."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.audio.codec import CodecConfig
from pipelines.dataset.shards import ShardsConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.estimate import Estimate, make_estimate
from pipelines.preprocess.recipes import RecipesConfig

CODEC = CodecConfig(bitrates_bps=(24_000, 128_000))


@pytest.fixture(scope="module")
def estimate(tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """Two good stems, one to be decoded, one broken, one unlisted."""
    root = tmp_path_factory.mktemp("data")
    (root / "song").mkdir()
    for name, rate, seconds in (("drums.wav", 44_100, 9), ("bass.flac", 48_000, 27)):
        soundfile.write(root / "song" / name, np.zeros((rate * seconds, 2)), rate)
    (root / "song/vocals.m4a").write_bytes(b"something that libsndfile does not know")
    (root / "song/piano.wav").touch()
    (root / "song/guitar.wav").symlink_to(root / "nowhere.wav")
    recipes = RecipesConfig(train=100, valid=10, test_per_category=3)
    return make_estimate(find_songs([str(root)]), recipes, CODEC, ShardsConfig(rows=8))


def test_files_are_counted_by_what_is_known_of_them(estimate: Estimate) -> None:
    assert (estimate.songs, estimate.tracks, estimate.unknown, estimate.unreadable) == (1, 4, 1, 2)
    assert estimate.hours == pytest.approx(36 / 3600)


def test_recipes_and_shards_are_counted_by_split(estimate: Estimate) -> None:
    assert estimate.recipes == {"train": 100, "valid": 10, "test": 12}
    assert estimate.shards == 13 + 2 + 2


def test_size_and_cost_are_of_the_right_order(estimate: Estimate) -> None:
    mp3_bytes = (32_000 + 128_000) / 8 * 3  # what 24 kbps really is at 44.1 kHz
    flac_bytes = 3 * 44_100 * 4
    assert 122 * mp3_bytes < estimate.gigabytes * 1e9 < 122 * (mp3_bytes + flac_bytes)
    assert 122 * 0.005 < estimate.core_hours * 3600 < 122 * 5


def test_text_has_every_number(estimate: Estimate) -> None:
    text = str(estimate)
    for part in (
        "1 with 4 tracks",
        "2 cannot be read",
        "0.01 of tracks, 1 more",
        "122 at most",
        "train 100",
        "17,",
    ):
        assert part in text


def test_songs_alone_have_one_test_category(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "A - One.wav", np.zeros((44_100, 2)), 44_100)
    recipes = RecipesConfig(train=0, valid=0, test_per_category=5)
    found = make_estimate(find_songs([str(tmp_path)]), recipes, CODEC, ShardsConfig())
    assert (found.recipes["test"], found.shards) == (5, 1)
    assert "cannot be read" not in str(found)
