"""Whole runs on a small data set and the session's Ray: what comes out, and what a second run does."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipelines import schema
from pipelines.audio.codec import decode
from pipelines.audio.reading import SourceReader
from pipelines.preprocess.mixing import mix, read_sources
from pipelines.preprocess.musdb import MUSDB
from pipelines.preprocess.render import to_16_bit
from pipelines.preprocess.run import estimate, preprocess, status
from pipelines.runtime.outcome import Exit
from pipelines.storage.folder import Folder
from tests.support import invariants
from tests.support.datasets import arguments, config


def test_undisturbed_run_is_complete(undisturbed: Path) -> None:
    assert invariants.check(undisturbed) == {}


def test_shards_have_the_documented_schema(undisturbed: Path) -> None:
    for path in invariants.shards(undisturbed).values():
        assert pq.read_schema(path).equals(schema.shards(("mp3_24000", "mp3_128000")), check_metadata=False)
        assert pq.ParquetFile(path).metadata.row_group(0).num_rows == 2


def test_clean_is_the_mix_of_the_recipe(undisturbed: Path) -> None:
    sources = read_sources(Folder(str(undisturbed)))
    for row in pq.read_table(undisturbed / "train/shard-00000.parquet").to_pylist():
        mixed = mix(row["components"], sources, SourceReader())
        expected, gain_db = to_16_bit(mixed.samples)
        clean, rate = soundfile.read(io.BytesIO(row["clean"]), dtype="int16")
        np.testing.assert_array_equal(clean, expected)
        assert (rate, row["sample_rate"], row["frames"]) == (44_100, 44_100, 132_300)
        assert row["mix_gain_db"] == pytest.approx(gain_db)
        assert row["bandwidth_hz"] == mixed.stored_bandwidth_hz
        assert row["stems"] == [part["stem"] for part in row["components"]]


def test_every_bitstream_is_aligned_and_honest_about_itself(undisturbed: Path) -> None:
    real = {"mp3_24000": 32_000, "mp3_128000": 128_000}
    for path in invariants.shards(undisturbed).values():
        for row in pq.read_table(path).to_pylist():
            clean = decode(row["clean"], frames=row["frames"])
            for name, bitrate_bps in real.items():
                degraded = decode(row[name], frames=row["frames"])
                assert row[f"{name}_bitrate_bps"] == bitrate_bps
                assert 0.85 < row[f"{name}_gain"] < 1.0
                lag = np.fft.irfft(
                    np.fft.rfft(degraded[:, 0], 1 << 19) * np.fft.rfft(clean[:, 0], 1 << 19).conj()
                )
                assert int(np.argmax(lag)) == 0


def test_no_song_is_in_two_splits(undisturbed: Path) -> None:
    rows = pq.read_table(undisturbed / "sources.parquet").to_pylist()
    of_song: dict[str, set[str]] = {}
    for row in rows:
        of_song.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in of_song.values())
    split_of = {row["source_id"]: row["split"] for row in rows}
    for name, path in invariants.shards(undisturbed).items():
        for row in pq.read_table(path, columns=["components", "split"]).to_pylist():
            assert name.startswith(row["split"])
            assert {split_of[part["source_id"]] for part in row["components"]} == {row["split"]}
    assert split_of[f"{MUSDB}/Artist 3 - Song 3/drums"] == "test"


def test_a_second_run_changes_nothing(undisturbed: Path, data: Path) -> None:
    before = invariants.times(undisturbed)
    outcome = preprocess(config(data, undisturbed))
    assert outcome.code == Exit.DONE
    assert "nothing to do" in outcome.message
    assert invariants.times(undisturbed) == before


def test_the_command_line_gives_the_same_plan_and_status(undisturbed: Path, data: Path) -> None:
    """A second run from the command line starts no Ray, so it answers in seconds."""
    command = [sys.executable, "jobs/preprocess.py", *arguments(data, undisturbed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr
    shown = subprocess.run(
        [*command, "--status"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "train 5 of 5 shards, 20 of 20 recipes committed, 0 rejected" in shown
    assert shown.strip() == status(str(undisturbed))


def test_dry_run_prints_an_estimate_and_writes_no_file(data: Path, tmp_path: Path) -> None:
    text = estimate(config(data, tmp_path / "shards"))
    assert "4 with 20 tracks" in text
    assert "36 at most (train 20, valid 4, test 12)" in text
    assert not (tmp_path / "shards").exists()


def test_the_report_counts_what_is_there(undisturbed: Path) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    assert (report["planned"], report["committed"], report["rejected"]) == (36, 36, 0)
    assert report["categories"]["test"] == dict.fromkeys(schema.CATEGORIES[:-1], 3) | {"song": 0}
    assert report["bytes"] == sum(path.stat().st_size for path in invariants.shards(undisturbed).values())
    assert report["source_hours"]["test"]["mixture"] == pytest.approx(9 / 3600, abs=1e-4)
    page = (undisturbed / "report.html").read_text()
    assert page.count("<audio") >= 4
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--recipes.train", "-1"], 2),
        (["--no-such-option", "1"], 2),
        (["--verify", "hope"], 2),
        (["--codec.bitrates_bps", "[24]"], 2),
    ],
)
def test_bad_arguments_end_with_2(data: Path, tmp_path: Path, more: list[str], expected: int) -> None:
    command = [sys.executable, "jobs/preprocess.py", *arguments(data, tmp_path / "out", *more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "result.json"}
    assert json.loads((tmp_path / "out/result.json").read_text())["status"] == "usage"
