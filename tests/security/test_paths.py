"""Names from data sets: they reach no shell, no option of a program, and no path outside the output."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import find_songs, restore_songs
from apollo.checkpoints.checkpoint import load
from apollo.checkpoints.container import CheckpointError
from pipelines.dataset.shards import read_commits
from pipelines.dataset.split import CommittedSplit
from pipelines.demo import songs as road_songs
from pipelines.errors import UsageError
from pipelines.evaluation.pair_items import PairItems
from pipelines.preprocess import discovery
from pipelines.preprocess.scan import SongScanner, scan_name
from pipelines.registry import resolve_uris
from pipelines.restoration import songs
from pipelines.runtime.versions import software_versions
from pipelines.storage.folder import Entry, Folder
from pipelines.storage.parquet import parquet_bytes
from tests.support import datasets, evaluation_jobs, shard_outputs

NAMES = (
    "$(touch ran)", "`touch ran`", "; touch ran #", "a | touch ran", "&& touch ran", "'; touch ran; '",
    '" -y ran "', "-y", "--help", "-i ran", "concat:a|b", "file:x", "pipe:1", "data:,x", "%d", "%00",
    "*", "?", "new\nline", "tab\tand\x1b[31mred", "a:b", "{stem}", "{0.__class__}", "~", "\\..\\..\\x",
    "CON", "é\u0301",
)  # fmt: skip


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short MP3, which needs ffmpeg."""
    folder = tmp_path_factory.mktemp("song")
    wav = datasets.write(folder / "song.wav", datasets.music(0, seconds=0.2))
    return datasets.encode(wav, folder / "song.mp3", "-b:a", "64k")


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_names_reach_no_shell_and_no_option(
    song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "in" / "$(touch ran)"
    place.mkdir(parents=True)
    for name in NAMES[::3]:
        os.link(song, place / f"{name}.mp3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    before = files_below(tmp_path)
    generator = load(evaluation_jobs.write_model(tmp_path / "model"))
    before |= files_below(tmp_path / "model")
    config = SongsConfig(output="out", format="flac16")
    outcomes = list(restore_songs(generator, find_songs(["in"], config), config))
    assert {outcome.status for outcome in outcomes} == {"restored"}, [one.reason for one in outcomes]
    results = files_below(tmp_path) - before
    assert results == {tmp_path / "out/$(touch ran)" / f"{name}.flac" for name in NAMES[::3]}


def test_names_of_sources_and_pairs_reach_no_shell_and_no_option(
    song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for role, names in {"clean": NAMES[1::3], "degraded": NAMES[1::3], "songs": NAMES[2::3]}.items():
        (data / role).mkdir(parents=True)
        for name in names:
            os.link(song, data / role / f"{name}.mp3")
    items = PairItems("data", (), None)
    found = list(items.load(range(len(items.items)), "given"))
    assert len(found) == len(NAMES[1::3])
    assert not [one for one in found if isinstance(one, str)]
    scanner = SongScanner(
        str(tmp_path / "out"), str(tmp_path / "cache"), 1 << 30, None, software_versions(None)
    )
    for one in discovery.find_songs(["data/songs"]).songs:
        assert scanner.scan(one)["rejects"] == []
        Folder(str(tmp_path / "out")).write(scan_name(one), b"{}")
    outside = [
        path
        for path in files_below(tmp_path)
        if path.relative_to(tmp_path).parts[0] not in ("data", "out", "cache")
    ]
    assert outside == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..", "a/..", "x\0y"])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path / "output"))
    for act in (lambda: folder.write(name, b""), lambda: folder.read(name), lambda: folder.delete(name)):
        with pytest.raises(ValueError, match="is not a path below"):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a/b", "..", ".hidden", "", "a\nb"])  # noqa: S108 - a name, not made
def test_a_degradation_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    output = shard_outputs.write(tmp_path / "output", 2)
    path = output / "commits/train-00000.json"
    commit = json.loads(path.read_text())
    commit["bitrates_bps"] = {name: [64_000]}
    path.write_text(json.dumps(commit))
    with pytest.raises(UsageError, match="have a degradation"):
        CommittedSplit(str(output), "train", ())


@pytest.mark.parametrize("split", ["../train", "train/../..", "/train", 5, None])
def test_a_commit_names_its_own_shard_alone(tmp_path: Path, split: Any) -> None:
    output = shard_outputs.write(tmp_path / "output", 2)
    path = output / "commits/train-00000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": split}))
    assert read_commits(Folder(str(output))) == {}


