"""Every kind of reason is raised by its cause, recorded, and counted under its label."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from apollo.audio import decoding
from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.formats import SongsConfig
from apollo.audio.rejects import RejectError, RejectKind
from apollo.audio.songs import SongJob, restore_songs
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from pipelines.audio import codec
from pipelines.dataset.shard_reader import CorruptRowError, EncodedRow, decode
from pipelines.dataset.shards import ShardCommit, read_commits
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.mixing import MixSource, mix
from pipelines.preprocess.render import to_flac
from pipelines.preprocess.scan import SongScanner
from pipelines.restoration.records import SongRecord, commit_path, read_record
from pipelines.runtime import prometheus
from pipelines.runtime.versions import software_versions
from pipelines.schema import EXCERPT_FRAMES
from pipelines.schema import commit_path as shard_commit_path
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError
from tests.support.datasets import music, write

ROOT = Path(__file__).parents[3]
_LOUD = np.full((48_000, 2), 20.0)
_FILES = {
    "empty.wav": (lambda path: path.write_bytes(b""), "empty", "empty"),
    "no sample.wav": (lambda path: write(path, np.zeros((0, 2))), "empty", "empty"),
    "truncated.wav": (
        lambda path: path.write_bytes(write(path, music(1)).read_bytes()[:5_000]),
        "damaged",
        None,
    ),
    "text.mp3": (lambda path: path.write_bytes(b"never gonna " * 999), "undecodable", "undecodable"),
    "nan.wav": (lambda path: write(path, music(1) * np.nan, subtype="FLOAT"), "not_finite", "not_finite"),
    "loud.wav": (lambda path: write(path, _LOUD, 48_000, subtype="FLOAT"), "too_loud", None),
    "missing.wav": (lambda path: path.unlink(missing_ok=True), "unopened", "unopened"),
}  # name: how to make it, kind of preprocess, kind of restore where it is rejected there


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    counts: dict[str, float] = {}

    def record(name: str, value: float = 1.0, *, reason: str) -> None:
        counts[reason] = counts.get(reason, 0) + value

    monkeypatch.setattr(prometheus, "record", record)
    return counts


def _scan(folder: Path, output: Path, program: str | None = None) -> list[dict[str, str]]:
    """Return the rejects of all songs of a folder, as a run records them."""
    scanner = SongScanner(str(output), str(output / "cache"), 1 << 30, program, software_versions(program))
    songs = find_songs([str(folder)]).songs
    for path in folder.glob("missing*"):
        path.unlink()
    return json.loads(json.dumps([reject for song in songs for reject in scanner.scan(song)["rejects"]]))


@pytest.mark.parametrize("name", _FILES)
def test_songs_that_cannot_be_used(name: str, tmp_path: Path, counted: dict[str, float]) -> None:
    make, scanned, restored = _FILES[name]
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(b"there when it is listed")
    make(path)
    if scanned == "unopened":
        path.write_bytes(b"there when it is listed")
    prometheus.count_rejects("apollo_sources_rejected_total", _scan(tmp_path / "data", tmp_path / "out"))
    assert counted == {scanned: 1}
    counted.clear()
    if restored:
        generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2))
        jobs = [SongJob(path, tmp_path / "restored.wav")]
        outcomes = restore_songs(generator, jobs, SongsConfig(output=str(tmp_path)))
        prometheus.count_rejects("apollo_songs_failed_total", map(dataclasses.asdict, outcomes))
        assert counted == {restored: 1}


def test_ffmpeg_that_is_killed(tmp_path: Path) -> None:
    write(tmp_path / "data/song.wav", music(1, rate=48_000), 48_000)
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *null*|*-version*) exec {find_ffmpeg()} "$@";; esac\nkill -9 $$\n'
    )
    program.chmod(0o755)
    (reject,) = _scan(tmp_path / "data", tmp_path / "out", str(program))
    assert (reject["kind"], reject["reason"]) == ("ffmpeg", "ffmpeg was killed by signal 9")


def test_songs_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_SECONDS", 0.5)
    write(tmp_path / "data/song.wav", music(1, rate=48_000), 48_000)
    assert [reject["kind"] for reject in _scan(tmp_path / "data", tmp_path / "out")] == ["too_long"]


@pytest.mark.parametrize(("samples", "kind"), [(0.0, "silent"), (np.nan, "not_finite")])
def test_mixes_that_cannot_be_used(samples: float, kind: str) -> None:
    class Reader:
        def read(self, files: object, start: int, frames: int) -> np.ndarray:
            return np.full((frames, 2), samples, np.float32)

    component = {"source_id": "a", "start": 0, "gain_db": 0.0}
    with pytest.raises(RejectError) as error:
        mix([component], {"a": MixSource([])}, Reader())  # type: ignore[arg-type]
    assert error.value.kind == kind


_SOUND = to_flac(np.zeros((EXCERPT_FRAMES, 2), np.int16))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"clean": b""}, "empty"),
        ({"clean": b"no FLAC"}, "undecodable"),
        ({"clean": to_flac(np.zeros((9, 2), np.int16))}, "damaged"),
        ({"clean": to_flac(np.zeros((EXCERPT_FRAMES, 1), np.int16))}, "damaged"),
        ({"gain": float("nan")}, "not_finite"),
        ({"frames": 9}, "damaged"),
    ],
)
def test_rows_that_cannot_be_used(changes: dict[str, object], kind: str) -> None:
    row = EncodedRow("a", "mp3_24000", _SOUND, _SOUND, 1.0, EXCERPT_FRAMES, "train-00000")
    with pytest.raises(CorruptRowError) as error:
        decode(dataclasses.replace(row, **changes))
    assert error.value.kind == kind


def test_other_errors_have_their_kind() -> None:
    assert CorruptRowError("train-00000", "the file is missing").kind == "damaged"
    assert codec.CodecError("5 samples, 9 expected").kind == "damaged"
    assert StoreError("read s3://bucket/a.wav: no such key").kind == "unopened"
    assert RejectError("anything").kind == "other"


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("apollo.audio.songs._restore", fail)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2))
    jobs = [SongJob(tmp_path / "a.wav", tmp_path / "b.wav")]
    (outcome,) = restore_songs(generator, jobs, SongsConfig(output=str(tmp_path)))
    assert outcome.kind == "memory"


def test_every_kind_is_raised_somewhere_and_no_audio_error_is_without_one() -> None:
    """AudioErrors without a kind count as `other`: only these two, which no other kind describes."""
    sources = {
        path: path.read_text() for room in ("apollo", "pipelines") for path in (ROOT / room).rglob("*.py")
    }
    used = set(re.findall(r"RejectKind\.([A-Z_]+)", "".join(sources.values())))
    assert used == {kind.name for kind in RejectKind}
    raised = [
        (path.name, call)
        for path, text in sources.items()
        if path.parts[-2] in ("audio", "preprocess", "loading", "restoration")
        for call in re.findall(r"raise AudioError\((.*?)\)(?: from error)?\n", text, re.DOTALL)
    ]
    assert len(raised) > 15
    unkind = {name for name, call in raised if "RejectKind." not in call}
    assert unkind == {"probing.py", "reading.py"}  # a sample rate too low, too many channels
    assert sum("RejectKind." not in call for _, call in raised) == 2


def test_records_of_older_outputs_load_and_count_as_other(tmp_path: Path, counted: dict[str, float]) -> None:
    commit = dataclasses.asdict(ShardCommit(split="train", shard=0, rows=0, bytes=0, sha256=""))
    song = dataclasses.asdict(SongRecord(source="a", source_bytes=0, source_mtime_ns=0, name="b", status=""))
    del song["kind"]
    commit["rejected"] = [{"recipe_id": "x", "reason": "the mix is silent"}]
    (tmp_path / "commits").mkdir()
    (tmp_path / commit_path("b")).write_text(json.dumps(song | {"status": "failed", "reason": "empty"}))
    (tmp_path / shard_commit_path("train", 0)).write_text(json.dumps(commit))
    (shard,) = read_commits(Folder(str(tmp_path))).values()
    record = read_record(Folder(str(tmp_path)), commit_path("b"))
    assert record is not None and record.reason == "empty"
    prometheus.count_rejects("any", [*shard.rejected, dataclasses.asdict(record)])
    assert counted == {"other": 2}
