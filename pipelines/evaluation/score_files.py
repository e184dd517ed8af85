"""Files of scores: a trial is done when its file is there, and is what its commit object says.

In OUTPUT/scores: `<model>/<degradation>.parquet`, and beside it a `.json` with rows, size, sha256 and the
device that models ran on, which is written last.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines import schema
from pipelines.dataset.shards import digest
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError
from pipelines.storage.parquet import parquet_bytes

FOLDER = "scores"


@dataclass(frozen=True)
class Trial:
    """One model at one degradation.

    Args:
        model: Its name.
        digest: What tells its weights from others.
        degradation: Name of the degradation.
        rows: How many items there are.
    """

    model: str
    digest: str
    degradation: str
    rows: int

    @property
    def path(self) -> str:
        """Where its scores lie, without an ending."""
        return f"{FOLDER}/{self.model}/{self.degradation}"


def write_scores(output: Folder, trial: Trial, rows: Sequence[dict[str, Any]], device: str) -> None:
    """Write a trial's scores, then the object that says they are whole."""
    content = parquet_bytes(pa.Table.from_pylist(list(rows), schema.SCORES))
    output.write(f"{trial.path}.parquet", content)
    commit = asdict(trial) | {"bytes": len(content), "sha256": digest(content), "device": device}
    output.write(f"{trial.path}.json", json.dumps(commit, indent=1).encode())


def read_commit(output: Folder, trial: Trial) -> str:
    """Give what a trial's commit object says, empty where there is none."""
    try:
        return output.read(f"{trial.path}.json").decode()
    except OSError:
        return ""


def read_scores(output: Folder, trial: Trial) -> pa.Table | None:
    """Read a trial's scores; None where they are missing, damaged, or another model's."""
    try:
        commit = json.loads(output.read(f"{trial.path}.json"))
        content = output.read(f"{trial.path}.parquet")
        commit.pop("device")
        if commit != asdict(trial) | {"bytes": len(content), "sha256": digest(content)}:
            return None
        return parquet.read_table(io.BytesIO(content))
    except StoreError:
        raise  # it says nothing about what lies there
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException):
        return None
