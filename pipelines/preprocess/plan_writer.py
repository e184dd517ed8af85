"""Write the plan: recipes.parquet, in row groups of whole shards, and plan.json, written last."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.dataset.plan import GROUP_SHARDS, PLAN, RECIPES
from pipelines.preprocess import recipes
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.songs import DiscoveryResult
from pipelines.preprocess.sources import SourceTables
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes


def write_plan(
    output: Folder,
    sources: SourceTables,
    discovered: DiscoveryResult,
    config: RecipesConfig,
    *,
    seed: int,
    shard_rows: int,
) -> None:
    """Draw all recipes and write sources, segments and recipes; with plan.json the plan is complete."""
    for name, table in zip(("sources.parquet", "segments.parquet"), sources.tables(), strict=True):
        output.write(name, parquet_bytes(table))
    catalogs = {split: Catalog.of(sources.usable(split), sources.segments) for split in schema.SPLITS}
    splits = write_recipes(output, catalogs, config, seed=seed, shard_rows=shard_rows)
    found = [
        {"stage": "scan", "id": name, "path": name, "reason": reason, "kind": kind}
        for name, reason, kind in discovered.rejects
    ]
    plan = {
        "shard_rows": shard_rows,
        "splits": splits,
        "sources": len(sources.rows) + len(found) + len(sources.rejects),
        "left_out": sum(row["left_out"] is not None for row in sources.rows),
        "rejects": found + sources.rejects,
        "remarks": discovered.remarks + sources.remarks + _lacking_categories(catalogs["test"], config),
        "ignored_files": discovered.ignored_files,
    }
    output.write(PLAN, json.dumps(plan, indent=1).encode())


def write_recipes(
    output: Folder, catalogs: dict[str, Catalog], config: RecipesConfig, *, seed: int, shard_rows: int
) -> dict[str, dict[str, int]]:
    """Write recipes.parquet.

    Returns:
        By split: `recipes`, the `first_group` of its row groups, and its `songs`.
    """
    group_rows = shard_rows * GROUP_SHARDS
    splits: dict[str, dict[str, int]] = {}
    first = 0
    with tempfile.TemporaryDirectory(prefix="apollo-plan-") as scratch:
        local = Path(scratch, RECIPES)
        with pq.ParquetWriter(local, schema.RECIPES, compression="zstd", write_page_checksum=True) as writer:
            for split, catalog in catalogs.items():
                drawn = recipes.draw_recipes(split, catalog, config, seed=seed, shard_rows=shard_rows)
                for group in _regrouped(drawn, group_rows):
                    writer.write_table(group, row_group_size=group_rows)
                total = recipes.num_recipes(split, catalog, config)
                splits[split] = {"recipes": total, "first_group": first, "songs": catalog.num_songs}
                first += -(-total // group_rows)
        output.put(RECIPES, str(local))
    return splits


def _regrouped(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Cut batches into tables of so many rows; the last may be smaller."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        table = pa.Table.from_batches(kept)
        whole = len(table) // rows * rows
        for first in range(0, whole, rows):
            yield table.slice(first, rows)
        kept = table.slice(whole).to_batches()
    if any(len(batch) for batch in kept):
        yield pa.Table.from_batches(kept)


def _lacking_categories(catalog: Catalog, config: RecipesConfig) -> list[str]:
    lacking = [name for name in schema.CATEGORIES[:-1] if name not in catalog.categories()]
    if not config.test_per_category or not lacking:
        return []
    return [f"the test split has no sources for the categories {', '.join(lacking)}"]
