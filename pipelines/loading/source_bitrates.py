"""Bitrates of lossy sources: a row that is mixed from them teaches bitrates below theirs only.

A lossy source already lacks what a codec at its own bitrate removes, so as the clean version it would teach
to restore nothing. Bitrates are those of whole files: 8 bits times size over length.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from pipelines.audio.degradations import requested_bitrate
from pipelines.dataset.plan import RECIPES
from pipelines.dataset.split import CommittedSplit
from pipelines.schema import SAMPLE_RATE
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

_SOURCES = "sources.parquet"


def read_source_bitrates(output: Folder) -> dict[str, float]:
    """Read the bitrates of the lossy sources of a planned output, in bits per second, by id."""
    with output.open(_SOURCES) as file:
        rows = parquet.read_table(file, ["source_id", "files", "lossy"]).to_pylist()
    return {
        row["source_id"]: min(map(_bitrate, row["files"])) for row in rows if row["lossy"] and row["files"]
    }


def read_row_bitrates(output: Folder, split: CommittedSplit) -> dict[tuple[int, int], float]:
    """Return the lowest bitrate of the lossy sources of each row that has any, by shard number and row.

    Without the plan of the output, no bitrate is known, and none is returned.
    """
    missing = [name for name in (_SOURCES, RECIPES) if not output.exists(name)]
    if missing:
        logger.warning(f"{output.location} has no {missing[0]}: bitrates of lossy sources are not known")
        return {}
    bitrates = read_source_bitrates(output)
    if not bitrates:
        return {}
    with output.open(RECIPES) as file:
        table = parquet.read_table(file, ["recipe_id", "split", "shard", "components"])
    name = split.commits[0].split
    rows = (
        table.filter(pc.equal(table["split"], name)).select(["recipe_id", "shard", "components"]).to_pylist()
    )
    planned: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        planned.setdefault(row["shard"], []).append(row)
    found = {}
    for number, commit in enumerate(split.commits):
        rejected = {reject["recipe_id"] for reject in commit.rejected}
        kept = [row for row in planned.get(commit.shard, []) if row["recipe_id"] not in rejected]
        for place, row in enumerate(kept):
            lowest = lowest_bitrate(row["components"], bitrates)
            if math.isfinite(lowest):
                found[number, place] = lowest
    return found


def lowest_bitrate(components: Iterable[Mapping[str, Any]], bitrates: Mapping[str, float]) -> float:
    """Return the lowest bitrate of the lossy sources of a recipe; infinite if it has none."""
    return min((bitrates.get(part["source_id"], math.inf) for part in components), default=math.inf)


def usable_degradations(degradations: Sequence[str], bitrate_bps: float) -> Sequence[str]:
    """Return the degradations below a bitrate; if there are none, the lowest. Names without one are below."""

    def requested(name: str) -> int:
        return requested_bitrate(name) or 0

    usable = [name for name in degradations if requested(name) < bitrate_bps]
    return usable or [min(degradations, key=requested)]


def _bitrate(file: Mapping[str, Any]) -> float:
    return 8 * file["size"] * SAMPLE_RATE / file["frames"] if file["size"] and file["frames"] else math.inf
