"""Check a finished output (planned = committed + rejected) and write manifest, rejects and reports."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schema
from pipelines.audio.codec import CodecConfig
from pipelines.dataset.manifest import DIGEST, MANIFEST, REPORT, encode_manifest
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shards import ShardCommit, find_damaged_shards, read_commits, sha256_hex
from pipelines.errors import OutputTakenError
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes

PAGE, REJECTS = "report.html", "rejects.parquet"
_MAX_NAMED = 3


class AuditError(RuntimeError):
    """The output does not hold what was planned."""


def check_listing(before: list[list[Any]], now: list[list[Any]], output: str) -> None:
    """Check that the source files are those that the output was created from.

    Raises:
        OutputTakenError: files were added, removed or changed; the text names some.
    """
    old, new = ({path: (size, mtime_ns) for path, size, mtime_ns in listing} for listing in (before, now))
    changes = [f"{path} is missing" for path in old.keys() - new.keys()]
    changes += [f"{path} is new" for path in new.keys() - old.keys()]
    changes += [
        f"{path} had {old[path][0]} bytes, has {new[path][0]}"
        if old[path][0] != new[path][0]
        else f"{path} has another modification time"
        for path in old.keys() & new.keys()
        if old[path] != new[path]
    ]
    if changes:
        more = f"; and {len(changes) - _MAX_NAMED} more" if len(changes) > _MAX_NAMED else ""
        raise OutputTakenError(
            f"the source files are not those that {output} was created from: "
            f"{'; '.join(sorted(changes)[:_MAX_NAMED])}{more}. "
            "Restore them, or use another --output"
        )


def status(output: Folder) -> str:
    """Describe the progress of an output, from its files alone."""
    if not output.exists(PLAN):
        scanned = len(output.entries("scan"))
        return (
            f"{output.location}: not planned, {scanned} songs scanned"
            if scanned
            else f"{output.location}: no output of preprocess"
        )
    plan = json.loads(output.read(PLAN))
    commits = read_commits(output)
    lines = [output.location]
    for split, part in plan["splits"].items():
        shards = [task for task in planned_shards(plan) if task["split"] == split]
        done = [commits[split, task["shard"]] for task in shards if (split, task["shard"]) in commits]
        made, rejected = sum(commit.rows for commit in done), sum(len(commit.rejected) for commit in done)
        lines.append(
            f"  {split:5s} {len(done)} of {len(shards)} shards, {made} of {part['recipes']} recipes "
            f"committed, {rejected} rejected"
        )
    return "\n".join(lines)


def finalize(
    output: Folder,
    plan: dict[str, Any],
    versions: dict[str, str],
    seconds: dict[str, float],
    codec: CodecConfig,
) -> dict[str, Any]:
    """Check the whole output and write manifest.jsonl, rejects.parquet, report.json and report.html.

    Raises:
        AuditError: a recipe is neither committed nor rejected, or a shard differs from its commit.
    """
    commits = read_commits(output)
    tasks = planned_shards(plan)
    lost = [task for task in tasks if (task["split"], task["shard"]) not in commits]
    wrong = [
        task
        for task in tasks
        if (commit := commits.get((task["split"], task["shard"])))
        and commit.rows + len(commit.rejected) != task["rows"]
    ]
    damaged = find_damaged_shards(output, commits.values(), content=False)
    for orphan in _orphans(output, commits):
        output.delete(orphan)
    if lost or wrong or damaged or len(commits) != len(tasks):
        raise AuditError(
            f"{len(lost)} shards are missing, {len(wrong)} have another number of recipes than planned, "
            f"{len(damaged)} differ from their commits, {len(commits)} commits for {len(tasks)} planned "
            "shards. Run the command again to render them"
        )
    output.delete_temporary()  # of actors that outlived a killed run
    order = [commits[task["split"], task["shard"]] for task in tasks]
    manifest = encode_manifest(order)
    output.write(MANIFEST, manifest)
    rejects = plan["rejects"] + [
        {"stage": "render", "id": reject["recipe_id"], "path": None, **reject}
        for commit in order
        for reject in commit.rejected
    ]
    output.write(REJECTS, parquet_bytes(pa.Table.from_pylist(rejects, schema.REJECTS)))
    report = summarize(output, plan, order, versions, seconds)
    report[DIGEST] = sha256_hex(manifest)
    from pipelines.preprocess.report import render_page

    output.write(PAGE, render_page(output, report, codec).encode())
    output.write(REPORT, json.dumps(report, indent=1).encode())
    return report


def _orphans(output: Folder, commits: dict[tuple[str, int], ShardCommit]) -> set[str]:
    """Return shard files without a commit: a reader that lists the folder must not see them."""
    ours = {schema.shard_path(*key) for key, commit in commits.items() if commit.rows}
    return {entry.name for split in schema.SPLITS for entry in output.entries(split)} - ours


def summarize(
    output: Folder,
    plan: dict[str, Any],
    commits: list[ShardCommit],
    versions: dict[str, str],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return the content of report.json."""
    planned = sum(part["recipes"] for part in plan["splits"].values())
    rejected = sum(len(commit.rejected) for commit in commits)
    reasons = Counter(reject["reason"] for reject in plan["rejects"])
    reasons.update(reject["reason"] for commit in commits for reject in commit.rejected)
    bitrates: dict[str, set[int]] = {}
    for commit in commits:
        for name, found in commit.bitrates_bps.items():
            bitrates.setdefault(name, set()).update(found)
    by_split = {
        split: {
            "planned": part["recipes"],
            "committed": sum(commit.rows for commit in commits if commit.split == split),
            "rejected": sum(len(commit.rejected) for commit in commits if commit.split == split),
            "songs": part["songs"],
            "hours": round(
                sum(commit.rows for commit in commits if commit.split == split)
                * schema.EXCERPT_SECONDS
                / 3600,
                4,
            ),
        }
        for split, part in plan["splits"].items()
    }
    return {
        "planned": planned,
        "committed": sum(commit.rows for commit in commits),
        "rejected": rejected,
        "reject_share_recipes": rejected / max(planned, 1),
        "sources": plan["sources"],
        "left_out_sources": plan["left_out"],
        "rejected_sources": len(plan["rejects"]),
        "reject_share_sources": len(plan["rejects"]) / max(plan["sources"], 1),
        "shards": sum(commit.rows > 0 for commit in commits),
        "bytes": sum(commit.bytes for commit in commits),
        "splits": by_split,
        "categories": _categories(output),
        "source_hours": _source_hours(output),
        "left_out": _left_out(output),
        "real_bitrates_bps": {name: sorted(found) for name, found in bitrates.items()},
        "seconds_by_stage": seconds,
        "cpu_seconds_render": round(sum(commit.cpu_seconds for commit in commits), 1),
        "reject_reasons": dict(reasons.most_common(20)),
        "remarks": plan["remarks"],
        "ignored_files": plan["ignored_files"],
        "versions": versions,
    }


