"""Read the plan: recipes.parquet, in row groups of whole shards, and plan.json.

`pipelines.preprocess.plan_writer` writes it.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq

PLAN, RECIPES = "plan.json", "recipes.parquet"
GROUP_SHARDS = 64  # shards whose recipes share a row group


def planned_shards(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """List all shards of a plan: split, shard, rows, and the first row's index in recipes.parquet."""
    rows = plan["shard_rows"]
    tasks = []
    for split, part in plan["splits"].items():
        first = part["first_group"] * GROUP_SHARDS * rows
        tasks += [
            {
                "split": split,
                "shard": number,
                "first": first + start,
                "rows": min(rows, part["recipes"] - start),
            }
            for number, start in enumerate(range(0, part["recipes"], rows))
        ]
    return tasks


def read_recipes(plan: pq.ParquetFile, first: int, rows: int, *, shard_rows: int) -> list[dict[str, Any]]:
    """Read the recipes of one shard; `first` and `rows` as in `planned_shards`."""
    group, start = divmod(first, shard_rows * GROUP_SHARDS)
    recipes_of_shard: list[dict[str, Any]] = plan.read_row_group(group).slice(start, rows).to_pylist()
    return recipes_of_shard


def count_shards(recipes: Iterable[int], rows: int) -> int:
    """Return the number of shards of splits with these numbers of recipes."""
    return sum(-(-number // rows) for number in recipes)
