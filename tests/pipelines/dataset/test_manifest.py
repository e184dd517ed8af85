"""The manifest stands for all commit objects of a finished output, if it is what the report says."""

import json
from pathlib import Path

import pytest

from pipelines.dataset.manifest import encode_manifest, read_committed
from pipelines.dataset.shards import read_commits, sha256_hex
from pipelines.dataset.split import CommittedSplit
from pipelines.storage.folder import Folder
from tests.support import shard_outputs


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished output of two splits."""
    output = shard_outputs.write(tmp_path / "output", 2, 3)
    shard_outputs.write(output, 1, split="valid")
    content = encode_manifest(read_commits(Folder(str(output))).values())
    (output / "manifest.jsonl").write_bytes(content)
    (output / "report.json").write_text(json.dumps({"manifest_sha256": sha256_hex(content)}))
    return output


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of all files that are read from now on."""
    names: list[str] = []
    read = Folder.read

    def recorded(folder: Folder, name: str) -> bytes:
        names.append(name)
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", recorded)
    return names


def test_readers_read_no_commit_of_a_finished_output_and_the_manifest_once(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {split: CommittedSplit(str(output), split, ()) for split in ("train", "valid")}
    names = _reads(monkeypatch)
    for split, other in expected.items():
        found = CommittedSplit(str(output), split, ())
        assert (found.rows, found.degradations, found.fingerprint) == (
            other.rows,
            other.degradations,
            other.fingerprint,
        )
    assert names == ["report.json"] * 2, "the digest alone: this process has read the manifest"


def test_the_facts_are_those_of_the_commits(output: Path) -> None:
    commits, found = read_commits(Folder(str(output))), read_committed(Folder(str(output)))
    for key, commit in commits.items():
        other = found[key]
        assert (other.rows, other.bytes, other.sha256) == (commit.rows, commit.bytes, commit.sha256)
        assert other.bitrates_bps.keys() == commit.bitrates_bps.keys()
    assert found.keys() == commits.keys()


@pytest.mark.parametrize("damage", ["changed", "missing", "no digest", "no report", "foreign split"])
def test_a_manifest_that_is_not_what_the_report_says_is_not_used(
    output: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, report = output / "manifest.jsonl", output / "report.json"
    if damage == "changed":
        manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 3', b'"rows": 4'))
    if damage == "missing":
        manifest.unlink()
    if damage == "no digest":
        report.write_text("{}")
    if damage == "no report":
        report.unlink()
    if damage == "foreign split":
        content = manifest.read_bytes().replace(b'"split": "valid"', b'"split": "../x"')
        manifest.write_bytes(content)
        report.write_text(json.dumps({"manifest_sha256": sha256_hex(content)}))
    names = _reads(monkeypatch)
    assert CommittedSplit(str(output), "train", ()).rows == [2, 3]
    assert "commits/train-00001.json" in names