def _categories(output: Folder) -> dict[str, dict[str, int]]:
    """Count planned recipes by split and category."""
    with output.open("recipes.parquet") as file:
        counted = (
            parquet.read_table(file, ["split", "category"])
            .group_by(["split", "category"])
            .aggregate([([], "count_all")])
        )
    counts: dict[str, dict[str, int]] = {
        split: dict.fromkeys(schema.CATEGORIES, 0) for split in schema.SPLITS
    }
    for row in counted.to_pylist():
        counts[row["split"]][row["category"]] = row["count_all"]
    return counts


def _source_hours(output: Folder) -> dict[str, dict[str, float]]:
    """Sum the hours of usable sources by split and stem."""
    with output.open("sources.parquet") as file:
        table = parquet.read_table(file, ["split", "stem", "frames", "left_out"])
    used = (
        table.filter(pc.is_null(table["left_out"])).group_by(["split", "stem"]).aggregate([("frames", "sum")])
    )
    hours: dict[str, dict[str, float]] = {split: {} for split in schema.SPLITS}
    for row in sorted(used.to_pylist(), key=lambda row: str(row["stem"])):
        hours[row["split"]][row["stem"]] = round(row["frames_sum"] / schema.SAMPLE_RATE / 3600, 4)
    return hours


def _left_out(output: Folder) -> dict[str, int]:
    with output.open("sources.parquet") as file:
        reasons = parquet.read_table(file, ["left_out"])["left_out"].to_pylist()
    return dict(Counter(reason.partition(":")[0] for reason in reasons if reason is not None))
