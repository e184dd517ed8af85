"""Rendering: mixes worked out by hand, full scale kept, and a recipe that fails is named in the commit."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.rejects import AudioError, RejectError
from pipelines import schema
from pipelines.audio.codec import CodecConfig, CodecError, decode
from pipelines.dataset.plan import planned_shards
from pipelines.dataset.shards import ShardsConfig, find_damaged_shards, read_commits
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.mixing import MixSource, mix
from pipelines.preprocess.plan_writer import write_recipes
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import RenderTask, ShardRenderer, cpu_seconds, to_16_bit, to_flac
from pipelines.runtime.versions import software_versions
from pipelines.schema import EXCERPT_FRAMES
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes

RATE = 44_100
CODEC = CodecConfig(bitrates_bps=(32_000, 128_000))


class FakeReader:
    """Gives constant samples, or an error, by source."""

    def __init__(self, values: dict[str, float | Exception]) -> None:
        self.values = values
        self.asked: list[tuple[int, int]] = []

    def read(self, files: Sequence[str], start: int, frames: int) -> NDArray[np.float32]:
        self.asked.append((start, frames))
        value = self.values[files[0]]
        if isinstance(value, Exception):
            raise value
        return np.full((frames, 2), value, np.float32)


def _mix(values: dict[str, float | Exception], **gains: float) -> NDArray[np.float32]:
    components = [{"source_id": name, "start": 4_410, "gain_db": gain} for name, gain in gains.items()]
    reader = FakeReader(values)
    sources = {name: MixSource([name]) for name in values}  # type: ignore[list-item]
    mixed = mix(components, sources, reader)  # type: ignore[arg-type]
    assert reader.asked == [(4_410, EXCERPT_FRAMES)] * len(components)
    assert (mixed.bandwidth_hz, mixed.stored_bandwidth_hz) == (np.inf, None)
    return mixed.samples


def test_mix_is_the_sum_at_the_gains() -> None:
    total = _mix({"a": 0.1, "b": -0.02, "c": 0.5}, a=0.0, b=20.0, c=-20.0)
    assert total.shape == (EXCERPT_FRAMES, 2)
    assert np.allclose(total, 0.1 - 0.2 + 0.05, rtol=0, atol=1e-7)


def test_mix_may_exceed_full_scale() -> None:
    assert _mix({"a": 0.9, "b": 0.9}, a=10.0, b=0.0).max() == pytest.approx(0.9 * 10**0.5 + 0.9, rel=1e-6)


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"a": 0.5, "b": AudioError("x.wav: ends early")}, r"x\.wav: ends early"),
        ({"a": 0.5, "b": -0.5}, "the mix is silent"),
        ({"a": 0.0, "b": 1e-6}, "the mix is silent"),
        ({"a": 0.5, "b": float("nan")}, "non-finite"),
        ({"a": 0.5, "b": float("-inf")}, "non-finite"),
    ],
)
def test_mix_that_cannot_be_used_is_rejected_with_the_reason(
    values: dict[str, float | Exception], reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        _mix(values, a=0.0, b=0.0)


@pytest.mark.parametrize("peak", [0.25, 1.0 - 1 / 32_768])
def test_samples_below_full_scale_are_rounded_and_not_scaled(peak: float) -> None:
    samples = np.array([[peak, -peak / 2], [0.4 / 32_768, -0.6 / 32_768]], np.float32)
    rounded, gain_db = to_16_bit(samples)
    assert rounded.dtype == np.int16
    assert gain_db == 0
    assert rounded.tolist() == [[round(peak * 32_768), round(-peak * 16_384)], [0, -1]]


@pytest.mark.parametrize("peak", [1.0, 1.5, -2.5, 40.0])
def test_samples_at_and_over_full_scale_are_scaled_to_it_without_clipping(peak: float) -> None:
    samples = np.linspace(0, peak, 2_000, dtype=np.float32).reshape(-1, 2)
    rounded, gain_db = to_16_bit(samples)
    assert gain_db == pytest.approx(20 * np.log10(32_767 / 32_768 / abs(peak)), abs=1e-6)
    assert int(np.abs(rounded.astype(int)).max()) == 32_767
    assert (np.abs(rounded.astype(int)) == 32_767).sum() == 1  # one peak, no plateau
    assert rounded / 32_768 == pytest.approx(samples * 10 ** (gain_db / 20), abs=0.51 / 32_768)


def test_silence_is_not_scaled() -> None:
    rounded, gain_db = to_16_bit(np.zeros((10, 2), np.float32))
    assert not rounded.any()
    assert gain_db == pytest.approx(0, abs=1e-3)


def test_flac_holds_the_very_samples() -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_768, (5_000, 2), np.int16)
    content = to_flac(samples)
    info = soundfile.info(io.BytesIO(content))
    assert (info.samplerate, info.format, info.subtype) == (RATE, "FLAC", "PCM_16")
    assert np.array_equal(soundfile.read(io.BytesIO(content), dtype="int16")[0], samples)
    assert to_flac(samples) == content


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with three songs of two stems, planned: 5 train recipes in shards of 3."""
    output = tmp_path_factory.mktemp("planned")
    rows, segments = [], {}
    for number in range(3):
        for stem in ("drums", "vocals"):
            path = output / f"{number}-{stem}.wav"
            noise = np.random.default_rng((number, len(stem))).normal(0, 0.2, (6 * RATE, 2))
            soundfile.write(path, noise, RATE, subtype="FLOAT")
            file = {"path": str(path), "readable": str(path), "scale": 1.0, "channels": 2, "frames": 6 * RATE}
            row = {"source_id": f"{number}/{stem}", "stem": stem, "group_id": str(number), "files": [file]}
            rows.append(row)
            segments[row["source_id"]] = [[0, 6 * RATE, -14.0, (1 << 31) - 1]]
    folder = Folder(str(output))
    folder.write("sources.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema.SOURCES)))
    config = RecipesConfig(train=5, valid=0, test_per_category=0, max_components=3)
    write_recipes(folder, {"train": Catalog.of(rows, segments)}, config, seed=0, shard_rows=3)
    return output


def _renderer(output: Path, **versions: str) -> ShardRenderer:
    known = software_versions(None) | versions
    return ShardRenderer(RenderTask(str(output), "", CODEC, ShardsConfig(rows=3, row_group_rows=2), known))


def _tasks() -> list[dict[str, Any]]:
    return planned_shards({"shard_rows": 3, "splits": {"train": {"recipes": 5, "first_group": 0}}})


def test_shard_rows_match_their_recipes(planned: Path) -> None:
    renderer = _renderer(planned)
    assert [renderer(task)["rows"] for task in _tasks()] == [3, 2]
    output = Folder(str(planned))
    recipes = pq.read_table(planned / "recipes.parquet").to_pylist()
    commits = read_commits(output)
    assert find_damaged_shards(output, commits.values(), content=True) == []
    assert commits["train", 0].bitrates_bps == {"mp3_32000": [32_000], "mp3_128000": [128_000]}
    assert commits["train", 0].cpu_seconds > 0
    rows = [row for n in (0, 1) for row in pq.read_table(planned / schema.shard_path("train", n)).to_pylist()]
    for row, recipe in zip(rows, recipes, strict=True):
        assert (row["recipe_id"], row["components"]) == (recipe["recipe_id"], recipe["components"])
        expected = np.zeros((EXCERPT_FRAMES, 2))
        for component in recipe["components"]:
            number, stem = component["source_id"].split("/")
            source = soundfile.read(planned / f"{number}-{stem}.wav")[0]
            excerpt = source[component["start"] : component["start"] + EXCERPT_FRAMES]
            expected += excerpt * 10 ** (component["gain_db"] / 20)
        clean = decode(row["clean"], frames=EXCERPT_FRAMES)
        scale = min(1.0, 32_767 / 32_768 / np.abs(expected).max())
        assert np.abs(clean - expected * scale).max() < 1 / 32_768
        assert row["mix_gain_db"] == pytest.approx(20 * np.log10(scale), abs=1e-3)
        assert (row["frames"], row["sample_rate"]) == (EXCERPT_FRAMES, RATE)
        assert row["stems"] == [component["stem"] for component in recipe["components"]]
        for name in CODEC.columns:
            decode(row[name], frames=EXCERPT_FRAMES)
            assert 0.7 < row[f"{name}_gain"] < 1.1


def test_rows_store_how_far_their_mix_is_known(planned: Path, tmp_path: Path) -> None:
    renderer, recipe = _renderer(planned), _recipes(planned)[0]
    assert renderer.render_recipe(recipe)["bandwidth_hz"] is None  # not measured: known completely
    limits = (19_000.0, 17_000.0, 16_500.0)
    for part, limit in zip(recipe["components"], limits, strict=False):  # noise, strong at every frequency
        known = renderer._sources[part["source_id"]]
        renderer._sources[part["source_id"]] = known._replace(bandwidth_hz=limit)
    assert renderer.render_recipe(recipe)["bandwidth_hz"] == min(limits[: len(recipe["components"])])


def test_shard_made_again_by_another_renderer_has_the_same_bytes(planned: Path) -> None:
    first = _renderer(planned)
    first(_tasks()[0])
    content = (planned / schema.shard_path("train", 0)).read_bytes()
    second = _renderer(planned)
    second(_tasks()[1])  # in another order
    second(_tasks()[0])
    assert (planned / schema.shard_path("train", 0)).read_bytes() == content


def _recipes(planned: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(planned / "recipes.parquet").to_pylist()
    return rows


def test_recipe_whose_source_broke_is_named_in_the_commit_and_the_others_are_made(planned: Path) -> None:
    renderer = _renderer(planned)
    recipes = _recipes(planned)[:3]
    broken = {"readable": str(planned / "gone.wav"), "frames": 9 * RATE, "scale": 1.0}
    recipes[1]["components"] = [recipes[1]["components"][0] | {"source_id": "broken"}]
    renderer._sources["broken"] = MixSource([broken])
    commit = renderer.render("valid", 0, recipes)
    assert commit.rows == 2
    ((reject),) = commit.rejected
    assert reject["recipe_id"] == recipes[1]["recipe_id"]
    assert "gone.wav" in reject["reason"]
    rows = pq.read_table(planned / schema.shard_path("valid", 0)).to_pylist()
    assert [row["recipe_id"] for row in rows] == [recipes[0]["recipe_id"], recipes[2]["recipe_id"]]


class FailingEncoder:
    """Fails so many times, then goes over to a real encoder."""

    def __init__(self, encoder: Any, failures: int, error: Exception) -> None:
        self.encoder, self.failures, self.error = encoder, failures, error

    def encode(self, clean: NDArray[np.int16]) -> Any:
        self.failures -= 1
        if self.failures >= 0:
            raise self.error
        return self.encoder.encode(clean)


@pytest.mark.parametrize("error", [FfmpegError("ffmpeg was killed"), CodecError("wrong length")])
def test_encoder_that_fails_once_is_tried_again_and_twice_is_a_reject(
    planned: Path, error: Exception
) -> None:
    recipe = _recipes(planned)[0]
    renderer = _renderer(planned)
    whole = renderer.render_recipe(recipe)
    encoder = renderer._encoder
    renderer._encoder = FailingEncoder(encoder, 1, error)
    assert renderer.render_recipe(recipe) == whole
    renderer._encoder = FailingEncoder(encoder, 2, error)
    with pytest.raises(RejectError, match=f"encoder: {error}"):
        renderer.render_recipe(recipe)


def test_shard_of_rejects_alone_is_a_commit_without_a_file(planned: Path) -> None:
    renderer = _renderer(planned)
    renderer._encoder = FailingEncoder(None, 99, CodecError("wrong length"))
    commit = renderer.render("test", 9, _recipes(planned)[:2])
    assert (commit.rows, commit.bytes) == (0, 0)
    assert [reject["kind"] for reject in commit.rejected] == ["encoder", "encoder"]
    assert not (planned / schema.shard_path("test", 9)).exists()
    assert (planned / schema.commit_path("test", 9)).exists()


def test_node_of_other_versions_does_not_take_part(planned: Path) -> None:
    with pytest.raises(RuntimeError, match=r"arrow was '0\.1', is"):
        _renderer(planned, arrow="0.1")


def test_processor_time_counts_ended_children(planned: Path) -> None:
    renderer, recipe = _renderer(planned), _recipes(planned)[0]
    before = cpu_seconds()
    renderer.render_recipe(recipe)
    assert cpu_seconds() - before > 0.02  # encoding 3 s twice costs more than that anywhere
