"""The loader: the order's rows, decoded and levelled, by any number of workers, with threads that end."""

import gc
import itertools
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from apollo import rng
from apollo.training.augmentation import LevelsConfig, find_peak, set_levels
from apollo.training.data import Example, collate
from pipelines import schema
from pipelines.audio import codec
from pipelines.dataset.sampling import RowRef
from pipelines.dataset.shard_reader import EncodedRow
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.storage.folder import Folder
from tests.support import shard_outputs

PLAIN = LevelsConfig(mode="paper")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shard_outputs.write(tmp_path_factory.mktemp("loader"), 5, 4, 0, 3)
    return shard_outputs.write(folder, 4, 1, split="valid")


def _source(output: Path, **changes: object) -> ShardSource:
    config = {"window_shards": 2, "look_ahead": 3} | changes
    return ShardSource(str(output), LoaderConfig(**config), epoch_examples=10, seed=1)


def _names(examples: list[Example]) -> list[str]:
    return [example.name for example in examples]


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("fetch", "decode"))}


def test_pass_holds_every_row_once(output: Path) -> None:
    names = _names(list(_source(output).read(0, range(12))))
    assert {name.partition("/")[0] for name in names} == shard_outputs.ids({0: 5, 1: 4, 3: 3})
    assert {name.partition("/")[2] for name in names} <= set(shard_outputs.DEGRADATIONS)


