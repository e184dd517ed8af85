"""Score files: a trial is finished when its file exists and matches its commit object.

In OUTPUT/scores: `<model>/<degradation>.parquet`, and a commit object `<model>/<degradation>.json` with rows,
size, SHA-256, the models' device, and the lags of items that are not aligned, which is written last.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines import schema
from pipelines.dataset.shards import sha256_hex
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError
from pipelines.storage.parquet import parquet_bytes

FOLDER = "scores"


@dataclass(frozen=True)
class Trial:
    """One model at one degradation.

    Args:
        model: Name of the model.
        digest: Identifies its weights.
        degradation: Name of the degradation.
        rows: Number of items.
    """

    model: str
    digest: str
    degradation: str
    rows: int

    @property
    def path(self) -> str:
        """Path of its scores below the output, without extension."""
        return f"{FOLDER}/{self.model}/{self.degradation}"


def write_scores(output: Folder, trial: Trial, rows: Sequence[dict[str, Any]], device: str) -> None:
    """Write a trial's scores, then their commit object."""
    content = parquet_bytes(pa.Table.from_pylist(list(rows), schema.SCORES))
    output.write(f"{trial.path}.parquet", content)
    commit = asdict(trial) | {"bytes": len(content), "sha256": sha256_hex(content), "device": device}
    if lags := {row["item"]: row["lag"] for row in rows if row.get("lag")}:
        commit["lags"] = lags
    output.write(f"{trial.path}.json", json.dumps(commit, indent=1).encode())


def read_commit(output: Folder, trial: Trial) -> str:
    """Return the text of a trial's commit object, empty if it does not exist."""
    try:
        return output.read(f"{trial.path}.json").decode()
    except OSError:
        return ""


def read_lags(output: Folder, trial: Trial) -> dict[str, int]:
    """Return by how many samples the items of a trial are late, by name; of those that are not aligned."""
    lags: dict[str, int] = json.loads(read_commit(output, trial) or "{}").get("lags", {})
    return lags


def collect_lags(output: Folder, trials: Sequence[Trial]) -> dict[str, int]:
    """Return what `read_lags` does for several trials, by model and item."""
    return {
        f"{trial.model}: {item}": lag for trial in trials for item, lag in read_lags(output, trial).items()
    }


def read_scores(output: Folder, trial: Trial) -> pa.Table | None:
    """Read a trial's scores; None if they are missing, damaged, or of other weights."""
    try:
        commit = json.loads(output.read(f"{trial.path}.json"))
        content = output.read(f"{trial.path}.parquet")
        commit.pop("device")
        commit.pop("lags", None)
        if commit != asdict(trial) | {"bytes": len(content), "sha256": sha256_hex(content)}:
            return None
        return parquet.read_table(io.BytesIO(content))
    except StoreError:
        raise  # the store failed: the scores may be intact
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException):
        return None