@pytest.mark.parametrize("track", ["../../secret", "/secret", "x\0", "../vocals/../../secret", "."])
def test_a_listing_names_no_file_outside_of_its_song(tmp_path: Path, track: str) -> None:
    data = tmp_path / "data"
    datasets.write(tmp_path / "secret.wav", datasets.music(0, seconds=0.1))
    datasets.write(data / "song/vocals/1.wav", datasets.music(0, seconds=0.1))
    stems = [{"stemName": "vocals", "tracks": [{"id": track, "extension": "wav"}]}]
    stems.append({"stemName": "../..", "tracks": [{"id": "secret", "extension": "wav"}]})
    (data / "song/data.json").write_text(json.dumps({"stems": stems, "song": "../../x", "artist": "/y"}))
    discovered = discovery.find_songs([str(data)])
    assert discovered.songs == []
    assert len(discovered.rejects) == 2


def test_titles_become_names_of_files_without_their_slashes(tmp_path: Path) -> None:
    sound = datasets.write(tmp_path / "song.wav", datasets.music(0, seconds=1.0))
    file = {"path": str(sound), "readable": str(sound), "scale": 1.0, "channels": 2, "frames": 44_100}
    row = {"source_id": "a", "title": "../../$(touch ran)\0\n", "split": "test", "stem": "mixture"}
    row |= {"left_out": None, "frames": 44_100, "files": [file | {"size": 1, "mtime_ns": 1}]}
    Folder(str(tmp_path / "shards")).write("sources.parquet", parquet_bytes(pa.Table.from_pylist([row])))
    names = road_songs.write_songs(
        str(tmp_path / "road/songs"), str(tmp_path / "shards"), songs=1, seconds=1.0, bitrate_bps=64_000
    )
    assert names == ["1 touch ran"]
    made = {str(path.relative_to(tmp_path)) for path in files_below(tmp_path / "road")}
    assert made == {"road/songs/1 touch ran.mp3", "road/songs-clean/1 touch ran.flac"}


def test_objects_of_a_store_whose_names_climb_get_no_result_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def get_file_info(self, path: str) -> Any:
            return type("Info", (), {"type": pafs.FileType.Directory})

    listed = [Entry("../../evil.wav", 1, 0), Entry("a/../../../evil.wav", 1, 0), Entry("good.wav", 1, 0)]
    monkeypatch.setattr(songs, "open_filesystem", lambda location: (Store(), "bucket/in"))
    monkeypatch.setattr(Folder, "entries", lambda self, name="", recursive=False: listed)
    config = SongsConfig(output=str(tmp_path / "out"))
    found = {song.source.rpartition("/")[2]: song for song in songs.find_songs(["s3://bucket/in"], config)}
    assert found["good.wav"].name == "good.wav"
    assert found["good.wav"].problem is None
    assert "outside the output folder" in (found["evil.wav"].problem or "")


@pytest.mark.parametrize("best", [b"../model", b"/etc", b"\xff\xfe", b"checkpoints/../../model", b"a\0b"])
def test_what_a_store_calls_the_best_lies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: bytes
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    evaluation_jobs.write_model(tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best").write_bytes(best)
    with pytest.raises(CheckpointError, match=r"is not a path below|decode"):
        resolve_uris.resolve((tmp_path / "run").as_uri())


@pytest.mark.parametrize("template", ["../{stem}", "/tmp/{stem}", "{parent}/../../{stem}"])  # noqa: S108 - a name, not made
def test_no_template_leads_out(song: Path, tmp_path: Path, template: str) -> None:
    try:
        config = SongsConfig(output=str(tmp_path / "out"), filename=template)
        (job,) = find_songs([str(song)], config)
    except ValueError:
        return
    assert job.problem is not None
    assert "outside the output folder" in job.problem


def test_a_link_where_a_result_goes_is_replaced_and_not_followed(song: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / "out/song.wav").symlink_to(tmp_path / "precious")
    Folder(str(tmp_path / "out")).write("song.wav", b"new")
    assert (tmp_path / "precious").read_text() == "as it was"
    (tmp_path / "out/song.wav").unlink()
    (tmp_path / "out/song.wav").symlink_to(tmp_path / "precious")
    config = SongsConfig(output=str(tmp_path / "out"), overwrite=True)
    generator = load(evaluation_jobs.write_model(tmp_path / "model"))
    (outcome,) = restore_songs(generator, find_songs([str(song)], config), config)
    assert outcome.status == "restored"
    assert (tmp_path / "precious").read_text() == "as it was"
    assert not (tmp_path / "out/song.wav").is_symlink()
