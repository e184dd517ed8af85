"""Parquet files with pickles in them, in a process where Ray Data has taught Arrow to run these."""

import ast
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data  # noqa: F401 - registers the type; nothing else here needs it
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from pipelines.dataset.shard_reader import CorruptRowError
from pipelines.dataset.shards import ShardCommit, commit_shard, read_commits, sha256_hex
from pipelines.dataset.split import CommittedSplit
from pipelines.evaluation.items import EvaluationItem
from pipelines.evaluation.shard_items import ShardItems
from pipelines.loading.live_source import _read_table
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from tests.support import shard_outputs
from tests.support.malicious_payloads import Planted

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What is there only if a pickle ran."""
    return tmp_path / "ran"


def pickles(mark: Path, rows: int) -> pa.ExtensionArray:
    stored = pa.array([Planted(mark).pickled()] * rows, pa.large_binary())
    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), stored)


def plant(output: Path, mark: Path, column: str) -> ShardCommit:
    """Put pickles into a column of the only shard, under a commit that fits it."""
    path = output / "train/shard-00000.parquet"
    table = pq.read_table(path)
    objects = pickles(mark, len(table))
    if column == "components":
        struct = pa.StructArray.from_arrays([objects, objects], ["stem", "source_id"])
        objects = pa.ListArray.from_arrays(range(len(table) + 1), struct)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, objects), path)
    content = path.read_bytes()
    (before,) = read_commits(Folder(str(output))).values()
    facts = vars(before) | {"bytes": len(content), "sha256": sha256_hex(content)}
    commit_shard(Folder(str(output)), content, ShardCommit(**facts))
    return ShardCommit(**facts)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two rows in a shard, and the sources that an evaluation asks for."""
    output = shard_outputs.write(tmp_path / "output", 2)
    pq.write_table(pa.table({"source_id": ["song/bass"], "group_id": ["song"]}), output / "sources.parquet")
    return output


def test_what_is_planted_would_run(mark: Path) -> None:
    assert pickles(mark, 1)[0].as_py() is None
    assert mark.is_dir()


@pytest.mark.parametrize("column", ["clean", "mp3_64000", "mp3_64000_gain", "recipe_id"])
def test_a_shard_with_pickles_is_lost_and_they_are_not_run(output: Path, mark: Path, column: str) -> None:
    plant(output, mark, column)
    split = CommittedSplit(str(output), "train", ())
    found = split.reader.read(0, {0: "mp3_64000", 1: "mp3_64000"})
    assert len(found) == 2
    for row in found.values():
        assert isinstance(row, CorruptRowError)
        assert "arrow_pickled_object" in row.reason and "could execute code" in row.reason
    assert not mark.exists()


@pytest.mark.parametrize("column", ["components", "category", "recipe_id"])
def test_an_evaluation_of_such_a_shard_has_reasons_instead_of_scores(
    output: Path, mark: Path, column: str
) -> None:
    plant(output, mark, column)
    items = ShardItems(str(output), "train", ("mp3_64000",), None)
    reasons = list(items.load([0, 1], "mp3_64000"))
    assert all("could execute code" in reason for reason in reasons if not isinstance(reason, EvaluationItem))
    assert not any(isinstance(reason, EvaluationItem) for reason in reasons)
    assert not mark.exists()


@pytest.mark.parametrize("wrapped", ["bare", "list", "struct"])
def test_tables_beside_the_shards_are_refused(tmp_path: Path, mark: Path, wrapped: str) -> None:
    objects: pa.Array = pickles(mark, 1)
    if wrapped == "list":
        objects = pa.ListArray.from_arrays([0, 1], objects)
    elif wrapped == "struct":
        objects = pa.StructArray.from_arrays([pa.array(["plain"]), objects], ["plain", "planted"])
    pq.write_table(pa.table({"source_id": ["a"], "files": objects}), tmp_path / "sources.parquet")
    with pytest.raises(parquet.ForeignTypeError, match=r"'files'.*arrow_pickled_object"):
        _read_table(Folder(str(tmp_path)), "sources.parquet", ["source_id", "files"])
    with (tmp_path / "sources.parquet").open("rb") as stream, pytest.raises(parquet.ForeignTypeError):
        parquet.open_file(stream)
    assert not mark.exists()


def test_ray_does_not_unpickle_what_describes_a_type(tmp_path: Path, mark: Path) -> None:
    """A tensor type's own description was a pickle once; Ray reads it only where two variables ask for it."""
    described = {
        "ARROW:extension:name": "ray.data.arrow_tensor",
        "ARROW:extension:metadata": Planted(mark).pickled(),
    }
    field = pa.field("clean", pa.list_(pa.float32()), metadata=described)
    pq.write_table(pa.table([[[1.0]]], schema=pa.schema([field])), tmp_path / "x.parquet")
    with (tmp_path / "x.parquet").open("rb") as stream, pytest.raises((ValueError, pa.ArrowException)):
        parquet.read_table(stream)
    assert not mark.exists()


def test_all_parquet_is_read_through_one_place() -> None:
    readers = {"read_table", "ParquetFile", "ParquetDataset", "read_schema", "open_stream", "open_file"}
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        names = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in ("pq", "pa", "ipc", "feather", "dataset")
        }
        allowed = (
            readers if path.name == "parquet.py" else {"ParquetFile"} if path.name == "plan.py" else set()
        )
        assert names & readers <= allowed, path
