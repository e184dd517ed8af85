"""Restoring on a cluster: the results of the command, continued, claimed, on disks and object stores."""

import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mutagen
import numpy as np
import pyarrow.fs as pafs
import pytest
import soundfile
import torch

from apollo.__main__ import main
from apollo.audio.formats import SongsConfig
from apollo.checkpoints import checkpoint
from apollo.cli.options import PARTLY
from jobs import restore as job
from pipelines.cluster import connection
from pipelines.errors import UsageError
from pipelines.registry.model_bundle import ModelBundle, pack
from pipelines.restoration import actor as restorer
from pipelines.restoration import songs as songs_module
from pipelines.restoration.actor import RestoreSettings, SongRestorer
from pipelines.restoration.records import SongRecord, split_pending, write_record
from pipelines.restoration.run import restore
from pipelines.restoration.songs import SongTask, find_songs
from pipelines.runtime.outcome import Exit
from pipelines.runtime.run import FINGERPRINT
from pipelines.storage import folder
from pipelines.storage.folder import Folder
from tests.support import invariants
from tests.support import restoration_jobs as jobs
from tests.support.datasets import encode, music, write


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.save_generator(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.write_album(tmp_path_factory.mktemp("album"))


@pytest.fixture(scope="module")
def done(ray_address: str, album: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of the album, its bad songs included."""
    output = tmp_path_factory.mktemp("done") / "out"
    outcome = restore(jobs.config(album, output, weights))
    assert outcome.code == Exit.REJECTS, outcome.message
    assert outcome.message == "5 restored, 2 failed; the reasons are in rejects.jsonl"
    return output


def test_results_are_those_of_the_command(
    done: Path, album: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many threads as an actor has: more may round sums in another order."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(1)
    options = ["--checkpoint", str(weights), "--device", "cpu", "--precision", "float32"]
    try:
        assert main(["restore", str(album), "-o", str(tmp_path / "out"), *options]) == PARTLY
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, handler)
    expected, found = jobs.samples(tmp_path / "out"), jobs.samples(done)
    assert set(found) == set(expected) == jobs.GOOD
    for name, samples in expected.items():
        np.testing.assert_array_equal(found[name], samples, err_msg=name)
    untouched, _ = soundfile.read(album / "a.wav", dtype="float32")
    assert np.abs(found["a.wav"] - untouched).max() > 1e-3, "the generator changes nothing"


def test_25_good_songs_are_restored_and_bad_ones_listed(done: Path, album: Path) -> None:
    said = jobs.outcomes(done)
    assert {name for name, line in said.items() if line["status"] == "failed"} == jobs.BAD
    assert {line["name"] for line in said.values() if line["status"] == "restored"} == jobs.GOOD
    assert set(jobs.outcomes(done, "rejects.jsonl")) == jobs.BAD
    assert said["empty.wav"]["reason"] == "the file is empty"
    assert "frames are missing" in said["cut.mp3"]["warnings"][0]
    assert (said["a.wav"]["device"], said["a.wav"]["precision"]) == ("cpu", "float32")
    assert (said["c.wav"]["channels"], said["c.wav"]["samples"]) == (1, 44_100)
    result = jobs.result(done)
    assert (result["status"], result["exit_code"]) == ("rejects", 3)
    assert (result["songs"], result["restored"], result["failed"]) == (7, 5, 2)


def test_rerun_restores_only_what_changed(
    in_process_actors: None, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs, output = tmp_path / "songs", tmp_path / "out"
    for number, name in enumerate(("a.wav", "b.wav", "c.wav", "d.wav")):
        write(songs / name, music(number, 0.2))
    config = jobs.config(songs, output, weights)
    assert restore(config).code == Exit.DONE
    before = invariants.times(output)
    with monkeypatch.context() as patch:
        patch.setattr(connection, "connect", lambda: pytest.fail("Ray was asked for"))
        again = restore(config)
    assert (again.code, again.message) == (Exit.DONE, "nothing to do: 4 restored")
    assert invariants.times(output) == before

    write(songs / "b.wav", music(9, 0.3))  # changed
    (output / "c.wav").unlink()  # lost
    write(songs / "e.wav", music(5, 0.2))  # new
    write(output / "f.wav", music(6, 0.1))  # a foreign file in the place of a result
    write(songs / "f.wav", music(6, 0.2))
    outcome = restore(config)
    assert (outcome.code, outcome.message) == (Exit.DONE, "5 restored, 1 skipped")
    assert outcome.facts["already"] == 3
    after = invariants.times(output)
    assert {name for name in ("a.wav", "b.wav", "d.wav") if after[name] != before[name]} == {"b.wav"}
    said = jobs.outcomes(output)
    assert said["b.wav"]["samples"] == 13_230
    reason = "a file of this name exists that was not restored here; --overwrite replaces it"
    assert said["f.wav"]["reason"] == reason
    assert len(soundfile.read(output / "f.wav")[0]) == 4_410
    outcome = restore(jobs.config(songs, output, weights, overwrite=True))
    assert outcome.message == "6 restored"
    assert len(soundfile.read(output / "f.wav")[0]) == 8_820


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": "clamp"},
        {"filename": "{parent}-{stem}"},
        {"strength": 0.5},
        {"seed": 7},
        {"keep_below": 9_000.0},
        {"rate": "same"},
    ],
)
def test_other_options_are_refused_and_named(
    changes: dict[str, Any], done: Path, album: Path, weights: Path
) -> None:
    before = invariants.times(done)
    outcome = restore(jobs.config(album, done, weights, **changes))
    assert outcome.code == Exit.USAGE
    assert f"{next(iter(changes))} was " in outcome.message
    assert invariants.times(done) == before


def test_an_output_of_a_release_without_strength_seed_rate_and_keep_below_is_finished(
    done: Path, in_process_actors: None, album: Path, weights: Path
) -> None:
    path = done / "fingerprint.json"
    content = path.read_bytes()
    try:
        stored = json.loads(content)
        removed = [stored.pop(name) for name in ("strength", "seed", "rate", "keep_below")]
        assert removed == [1.0, 0, "44100", None]
        path.write_text(json.dumps(stored))
        assert restore(jobs.config(album, done, weights)).facts["already"] == 5
        assert "strength was" in restore(jobs.config(album, done, weights, strength=0.5)).message
    finally:
        path.write_bytes(content)


def test_other_formats_have_the_tags_and_the_name_of_the_model(
    in_process_actors: None, weights: Path, tmp_path: Path
) -> None:
    wav = write(tmp_path / "in.wav", music(1, 0.5, 48_000), 48_000)
    song = encode(wav, tmp_path / "songs/song.mp3", "-b:a", "64k", "-metadata", "title=Title")
    config = jobs.config(song.parent, tmp_path / "out", weights, format="alac", bit_depth=16, rate="same")
    assert restore(config).code == Exit.DONE
    file = mutagen.File(tmp_path / "out/song.m4a")
    assert (file["©nam"], file.info.sample_rate) == (["Title"], 48_000)
    (note,) = file["----:com.apple.iTunes:RESTORATION"]
    assert f"model {weights.parent.name}/{weights.name}," in note.decode()


def test_a_keep_below_above_the_band_is_refused(album: Path, weights: Path, tmp_path: Path) -> None:
    outcome = restore(jobs.config(album, tmp_path / "out", weights, keep_below=22_050.0))
    assert outcome.code == Exit.USAGE
    assert "less than 22050 Hz" in outcome.message


def test_other_weights_are_refused(done: Path, album: Path, tmp_path: Path) -> None:
    outcome = restore(jobs.config(album, done, jobs.save_generator(tmp_path / "other", seed=1)))
    assert outcome.code == Exit.USAGE
    assert "weights was " in outcome.message


def test_a_result_of_another_song_is_not_replaced(done: Path, weights: Path, tmp_path: Path) -> None:
    song = write(tmp_path / "a.wav", music(8, 0.1))
    songs = jobs.config(song, done, weights).songs
    finished, left = split_pending(find_songs([str(song)], songs), Folder(str(done)), overwrite=False)
    assert not left
    (record,) = finished.values()
    assert record.status == "failed"
    assert "has the same name" in str(record.reason)


def test_only_bad_songs_is_a_failure_without_ray(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda: pytest.fail("Ray was asked for"))
    (tmp_path / "songs").mkdir()
    outcome = restore(jobs.config(tmp_path / "songs", tmp_path / "out", weights))
    assert (outcome.code, outcome.facts["failed"]) == (Exit.FAILED, 1)
    (line,) = jobs.outcomes(tmp_path / "out", "rejects.jsonl").values()
    assert line["reason"] == "no audio files in this folder"


def test_a_uri_gives_the_same_results(
    done: Path, in_process_actors: None, weights: Path, tmp_path: Path
) -> None:
    """A file:// output is written like an object store's: first to a local file, then uploaded."""
    songs = jobs.write_album(tmp_path / "ünd songs")
    output = tmp_path / "out %"
    uri = folder.join(f"file://{tmp_path}", "out %")
    outcome = restore(jobs.config(folder.join(f"file://{tmp_path}", "ünd songs"), uri, weights))
    assert outcome.code == Exit.REJECTS, outcome.message
    expected = jobs.samples(done)
    assert set(jobs.samples(output)) == jobs.GOOD
    for name, samples in jobs.samples(output).items():
        np.testing.assert_array_equal(samples, expected[name], err_msg=name)
    assert set(jobs.outcomes(output, "rejects.jsonl")) == jobs.BAD
    assert songs.is_dir()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that s3://bucket stands for in this process."""
    (tmp_path / "store/bucket").mkdir(parents=True)
    store = pafs.SubTreeFileSystem(str(tmp_path / "store"), pafs.LocalFileSystem())

    def open_store(location: str) -> tuple[pafs.FileSystem, str]:
        assert location.startswith("s3://")
        return store, unquote(location.removeprefix("s3://"))

    monkeypatch.setattr(folder, "open_filesystem", open_store)
    monkeypatch.setattr(songs_module, "open_filesystem", open_store)
    monkeypatch.setattr("pipelines.audio.reading.open_filesystem", open_store)
    return tmp_path / "store/bucket"


def test_songs_of_a_bucket_are_listed_and_named_as_those_of_a_disk(bucket: Path) -> None:
    for name in ("in/a.mp3", "in/b/a.wav", "in/b/a.flac", "in/.hidden.mp3", "in/cover.jpg", "in/out/a.wav"):
        write(bucket / name, music(1, 0.1), format="WAV")
    songs = SongsConfig(output="s3://bucket/in/out")
    tasks = find_songs(["s3://bucket/in"], songs)
    assert {song.source: song.name for song in tasks} == {
        "s3://bucket/in/a.mp3": "a.wav",
        "s3://bucket/in/b/a.wav": "b/a.wav.wav",
        "s3://bucket/in/b/a.flac": "b/a.flac.wav",
    }
    assert {song.source_bytes for song in tasks} == {(bucket / "in/a.mp3").stat().st_size}
    (single,) = find_songs(["s3://bucket/in/b/a.wav"], songs)
    assert (single.name, single.problem) == ("a.wav", None)
    (onto,) = find_songs(["s3://bucket/in/b/a.wav"], SongsConfig(output="s3://bucket/in/b"))
    assert "the output path is an input" in str(onto.problem)
    (outside,) = find_songs(["s3://bucket/in/b/a.wav"], SongsConfig(output="s3://o/x", filename="../{stem}"))
    assert "outside" in str(outside.problem)
    with pytest.raises(UsageError, match="no such file or folder"):
        find_songs(["s3://bucket/nowhere"], songs)
    with pytest.raises(UsageError, match="the output is also an input"):
        find_songs(["s3://bucket/in"], SongsConfig(output="s3://bucket/in/"))


class _Here:
    """Weights that lie in this process."""

    def __init__(self, value: ModelBundle) -> None:
        self._value = value

    def get(self) -> ModelBundle:
        return self._value


def actor(output: str, weights: Path, run: str = "this") -> SongRestorer:
    Folder(output).write(FINGERPRINT, b"{}")
    task = RestoreSettings(run, SongsConfig(output=output, overwrite=True), "cpu", "float32")
    return SongRestorer(task, _Here(pack(checkpoint.load(weights))))  # type: ignore[arg-type]


def test_object_is_downloaded_restored_and_uploaded(bucket: Path, weights: Path) -> None:
    write(bucket / "in/a ü.wav", music(1, 0.2))
    (bucket / "in/b.wav").write_bytes(b"no music")
    (bucket / "out/commits").mkdir(parents=True)  # a disk wants folders, a store does not
    worker = actor("s3://bucket/out", weights)
    tasks = find_songs(["s3://bucket/in"], SongsConfig(output="s3://bucket/out"))
    said = {song.name: worker.restore(song) for song in tasks}
    assert {name: record.status for name, record in said.items()} == {
        "a ü.wav": "restored",
        "b.wav": "failed",
    }
    assert len(soundfile.read(bucket / "out/a ü.wav")[0]) == said["a ü.wav"].samples == 8_820
    assert not (bucket / "out/b.wav").exists()
    finished, left = split_pending(tasks, Folder("s3://bucket/out"), overwrite=False)
    assert [record.name for record in finished.values()] == ["a ü.wav"]
    assert [song.name for song in left] == ["b.wav"]
    (bucket / "in/a ü.wav").unlink()
    gone = actor("s3://bucket/out", weights, "next").restore(tasks[0])
    assert (gone.status, str(gone.reason)[:16]) == ("failed", "cannot be opened")


def test_actor_without_access_to_the_output_fails(weights: Path, tmp_path: Path) -> None:
    task = RestoreSettings("this", SongsConfig(output=str(tmp_path)), "cpu", "float32")
    with pytest.raises(RuntimeError, match="cannot access"):
        SongRestorer(task, _Here(pack(checkpoint.load(weights))))  # type: ignore[arg-type]


def test_any_error_of_a_song_is_its_reason(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("so much")

    monkeypatch.setattr(restorer, "restore_songs", fail)
    record = actor(str(tmp_path), weights).restore(SongTask(source="/x.wav", name="x.wav"))
    assert (record.status, record.reason) == ("failed", "MemoryError: so much")


def test_an_actor_whose_device_fails_ends(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(restorer, "restore_songs", fail)
    monkeypatch.setattr(restorer.os, "_exit", end)
    with pytest.raises(SystemExit):
        actor(str(tmp_path), weights).restore(SongTask(source="/x.wav", name="x.wav"))
    (record,) = jobs.records(tmp_path)
    assert (record["status"], record["attempts"]) == ("begun", 1)


def test_weights_of_another_shape_or_value_have_another_digest(weights: Path) -> None:
    generator = checkpoint.load(weights)
    first = pack(generator).digest
    assert pack(checkpoint.load(weights)).digest == first
    with torch.no_grad():
        next(generator.parameters()).flatten()[0] += 1
    assert pack(generator).digest != first


def test_song_with_a_damaged_record_is_pending(album: Path, tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    write(tmp_path / "a.wav", music(1, 0.1))
    song = SongTask(source=str(album / "a.wav"), name="a.wav")
    write_record(output, SongRecord.start(song, "begun"))
    assert split_pending([song], output, overwrite=False)[1] == [song]
    (path,) = (tmp_path / "commits").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert split_pending([song], output, overwrite=False)[1] == [song]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": []}, "at least one"),
        ({"device": "mps"}, "device"),
        ({"precision": "float16"}, "precision"),
        ({"format": "wma"}, "format"),
        ({"keep_below": 0.0}, "keep_below is 0.0"),
        ({"filename": "{artist}"}, "artist"),
        ({"actors": 0}, "actors"),
    ],
)
def test_invalid_options_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        jobs.config("/songs", "/out", Path("/weights"), **changes)


def test_relative_paths_are_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match="--data 'songs' is relative"):
        jobs.config("songs", "/out", Path("/weights"))
    with pytest.raises(UsageError, match="--output 'out' is relative"):
        jobs.config("s3://bucket/songs", "out", Path("/weights"))


def test_a_dry_run_says_what_would_be_done(
    album: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(album), "--checkpoint", "nowhere", "--dry-run", "--output"]
    assert job.main([*options, str(tmp_path / "out")]) == Exit.DONE
    said = capsys.readouterr().out
    assert f"restore   {str(album / 'disc 1/b.mp3')!r} -> 'disc 1/b.wav'" in said
    assert said.endswith("7 of 7 songs to restore\n")
    assert not (tmp_path / "out").exists()
    assert job.main([*options, str(done)]) == Exit.DONE
    assert capsys.readouterr().out.endswith("2 of 7 songs to restore\n")


def test_command_reports_errors(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(album), "--output", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "no")]
    assert job.main(given) == Exit.USAGE
    assert "no such file or folder" in capsys.readouterr().err
    assert job.main([*given, "--clip", "fold"]) == Exit.USAGE
    assert job.main([*given[2:], "--data", str(tmp_path / "nowhere")]) == Exit.USAGE
