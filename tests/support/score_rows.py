"""Small tables of scores, made by hand or read from the published demo clips' recorded scores."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.schema import SCORED, SCORES, UNTOUCHED


def row(model: str, item: str, degradation: str = "mp3_24000", **changes: Any) -> dict[str, Any]:
    """Return a row; the item is of a song of its own name, and no score is defined unless it is given."""
    bitrate = degradation.rpartition("_")[2]
    return {
        "model": model,
        "item": item,
        "songs": [item],
        "category": "song",
        "degradation": degradation,
        "bitrate_bps": int(bitrate) if bitrate.isdecimal() else None,
        "status": SCORED,
    } | changes


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table of scores."""
    return pa.Table.from_pylist(rows, schema=SCORES)


def demo_scores(golden: Path, restored: str = "Apollo") -> pa.Table:
    """Return the recorded scores of the published demo clips: one clip at each of five bitrates."""
    recorded = json.loads((golden / "metrics_apollo_demo.json").read_text())["scores"]
    rows = []
    for name, scores in recorded.items():
        degradation, version = name.split("/")
        values = {
            "sdr": scores["sdr_db"],
            "si_snr": scores["si_snr_db"],
            "visqol": scores["visqol_mos"],
        }
        model = {"degraded": UNTOUCHED, "restored": restored}[version]
        bitrate = int(degradation.removesuffix("k")) * 1000
        rows.append(row(model, f"{degradation}/sample1", degradation, bitrate_bps=bitrate, **values))
    return table(rows)