def test_epochs_follow_each_other_in_the_passes(output: Path) -> None:
    source = _source(output)
    stream = _names(list(source.read(0, range(36))))
    assert _names(list(source.read(1, range(10)))) == stream[10:20]
    assert _names(list(source.read(2, range(10)))) == stream[20:30]


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_together_read_what_one_reads(output: Path, workers: int) -> None:
    alone = list(_source(output).read(1, range(16)))
    shares = [list(_source(output).read(1, range(rank, 16, workers))) for rank in range(workers)]
    for position, example in enumerate(alone):
        other = shares[position % workers][position // workers]
        assert other.name == example.name
        assert torch.equal(other.clean, example.clean) and torch.equal(other.degraded, example.degraded)


def test_reading_from_the_middle_yields_the_rest(output: Path) -> None:
    source = _source(output)
    assert _names(list(source.read(0, range(20))))[13:] == _names(list(source.read(0, range(13, 20))))


def test_degradations_are_drawn_again_in_every_pass_and_uniformly(output: Path) -> None:
    source = _source(output)
    drawn = [source._degradation(RowRef(index, 0, 0)) for index in range(1200)]
    counts = [drawn.count(name) for name in shard_outputs.DEGRADATIONS]
    assert sum(counts) == 1200 and all(335 < count < 465 for count in counts)  # 400, four deviations of 16
    passes = [
        dict(name.split("/") for name in _names(list(source.read(0, range(s, s + 12))))) for s in (0, 12)
    ]
    assert passes[0] != passes[1] and passes[0].keys() == passes[1].keys()


def test_only_configured_degradations_are_read(output: Path) -> None:
    names = _names(list(_source(output, degradations=("mp3_64000",)).read(0, range(12))))
    assert {name.partition("/")[2] for name in names} == {"mp3_64000"}


def test_samples_are_the_decoded_ones_at_the_published_level(output: Path) -> None:
    for example in _source(output, levels=PLAIN).read(0, range(12)):
        recipe, degradation = example.name.split("/")
        row = shard_outputs.make_row("train", *map(int, recipe.split(".")[1:]))
        clean = codec.decode(row["clean"], frames=row["frames"]).T
        degraded = codec.decode(row[degradation], frames=row["frames"]).T
        peak = max(np.abs(clean).max(), np.abs(degraded).max())
        np.testing.assert_allclose(example.clean, clean / peak, atol=1e-6)
        np.testing.assert_allclose(example.degraded, degraded / peak, atol=1e-6)


@pytest.mark.parametrize("version, edges", [(2, [math.inf, 16_000.0]), (1, [math.inf, math.inf])])
def test_examples_know_how_far_their_clean_audio_is_known(
    tmp_path: Path, version: int, edges: list[float]
) -> None:
    for split in ("train", "valid"):
        rows = [shard_outputs.make_row(split, 0, row, bandwidth_hz=(None, 16_000)[row]) for row in range(2)]
        shard_outputs.write_shard(tmp_path, split, 0, rows, version=version)
    for source in (_source(tmp_path), ValidationSource(str(tmp_path))):
        found = {example.name[-12:].partition("/")[0][-1]: example for example in source.read(0, range(2))}
        assert [found[row].bandwidth_hz for row in "01"] == edges
        together = collate([found["0"], found["1"]]).bandwidth_hz
        assert together is None if version == 1 else together.tolist() == edges


def test_default_examples_are_whole_stereo_rows_with_their_levels(output: Path) -> None:
    """Bit for bit what they were before rows had pieces and channels."""
    source = _source(output)
    for index, example in enumerate(source.read(0, range(12))):
        recipe, degradation = example.name.split("/")
        row = shard_outputs.make_row("train", *map(int, recipe.split(".")[1:]))
        pair = [
            torch.from_numpy(codec.decode(row[name], frames=row["frames"]).T.copy())
            for name in ("clean", degradation)
        ]
        gain = float(np.float32(row[f"{degradation}_gain"]))
        clean, degraded = set_levels(
            *pair, gain=gain, config=LevelsConfig(), seed=1, index=index, sample_rate=44_100
        )
        assert torch.equal(example.clean, clean) and torch.equal(example.degraded, degraded)


def test_pieces_are_cut_where_the_index_says(output: Path) -> None:
    """Row and degradation stay those of the whole rows; the level, here that of the paper, is the piece's."""
    whole = list(_source(output, levels=PLAIN).read(1, range(12)))
    pieces = list(_source(output, levels=PLAIN, piece_seconds=0.5).read(1, range(12)))
    assert _names(pieces) == _names(whole)
    starts = []
    for position, (piece, row) in enumerate(zip(pieces, whole, strict=True)):
        start = rng.integer_below(132_300 - 22_050 + 1, 4 * (10 + position), 1, "piece")
        for found, expected in ((piece.clean, row.clean), (piece.degraded, row.degraded)):
            cut = expected[:, start : start + 22_050]
            peak = max(find_peak(one[:, start : start + 22_050]) for one in (row.clean, row.degraded))
            torch.testing.assert_close(found, cut / peak, atol=1e-6, rtol=0)
        starts.append(start)
    assert len(set(starts)) == 12


@pytest.mark.parametrize("workers", [2, 5])
def test_pieces_do_not_depend_on_workers_or_resuming(output: Path, workers: int) -> None:
    changes = {"piece_seconds": 1.5, "levels": LevelsConfig(channels="mono")}
    alone = list(_source(output, **changes).read(1, range(16)))
    shares = [list(_source(output, **changes).read(1, range(rank, 16, workers))) for rank in range(workers)]
    resumed = list(_source(output, **changes).read(1, range(9, 16)))
    for position, example in enumerate(alone):
        assert example.clean.shape == example.degraded.shape == (1, 66_150)
        others = [shares[position % workers][position // workers], *resumed[position - 9 :][: position >= 9]]
        for other in others:
            assert other.name == example.name
            assert torch.equal(other.clean, example.clean) and torch.equal(other.degraded, example.degraded)


def test_validation_has_whole_stereo_rows_whatever_the_pieces_of_training(output: Path) -> None:
    config = LoaderConfig(piece_seconds=0.5, levels=LevelsConfig(channels="mono"))
    for found, expected in zip(
        ValidationSource(str(output), config).read(0, range(5)),
        ValidationSource(str(output)).read(0, range(5)),
        strict=True,
    ):
        assert torch.equal(found.clean, expected.clean) and torch.equal(found.degraded, expected.degraded)


def test_gain_compensated_pairs_have_one_level_and_no_lag(output: Path) -> None:
    source = _source(output, degradations=("mp3_128000",))
    for clean, degraded in ((e.clean, e.degraded) for e in source.read(0, range(12))):
        assert clean.shape == degraded.shape == (schema.CHANNELS, schema.EXCERPT_FRAMES)
        assert max(find_peak(clean), find_peak(degraded)) <= 1 + 1e-6
        spectra = torch.fft.rfft(clean), torch.fft.rfft(degraded)
        assert int(torch.fft.irfft(spectra[0] * spectra[1].conj()).sum(0).argmax()) == 0
        low = slice(300, 30_000)  # 100 Hz to 10 kHz, which 128 kbps keeps
        kept, coded = spectra[0][:, low], spectra[1][:, low]
        projection = ((kept.conj() * coded).real.sum() / kept.abs().square().sum()).item()
        assert projection == pytest.approx(1, abs=0.02)


def test_examples_can_be_collated(output: Path) -> None:
    batch = collate(_source(output).read(0, range(4)))
    assert batch.clean.shape == (4, schema.CHANNELS, schema.EXCERPT_FRAMES)
    assert batch.clean.dtype == torch.float32 and batch.clean.is_contiguous()


def test_look_ahead_is_bounded(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.loading import shard_source

    made: list[str] = []
    make = shard_source.make_training_example

    def counted(stored: EncodedRow, *arguments: object, **options: object) -> Example:
        made.append(stored.recipe_id)
        return make(stored, *arguments, **options)

    monkeypatch.setattr(shard_source, "make_training_example", counted)
    examples = _source(output, look_ahead=2).read(0, range(1000))
    for _ in range(4):
        next(examples)
    time.sleep(0.3)
    assert 4 <= len(made) <= 4 + 2 + 1
    examples.close()


def test_every_row_group_is_read_once_a_window(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    reads: list[tuple[int, tuple[str, ...]]] = []
    read = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, columns: list[str], **options: object) -> object:
        reads.append((group, tuple(columns)))
        return read(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    list(_source(output, degradations=("mp3_24000",)).read(0, range(12)))
    assert len(reads) == 3 + 2 + 2  # shards of 5, 4 and 3 rows in groups of 2
    assert {columns for _, columns in reads} == {
        ("recipe_id", "frames", "bandwidth_hz", "clean", "mp3_24000", "mp3_24000_gain")
    }


def _fail_over(examples: Iterator[Example]) -> None:
    for example in examples:
        raise KeyError(example.name)


@pytest.mark.parametrize("end", ["close", "forget", "fail"])
def test_threads_end_with_the_iterator_in_the_middle_of_an_epoch(output: Path, end: str) -> None:
    examples = _source(output).read(0, range(10_000))
    next(examples)
    assert _threads()
    if end == "close":
        examples.close()
    elif end == "fail":
        with pytest.raises(KeyError):
            _fail_over(examples)
    del examples
    gc.collect()
    assert not _threads()


def test_iterator_that_is_never_started_starts_no_thread(output: Path) -> None:
    examples = _source(output).read(0, range(10))
    assert not _threads()
    del examples


def test_two_iterators_of_one_source_do_not_disturb_each_other(output: Path) -> None:
    source = _source(output)
    pairs = list(zip(source.read(0, range(8)), source.read(0, range(1, 9)), strict=True))
    assert [b.name for _, b in pairs[:-1]] == [a.name for a, _ in pairs[1:]]


@pytest.mark.parametrize("positions", [[1, 1], [2, 1], [-1, 0]])
def test_positions_that_do_not_rise_are_refused(output: Path, positions: list[int]) -> None:
    with pytest.raises(ValueError, match="must increase"):
        list(_source(output).read(0, positions))


def test_no_positions_are_no_examples(output: Path) -> None:
    assert list(_source(output).read(3, [])) == []


def test_validation_is_fixed_and_as_decoded(output: Path) -> None:
    source = ValidationSource(str(output))
    examples = list(source.read(0, range(len(source))))
    assert len(source) == 5
    rows = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    expected = [
        f"{shard_outputs.recipe_id('valid', *row)}/{shard_outputs.DEGRADATIONS[i % 3]}"
        for i, row in enumerate(rows)
    ]
    assert _names(examples) == expected == _names(list(source.read(7, range(5))))
    for example, (shard, number) in zip(examples, rows, strict=True):
        row = shard_outputs.make_row("valid", shard, number)
        degraded = codec.decode(row[example.name.partition("/")[2]], frames=row["frames"]).T
        assert np.array_equal(example.degraded, degraded)
        assert np.array_equal(example.clean, codec.decode(row["clean"], frames=row["frames"]).T)


def test_validation_ends_at_its_limit(output: Path) -> None:
    assert len(ValidationSource(str(output), limit=3)) == 3
    assert len(ValidationSource(str(output), limit=30)) == 5
    with pytest.raises(ValueError, match="limit"):
        ValidationSource(str(output), limit=0)


def test_unknown_degradation_is_an_error_with_the_available_ones(output: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no degradation mp3_1; available: mp3_24000, mp3_64000, mp3_128000"
    ):
        _source(output, degradations=("mp3_1",))


def test_split_without_rows_is_refused(output: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no committed row of the split test"):
        ValidationSource(str(output), split="test")
    with pytest.raises(UsageError, match="no committed row"):
        ValidationSource(str(shard_outputs.write(tmp_path, 0, split="valid")))


def test_shards_without_commits_do_not_count(tmp_path: Path) -> None:
    shard_outputs.write(tmp_path, 2, 2)
    Folder(str(tmp_path)).delete(schema.commit_path("train", 1))
    names = _names(list(_source(tmp_path).read(0, range(4))))
    assert {name.partition("/")[0] for name in names} == shard_outputs.ids({0: 2})


def test_output_that_is_still_being_made_is_refused(tmp_path: Path) -> None:
    shard_outputs.write(tmp_path, 2, 2)
    plan = {"shard_rows": 2, "splits": {"train": {"recipes": 6, "first_group": 0}}}
    Folder(str(tmp_path)).write("plan.json", json.dumps(plan).encode())
    with pytest.raises(UsageError, match=r"1 of 3 shards .* the first is train-00002"):
        _source(tmp_path)


def test_fingerprint_depends_on_shards_and_degradations(output: Path, tmp_path: Path) -> None:
    same = _source(output).fingerprint
    assert _source(output, window_shards=1).fingerprint == same
    assert _source(output, degradations=("mp3_24000",)).fingerprint != same
    assert _source(shard_outputs.write(tmp_path, 5, 4)).fingerprint != same


def test_output_of_preprocess_is_read(undisturbed: Path) -> None:
    source = ShardSource(str(undisturbed), epoch_examples=20)
    examples = list(itertools.islice(source.read(0, range(20)), 20))
    assert len({example.name.partition("/")[0] for example in examples}) == 20
    assert source.degradations == ("mp3_24000", "mp3_128000")
    assert len(ValidationSource(str(undisturbed))) == 4


def test_location_may_be_a_uri(output: Path) -> None:
    named = ShardSource(output.as_uri(), LoaderConfig(window_shards=2), epoch_examples=10, seed=1)
    assert _names(list(named.read(0, range(12)))) == _names(list(_source(output).read(0, range(12))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_shards": 0},
        {"piece_seconds": -1.0},
        {"piece_seconds": 0.01},
        {"piece_seconds": 3.5},
        {"look_ahead": 0},
        {"decode_threads": 0},
        {"fetch_threads": -1},
        {"corrupt": "ignore"},
        {"max_corrupt_share": 1.0},
        {"max_corrupt_share": -0.1},
    ],
)
def test_configuration_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoaderConfig(**wrong)


def test_epoch_needs_examples(output: Path) -> None:
    with pytest.raises(ValueError, match="epoch_examples"):
        ShardSource(str(output), epoch_examples=0)


def test_real_recordings_decode_to_aligned_pairs(recordings: Path, tmp_path: Path) -> None:
    """A shard of real music, made here from the first seconds of some songs."""
    from pipelines.audio.codec import CodecConfig, Encoder
    from pipelines.preprocess.render import to_flac

    rows = []
    for number, path in enumerate(sorted(recordings.rglob("clean.flac"))[:3]):
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True, frames=schema.EXCERPT_FRAMES)
        if rate != schema.SAMPLE_RATE or samples.shape != (schema.EXCERPT_FRAMES, schema.CHANNELS):
            continue
        row = shard_outputs.make_row("train", 0, number, clean=to_flac(samples))
        for name, made in Encoder(CodecConfig(bitrates_bps=shard_outputs.BITRATES)).encode(samples).items():
            row |= {name: made.stream, f"{name}_gain": made.gain}
        rows.append(row)
    if not rows:
        pytest.skip("no stereo recording at 44.1 kHz of 3 s")
    shard_outputs.write_shard(tmp_path, "train", 0, rows)
    for example in _source(tmp_path, degradations=("mp3_128000",)).read(0, range(len(rows))):
        error = (example.clean - example.degraded).norm() / example.clean.norm()
        assert error < 0.2
