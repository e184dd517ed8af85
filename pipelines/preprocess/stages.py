"""The stages of preprocess: find, scan, plan, verify, render, audit. Each goes on where it was stopped.

Nothing is decided in the order of scheduling: the plan is complete before the first excerpt is rendered, a
shard is a function of its recipes alone, and what is finished is told by commit objects. So killing a run
costs the shards it was working on, and running it again continues.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipelines import schema
from pipelines.audio.transcoding import trim_cache
from pipelines.cluster.connection import Cluster, connect, run_actors
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shards import ShardCommit, find_damaged_shards, read_commits
from pipelines.preprocess import audit
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.layouts import DiscoveryResult, Song
from pipelines.preprocess.plan_writer import write_plan
from pipelines.preprocess.render import RenderTask, ShardRenderer
from pipelines.preprocess.scan import SCANS, SongScanner, cache_names, find_uncached_songs, read_scans
from pipelines.preprocess.sources import collect_sources
from pipelines.runtime import prometheus
from pipelines.runtime.outcome import Exit, write_result
from pipelines.runtime.progress import watch
from pipelines.runtime.run import FINGERPRINT, claim
from pipelines.runtime.signals import catch_sigterm
from pipelines.runtime.versions import software_versions
from pipelines.storage.folder import Folder, join

logger = logging.getLogger(__name__)

LISTING = "listing.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        code: Exit code.
        message: For people.
        report: Content of report.json.
        changed: Whether the run changed anything.
    """

    code: Exit
    message: str
    report: dict[str, Any]
    changed: bool = True


