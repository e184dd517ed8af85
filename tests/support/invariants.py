"""The oracle of every fault test: planned = committed + rejected, whole shards, undisturbed bytes."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.dataset.manifest import read_committed
from pipelines.storage.atomic import temporary_files
from pipelines.storage.folder import Folder


def shards(output: Path) -> dict[str, Path]:
    """Find the shards of an output by name."""
    return {str(path.relative_to(output)): path for path in sorted(output.glob("*/shard-*.parquet"))}


def digests(output: Path) -> dict[str, str]:
    """Hash every shard."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shards(output).items()}


def times(output: Path) -> dict[str, tuple[int, int]]:
    """Give inode and time of writing of every file."""
    return {
        str(p.relative_to(output)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in output.rglob("*")
        if p.is_file()
    }


def check(output: Path, undisturbed: Path | None = None) -> dict[str, str]:
    """Check a finished output.

    Args:
        output: What to check.
        undisturbed: A run of the same plan that nothing disturbed.

    Returns:
        Reasons of rejected recipes and sources, by id.
    """
    planned = pq.read_table(output / "recipes.parquet")["recipe_id"].to_pylist()
    rejects = pq.read_table(output / "rejects.parquet").to_pylist()
    rejected = [row["id"] for row in rejects if row["stage"] == "render"]
    committed: list[str] = []
    manifest = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    digest = hashlib.sha256((output / "manifest.jsonl").read_bytes()).hexdigest()
    assert json.loads((output / "report.json").read_text())["manifest_sha256"] == digest
    assert [commit.shard for commit in read_committed(Folder(str(output))).values()] == [
        line["shard"] for line in manifest
    ]
    for line in manifest:
        commit = json.loads((output / f"commits/{line['split']}-{line['shard']:05d}.json").read_text())
        assert (commit["sha256"], commit["bytes"], commit["rows"]) == (
            line["sha256"],
            line["bytes"],
            line["rows"],
        )
        if line["rows"]:
            content = (output / line["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == line["sha256"], line["path"]
            table = pq.read_table(output / line["path"], page_checksum_verification=True)
            assert len(table) == line["rows"]
            committed += table["recipe_id"].to_pylist()
    assert len(manifest) == len(list((output / "commits").iterdir()))
    assert {line["path"] for line in manifest if line["path"]} == set(shards(output))
    assert len(set(planned)) == len(planned)
    assert sorted(committed + rejected) == sorted(planned), (
        "a recipe is lost, doubled, or both made and rejected"
    )
    assert not list(temporary_files(str(output))), "a temporary file is left"
    result = json.loads((output / "result.json").read_text())
    counts = (len(planned), len(committed), len(rejected))
    assert (result["planned"], result["committed"], result["rejected"]) == counts
    if undisturbed is not None:
        assert digests(output) == digests(undisturbed)
    return {row["id"]: row["reason"] for row in rejects}
