"""Items of an evaluation: rows of shards, and pairs that users bring."""

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines.audio.bandwidth import measure_cutoff_hz, power_spectrogram
from pipelines.audio.codec import CodecConfig, Encoder, decode
from pipelines.errors import UsageError
from pipelines.evaluation.items import EvaluationItem, ItemSource, find_cutoff_hz
from pipelines.evaluation.models import load_models
from pipelines.evaluation.pair_items import PairItems
from pipelines.evaluation.run import open_items
from pipelines.evaluation.shard_items import ShardItems
from tests.support import datasets, shard_outputs

RATE = datasets.SAMPLE_RATE


def load(items: ItemSource, degradation: str) -> list[EvaluationItem | str]:
    return list(items.load(items.indices(degradation), degradation))


def clip(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    return datasets.music(seed, seconds=seconds)


def test_rows_of_shards_are_loaded_unchanged(undisturbed: Path) -> None:
    items = open_items(str(undisturbed), "test", ("mp3_24000",), None)
    assert isinstance(items, ShardItems)
    assert len(items.items) == 12
    assert [tuple(one) for one in items.degradations] == [("mp3_24000", 24_000)]
    rows = {
        row["recipe_id"]: row
        for path in sorted((undisturbed / "test").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    found = load(items, "mp3_24000")
    for item, loaded in zip(items.items, found, strict=True):
        assert isinstance(loaded, EvaluationItem)
        row = rows[item.name]
        assert item.category == row["category"]
        clean, _ = soundfile.read(io.BytesIO(row["clean"]), dtype="float32")
        np.testing.assert_array_equal(loaded.clean, clean.T)
        assert loaded.degraded.shape == loaded.clean.shape
        assert loaded.gain == pytest.approx(row["mp3_24000_gain"])
    assert all(item.songs for item in items.items)


def test_songs_are_groups_of_sources(undisturbed: Path) -> None:
    sources = pq.read_table(undisturbed / "sources.parquet").to_pylist()
    groups = {row["source_id"]: row["group_id"] for row in sources}
    items = ShardItems(str(undisturbed), "valid", (), None)
    rows = [
        row
        for path in sorted((undisturbed / "valid").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    expected = {row["recipe_id"]: {groups[part["source_id"]] for part in row["components"]} for row in rows}
    assert {item.name: set(item.songs) for item in items.items} == expected


def test_a_limit_takes_its_share_of_every_category(undisturbed: Path) -> None:
    all_items = ShardItems(str(undisturbed), "test", (), None).items
    chosen = ShardItems(str(undisturbed), "test", (), 4).items
    assert len(chosen) == 4
    assert len({item.category for item in chosen}) == len({item.category for item in all_items})
    assert set(chosen) <= set(all_items)
    assert [item for item in all_items if item in chosen] == list(chosen)
    assert ShardItems(str(undisturbed), "test", (), 4).items == chosen


def test_damaged_row_is_yielded_as_a_reason(undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(undisturbed, copy)
    victim = sorted((copy / "test").glob("*.parquet"))[0]
    victim.unlink()
    items = ShardItems(str(copy), "test", (), None)
    assert len(items.items) == 12
    found = load(items, "mp3_24000")
    lost = [one for one in found if isinstance(one, str)]
    assert len(lost) == 4
    assert all("the file is missing" in reason for reason in lost)


def test_missing_sources_are_refused(tmp_path: Path) -> None:
    shard_outputs.write(tmp_path, 2, split="test")
    with pytest.raises(UsageError, match=r"sources\.parquet"):
        ShardItems(str(tmp_path), "test", (), None)


@pytest.mark.parametrize(("bitrate", "edge"), [(24_000, 4_400), (64_000, 11_200)])
def test_cutoff_equals_the_codecs_low_pass(bitrate: int, edge: float) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE * 3, 2))
    clean = np.round(noise.clip(-1, 1) * 32_767).astype(np.int16)
    made = Encoder(CodecConfig(bitrates_bps=(bitrate,))).encode(clean)[f"mp3_{bitrate}"]
    decoded = decode(made.stream, frames=len(clean))
    powers = [power_spectrogram(one).mean(1) for one in (clean / np.float32(32_768), decoded)]
    assert measure_cutoff_hz(*powers) == pytest.approx(edge, rel=0.12)


def test_triples_in_a_folder_an_item(tmp_path: Path) -> None:
    for number, name in enumerate(("24k/first", "64k/second")):
        samples = clip(number)
        datasets.write(tmp_path / name / "clean.wav", samples)
        datasets.write(tmp_path / name / "degraded.flac", 0.9 * samples)
        datasets.write(tmp_path / name / "ours.wav", 0.8 * samples)
    items = open_items(str(tmp_path), "test", (), None)
    assert isinstance(items, PairItems)
    assert [tuple(one) for one in items.degradations] == [("24k", 24_000), ("64k", 64_000)]
    assert items.result_models == ("ours",)
    assert [item.name for item in items.items] == ["24k/first", "64k/second"]
    (loaded,) = load(items, "64k")
    assert isinstance(loaded, EvaluationItem)
    assert loaded.gain == pytest.approx(0.9, abs=0.001)
    np.testing.assert_allclose(loaded.restored["ours"], 0.8 * loaded.clean, atol=1e-4)


def test_pairs_in_a_folder_a_role(tmp_path: Path) -> None:
    for name in ("a/one", "two"):
        clean = datasets.write(tmp_path / "clean" / f"{name}.wav", clip())
        datasets.encode(clean, tmp_path / "degraded" / f"{name}.mp3", "-b:a", "64k")
    datasets.write(tmp_path / "degraded" / "alone.wav", clip())
    items = PairItems(str(tmp_path), (), None)
    assert [item.name for item in items.items] == ["a/one", "two"]
    assert [tuple(one) for one in items.degradations] == [("given", None)]
    assert all(isinstance(one, EvaluationItem) for one in load(items, "given"))
    assert find_cutoff_hz(items, "given") < 14_000


def test_mismatched_pairs_are_yielded_as_reasons(tmp_path: Path) -> None:
    samples = clip()
    for name, degraded in {"short": samples[:20_000], "mono": samples[:, :1], "fine": samples}.items():
        datasets.write(tmp_path / name / "clean.wav", samples)
        datasets.write(tmp_path / name / "degraded.wav", degraded)
    datasets.write(tmp_path / "text" / "clean.wav", samples)
    (tmp_path / "text" / "degraded.mp3").write_text("no audio")
    long = np.zeros((61 * 8_000, 1))
    datasets.write(tmp_path / "long" / "clean.wav", long, 8_000)
    datasets.write(tmp_path / "long" / "degraded.wav", long, 8_000)
    items = PairItems(str(tmp_path), (), None)
    found = dict(zip([item.name for item in items.items], load(items, "given"), strict=True))
    assert isinstance(found["fine"], EvaluationItem)
    assert "different lengths" in str(found["short"])
    assert "channels" in str(found["mono"])
    assert "longer than 60 s" in str(found["long"])
    assert isinstance(found["text"], str)


def test_fingerprint_depends_on_the_files_content(tmp_path: Path) -> None:
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "one" / name, clip())
    before = PairItems(str(tmp_path), (), None).fingerprint
    assert PairItems(str(tmp_path), (), None).fingerprint == before
    datasets.write(tmp_path / "one" / "degraded.wav", clip(1))
    assert PairItems(str(tmp_path), (), None).fingerprint != before


def write_pair(folder: Path, *results: str, seed: int = 0) -> np.ndarray:
    samples = clip(seed)
    for name in ("clean", "degraded", *results):
        datasets.write(folder / f"{name}.wav", samples)
    return samples


def test_a_song_at_several_bitrates_is_one_song(tmp_path: Path) -> None:
    for name in ("24k/x", "64k/x", "64k/album/x", "24k"):
        write_pair(tmp_path / name)
    songs = {item.name: item.songs for item in PairItems(str(tmp_path), (), None).items}
    assert songs == {"24k": ("24k",), "24k/x": ("x",), "64k/album/x": ("album/x",), "64k/x": ("x",)}


def test_bad_result_is_unreadable_for_its_model_only(tmp_path: Path) -> None:
    samples = write_pair(tmp_path / "one", "fine")
    broken = samples.copy()
    broken[100] = np.nan
    results = {
        "long": np.vstack([samples, samples[:1_152]]),
        "short": samples[:-1_152],
        "too_long": np.vstack([samples, samples[:1_153]]),
        "too_short": samples[:-1_153],
        "mono": samples[:, :1],
        "nan": broken,
    }
    for name, result in results.items():
        datasets.write(tmp_path / "one" / f"{name}.wav", result, subtype="FLOAT")
    datasets.write(tmp_path / "one" / "nan_48k.wav", broken, 48_000, subtype="FLOAT")
    (tmp_path / "one" / "text.wav").write_text("no audio")
    (tmp_path / "one" / "gone.wav").symlink_to("nowhere.wav")
    (loaded,) = load(PairItems(str(tmp_path), (), None), "given")
    assert isinstance(loaded, EvaluationItem)
    found = loaded.restored
    for name in ("fine", "long", "short", "nan"):
        assert np.shape(found[name]) == loaded.clean.shape == (2, RATE), name
    np.testing.assert_allclose(found["fine"], loaded.clean)
    np.testing.assert_allclose(found["long"], samples.T, atol=1e-6)
    np.testing.assert_allclose(found["short"], np.pad(samples[:-1_152].T, ((0, 0), (0, 1_152))), atol=1e-6)
    assert np.isnan(found["nan"]).sum() == 2
    assert all("different lengths" in str(found[name]) for name in ("too_long", "too_short"))
    assert "channels" in str(found["mono"])
    assert "non-finite" in str(found["nan_48k"])
    assert all(isinstance(found[name], str) for name in ("text", "gone"))


def test_one_frame_of_length_difference_is_trimmed(tmp_path: Path) -> None:
    samples = write_pair(tmp_path / "one", "ours")
    datasets.write(tmp_path / "one" / "degraded.wav", samples[:-1_000])
    (loaded,) = load(PairItems(str(tmp_path), (), None), "given")
    assert isinstance(loaded, EvaluationItem)
    assert loaded.clean.shape == loaded.degraded.shape == (2, RATE - 1_000)
    assert np.shape(loaded.restored["ours"]) == loaded.clean.shape


def test_more_than_two_channels_are_unreadable(tmp_path: Path) -> None:
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "one" / name, np.tile(clip(), 2))
    assert "4 channels" in str(load(PairItems(str(tmp_path), (), None), "given"))


def test_fingerprint_of_deleted_files(tmp_path: Path) -> None:
    write_pair(tmp_path / "one")
    (tmp_path / "one" / "ours.wav").symlink_to(tmp_path / "later.wav")
    items = PairItems(str(tmp_path), (), None)
    before = items.fingerprint
    datasets.write(tmp_path / "later.wav", clip())
    assert items.fingerprint != before


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in (b"caf\xe8", b"caf\xe9"):
        folder = tmp_path / os.fsdecode(name)
        write_pair(tmp_path / "one")
        (tmp_path / "one").rename(folder)
        shutil.copy(folder / "clean.wav", folder / os.fsdecode(b"\xff.wav"))
    items = PairItems(str(tmp_path), (), None)
    assert [item.name for item in items.items] == ["caf\\xe8", "caf\\xe9"]
    assert items.result_models == ("\\xff",)
    pa.array([*items.items[0].songs, *items.result_models])
    assert all(isinstance(one, EvaluationItem) for one in load(items, "given"))
    write_pair(tmp_path / "caf\\xe9")
    with pytest.raises(UsageError, match="two pairs are named"):
        PairItems(str(tmp_path), (), None)


def test_the_first_of_several_clean_folders_counts(tmp_path: Path) -> None:
    for role, seed in {"original": 1, "clean": 0, "degraded": 0, "ours": 0}.items():
        datasets.write(tmp_path / role / "x.wav", clip(seed))
    items = PairItems(str(tmp_path), (), None)
    assert [item.name for item in items.items] == ["x"]
    assert items.result_models == ("ours",)
    (loaded,) = load(items, "given")
    assert isinstance(loaded, EvaluationItem)
    np.testing.assert_array_equal(loaded.clean, loaded.degraded)


@pytest.mark.parametrize("name", ["untouched", "Clean"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    write_pair(tmp_path / "one", name)
    with pytest.raises(UsageError, match=rf"one/{name}\.wav.*rename"):
        PairItems(str(tmp_path), (), None)


def test_a_limit_takes_its_share_of_every_degradation(tmp_path: Path) -> None:
    for name in ("24k/a", "24k/b", "24k/c", "24k/d", "64k/a", "64k/b"):
        write_pair(tmp_path / name)
    items = PairItems(str(tmp_path), (), 3)
    assert [len(items.indices(one)) for one in ("24k", "64k")] == [2, 1]
    assert PairItems(str(tmp_path), (), 3).items == items.items
    assert len(PairItems(str(tmp_path), (), 1).degradations) == 1


def test_excerpts_of_a_song_are_one_song(tmp_path: Path) -> None:
    names = ("24k/a/excerpt-1", "24k/a/excerpt-2", "64k/a/excerpt-1", "24k/excerpt-1", "24k/excerpt")
    for name in names:
        write_pair(tmp_path / name)
    songs = {one.name: one.songs[0] for one in PairItems(str(tmp_path), (), None).items}
    assert [songs[name] for name in names] == ["a", "a", "a", "excerpt-1", "excerpt"]


def test_two_results_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"two models are named ours: rename one with --models NAME=MODEL"):
        load_models((), ("ours", "ours"))


def test_no_items_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pairs"):
        open_items(str(tmp_path), "test", (), None)
    with pytest.raises(UsageError, match="neither a local folder"):
        open_items(str(tmp_path / "nowhere"), "test", (), None)
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "one" / name, clip())
    with pytest.raises(UsageError, match="only given"):
        PairItems(str(tmp_path), ("mp3_1",), None)


def test_item_sources_can_be_pickled(undisturbed: Path) -> None:
    items = ShardItems(str(undisturbed), "valid", (), None)
    again = pickle.loads(pickle.dumps(items))  # noqa: S301 - bytes of our own
    assert again.items == items.items
    assert [type(one) for one in load(again, "mp3_24000")] == [EvaluationItem] * len(items.items)