class Preprocess:
    """One run over one output, which must be held (hold) while it works."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        self.output = Folder(config.output)
        self.cache = Folder(config.sources.cache or join(config.output, "cache"))
        self.versions = software_versions(config.codec.ffmpeg)
        self.seconds: dict[str, float] = {}
        self.claimed = False

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster, joined or started when there is work for it."""
        with self._timed("connect"):
            cluster = connect()
        catch_sigterm()
        where = "joined a Ray cluster" if cluster.joined else "started Ray on this machine"
        logger.info(f"{where}: {cluster.nodes} nodes, {cluster.cpus} CPUs")
        return cluster

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0) + time.monotonic() - began, 3)

    def run(self) -> Outcome:
        """Do what is not done yet.

        Raises:
            UsageError: the output belongs to another configuration or other files.
            ValueError: the data cannot be used as asked.
        """
        discovered, plan = self.plan()
        with self._timed("verify"):
            commits = self._verified_commits(plan)
        pending = [task for task in planned_shards(plan) if (task["split"], task["shard"]) not in commits]
        if not pending and self.output.exists(audit.REPORT):
            report = json.loads(self.output.read(audit.REPORT))
            outcome = self._outcome(report, "nothing to do: all shards are there and verified")
            return replace(outcome, changed=False)
        self.output.delete(audit.REPORT)  # it comes back when all is there
        write_result(self.output, None, "rendering")
        with self._timed("render"):
            self._refill_cache(discovered.songs)
            self._render(plan, pending, len(commits))
        with self._timed("audit"):
            report = audit.finalize(self.output, plan, self.versions, self.seconds, self.config.codec)
        return self._outcome(report, "done")

    def plan(self) -> tuple[DiscoveryResult, dict[str, Any]]:
        """Find the songs, claim the output, and make the plan where there is none; give both."""
        with self._timed("find"):
            discovered = find_songs(self.config.data)
        self._claim(discovered)
        self.claimed = True
        is_new = not self.output.exists(PLAN)
        if is_new:
            write_result(self.output, None, "scanning and planning")
            self._make_plan(discovered)
        self.output.delete_folder(SCANS)
        plan = json.loads(self.output.read(PLAN))
        if is_new:
            prometheus.rejected(
                "apollo_sources_rejected_total", (reject["reason"] for reject in plan["rejects"])
            )
        return discovered, plan

    def _outcome(self, report: dict[str, Any], done: str) -> Outcome:
        share = max(report["reject_share_sources"], report["reject_share_recipes"])
        counts = "{planned} recipes planned, {committed} committed, {rejected} rejected".format(**report)
        if report["rejected_sources"]:
            counts += f"; {report['rejected_sources']} of {report['sources']} sources rejected"
        if share > self.config.max_reject_share:
            return Outcome(
                Exit.REJECTS,
                f"{counts}: more than max_reject_share {self.config.max_reject_share:g}; the reasons are "
                "in rejects.parquet",
                report,
            )
        return Outcome(Exit.DONE, f"{done}: {counts}", report)

    def _claim(self, discovered: DiscoveryResult) -> None:
        files = sorted(
            (entry.name, entry.size, entry.mtime_ns)
            for song in discovered.songs
            for entries in song.sources.values()
            for entry in entries
        )
        listing = [list(file) for file in files]
        if self.output.exists(PLAN):
            claim(self.output, self._fingerprint())
            audit.check_listing(json.loads(self.output.read(LISTING))[0], listing, self.config.output)
            return
        # nothing is decided yet: a command mended after an error goes on, and scans of the same files stay
        content = json.dumps([listing, self.versions]).encode()
        if not self.output.exists(LISTING) or self.output.read(LISTING) != content:
            self.output.delete_folder(SCANS)
            self.output.write(LISTING, content)
        self.output.delete(FINGERPRINT)
        claim(self.output, self._fingerprint())

    def _fingerprint(self) -> dict[str, Any]:
        return {"config": self.config.deciding(), "versions": self.versions}

    def _make_plan(self, discovered: DiscoveryResult) -> None:
        with self._timed("scan"):
            scans = self._scan(discovered.songs)
        with self._timed("plan"):
            config = self.config
            sources = collect_sources(
                discovered.songs, scans, config.sources, config.splits, config.recipes.wanted
            )
            write_plan(
                self.output,
                sources,
                discovered,
                config.recipes,
                seed=config.seed,
                shard_rows=config.shards.rows,
            )
        self.output.delete_folder(SCANS)

    def _scan(self, songs: list[Song]) -> dict[str, dict[str, Any]]:
        """Scan the songs that no earlier run has scanned, and read all results."""
        scans = read_scans(self.output)
        if open_songs := [song for song in songs if song.song_id not in scans]:
            self._scan_songs(open_songs, songs)
            scans = read_scans(self.output)
        return scans

    def _scan_songs(self, open_songs: list[Song], songs: list[Song]) -> None:
        limit = int(self.config.sources.cache_gb * 1e9)
        trim_cache(self.cache, keep=cache_names(songs), limit_bytes=limit)
        logger.info(f"scanning {len(open_songs)} of {len(songs)} songs")
        arguments = (
            self.output.location,
            self.cache.location,
            limit,
            self.config.codec.ffmpeg,
            self.versions,
        )
        items = [{"song": song.to_json()} for song in open_songs]
        results = run_actors(items, SongScanner, arguments, actors=self.config.actors, cluster=self.cluster)
        done = len(songs) - len(open_songs)
        for _ in watch(results, total=len(songs), done=done, what="scan", unit="song"):
            prometheus.record("apollo_songs_scanned_total")

    def _refill_cache(self, songs: list[Song]) -> None:
        """Decode again what the plan reads from the cache and somebody has deleted there."""
        if missing := find_uncached_songs(self.output, self.cache):
            self._scan_songs([song for song in songs if song.song_id in missing], songs)
            self.output.delete_folder(SCANS)

    def _verified_commits(self, plan: dict[str, Any]) -> dict[tuple[str, int], ShardCommit]:
        """Give the commits whose shards are whole, and take back the others."""
        commits = read_commits(self.output)
        rows = {(task["split"], task["shard"]): task["rows"] for task in planned_shards(plan)}
        bad = find_damaged_shards(self.output, commits.values(), content=self.config.verify == "content")
        bad += [c for c in commits.values() if c.rows + len(c.rejected) != rows.get(c.key)]
        for commit in bad:
            logger.warning(f"shard {schema.shard_name(*commit.key)} is damaged and will be made again")
        if self.config.retry_rejects:
            bad += [commit for commit in commits.values() if commit.rejected]
        stale = {commit.key for commit in bad}
        if stale:
            self.output.delete(
                audit.REPORT
            )  # first: a run killed after this must not call the output finished
        for key in sorted(stale):
            self.output.delete(schema.commit_path(*key))
        return {key: commit for key, commit in commits.items() if key not in stale}

    def _render(self, plan: dict[str, Any], pending: list[dict[str, Any]], done: int) -> None:
        if not pending:
            return
        logger.info(f"rendering {len(pending)} of {len(pending) + done} shards")
        task = RenderTask(
            self.output.location, self.cache.location, self.config.codec, self.config.shards, self.versions
        )
        results = run_actors(pending, ShardRenderer, (task,), actors=self.config.actors, cluster=self.cluster)
        for row in watch(results, total=len(pending) + done, done=done, what="render", unit="shard"):
            _shard_made(ShardCommit(**json.loads(row["commit"])), json.loads(row["encode_seconds"]))


def _shard_made(commit: ShardCommit, encode_seconds: Iterable[float]) -> None:
    """Count a shard and its recipes.

    Args:
        commit: Of the shard.
        encode_seconds: What each call of the encoder took.
    """
    prometheus.record("apollo_shards_committed_total", split=commit.split)
    prometheus.record("apollo_shard_bytes_total", commit.bytes)
    prometheus.record("apollo_recipes_committed_total", commit.rows, split=commit.split)
    prometheus.record("apollo_render_cpu_seconds_total", commit.cpu_seconds)
    prometheus.rejected("apollo_recipes_rejected_total", (reject["reason"] for reject in commit.rejected))
    for seconds in encode_seconds:
        prometheus.record("apollo_encode_seconds", seconds)
