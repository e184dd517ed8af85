"""Preprocess: data sets in, training shards out; what `jobs/preprocess.py` calls.

    resolve   find the songs; check the output against configuration, files and finished shards
    execute   scan, plan, render: each continues where it was stopped
    report    manifest.jsonl, rejects.parquet, report.json and report.html (`preprocess.audit`), result.json

No result depends on the order of scheduling: the plan is complete before the first excerpt is rendered, a
shard is a function of its recipes alone, and it is finished when its commit object exists. A killed run loses
the shards in progress, and the same command continues it.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pipelines import schema
from pipelines.audio.transcoding import trim_cache
from pipelines.cluster.actor_pool import run_actors
from pipelines.cluster.connection import Cluster, check_cluster, connect
from pipelines.dataset.manifest import REPORT
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shards import ShardCommit, read_commits
from pipelines.errors import UsageError
from pipelines.preprocess import audit
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.estimate import make_estimate
from pipelines.preprocess.plan_writer import write_plan
from pipelines.preprocess.render import RenderTask, ShardRenderer, count_shard
from pipelines.preprocess.scan import SCANS, SongScanner, cache_names, find_uncached_songs, read_scans
from pipelines.preprocess.songs import DiscoveryResult, Song
from pipelines.preprocess.sources import collect_sources
from pipelines.preprocess.verification import find_damaged
from pipelines.runtime import prometheus
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.progress import track_progress
from pipelines.runtime.run import FINGERPRINT, absolute_location, check_fingerprint, run_exclusively
from pipelines.runtime.signals import install_sigterm_handler
from pipelines.runtime.versions import software_versions
from pipelines.storage.folder import Folder, join

logger = logging.getLogger(__name__)

LISTING = "listing.json"


def preprocess(config: PreprocessConfig) -> Outcome:
    """Run preprocess to its end, an interruption or a failure, and write result.json.

    An output that another run holds, or that was created from another configuration or other files, is not
    changed.
    """
    run: PreprocessRun

    def prepare() -> Outcome | None:
        nonlocal run
        run = PreprocessRun(config)
        return run.resolve()

    def work() -> Outcome:
        run.execute()
        return run.report()

    resume_hint = "finished shards are kept, run the same command again to continue"
    return run_exclusively(
        Folder(config.output), prepare, work, activity="preprocessing", resume_hint=resume_hint
    )


def estimate(config: PreprocessConfig) -> str:
    """Describe what a run would make and cost."""
    return str(make_estimate(find_songs(config.data), config.recipes, config.codec, config.shards))


def status(output: str) -> str:
    """Describe the progress of an output."""
    return audit.status(Folder(absolute_location(output, "--output")))


class PreprocessRun:
    """One run over one output, which must be locked meanwhile.

    Raises:
        UsageError: ffmpeg has no encoder for a degradation.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        try:
            config.codec.check_available()
        except ValueError as error:
            raise UsageError(f"codec.degradations: {error}") from error
        self.config = config
        self.output = Folder(config.output)
        self.cache = Folder(config.sources.cache or join(config.output, "cache"))
        self.versions = software_versions(config.codec.ffmpeg)
        self._seconds: dict[str, float] = {}
        self._discovered: DiscoveryResult
        self._plan: dict[str, Any]
        self._commits: dict[tuple[str, int], ShardCommit] = {}
        self._stale: set[tuple[str, int]] = set()

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster, joined or started when there is work for it."""
        with self._timed("connect"):
            cluster = connect()
        install_sigterm_handler()  # Ray has installed its own handler
        where = "joined a Ray cluster" if cluster.joined else "started Ray on this machine"
        logger.info(f"{where}: {cluster.nodes} nodes, {cluster.cpus} CPUs")
        return cluster

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._seconds[stage] = round(self._seconds.get(stage, 0) + time.monotonic() - start, 3)

    def resolve(self) -> Outcome | None:
        """Find the songs, and check the output against them, the configuration and its finished shards.

        Returns:
            The outcome if the output is complete already.

        Raises:
            UsageError: the output belongs to another configuration or other files, or no cluster answers at
                RAY_ADDRESS.
        """
        check_cluster()
        with self._timed("find"):
            self._discovered = find_songs(self.config.data)
        self._check_fingerprint()
        if not self.output.exists(PLAN):
            return None
        self._read_plan()
        if self._pending or not self.output.exists(REPORT):
            return None
        return self._outcome(json.loads(self.output.read(REPORT)), "nothing to do, all shards verified")

    def execute(self) -> None:
        """Scan and plan where there is no plan, and render the shards that are not finished.

        Raises:
            UsageError: there are too few usable songs.
        """
        self.make_plan()
        self.output.delete(REPORT)  # first: a run killed after this must not count as finished
        for key in sorted(self._stale):
            self.output.delete(schema.commit_path(*key))
        with self._timed("render"):
            self._refill_cache(self._discovered.songs)
            self._render()

    def make_plan(self) -> None:
        """Scan the songs and draw the recipes, where there is no plan yet."""
        if not self.output.exists(PLAN):
            self._scan_and_plan()
            self._read_plan()
            prometheus.count_rejects("apollo_sources_rejected_total", self._plan["rejects"])
        self.output.delete_folder(SCANS)

    def report(self) -> Outcome:
        """Check the whole output and write its reports.

        Raises:
            AuditError: the output does not hold what was planned.
        """
        with self._timed("audit"):
            report = audit.finalize(self.output, self._plan, self.versions, self._seconds, self.config.codec)
        return self._outcome(report, "done")

    def _outcome(self, report: dict[str, Any], done: str) -> Outcome:
        share = max(report["reject_share_sources"], report["reject_share_recipes"])
        facts = {name: report[name] for name in ("planned", "committed", "rejected", "rejected_sources")}
        counts = "{planned} recipes planned, {committed} committed, {rejected} rejected".format(**report)
        if report["rejected_sources"]:
            counts += f"; {report['rejected_sources']} of {report['sources']} sources rejected"
        if share > self.config.max_reject_share:
            limit = f"max_reject_share {self.config.max_reject_share:g}"
            text = f"{counts}: more than {limit}; the reasons are in rejects.parquet"
            return Outcome(Exit.REJECTS, text, facts)
        return Outcome(Exit.DONE, f"{done}: {counts}", facts)

    def _check_fingerprint(self) -> None:
        """Check configuration and files against those of the plan; without a plan, write them."""
        files = sorted(
            {
                (file.name, file.size, file.mtime_ns)  # once, however many streams of it are used
                for song in self._discovered.songs
                for files in song.sources.values()
                for file in files
            }
        )
        listing = [list(file) for file in files]
        fingerprint = {"config": self.config.fingerprint_fields(), "versions": self.versions}
        if self.output.exists(PLAN):
            check_fingerprint(self.output, fingerprint)
            audit.check_listing(json.loads(self.output.read(LISTING))[0], listing, self.config.output)
            return
        # without a plan the configuration may change, and scans of the same files are kept
        content = json.dumps([listing, self.versions]).encode()
        if not self.output.exists(LISTING) or self.output.read(LISTING) != content:
            self.output.delete_folder(SCANS)
            self.output.write(LISTING, content)
        self.output.delete(FINGERPRINT)
        check_fingerprint(self.output, fingerprint)

    def _scan_and_plan(self) -> None:
        self._discovered.check_songs()
        config, songs = self.config, self._discovered.songs
        with self._timed("scan"):
            scans = self._scan(songs)
        with self._timed("plan"):
            sources = collect_sources(songs, scans, config.sources, config.splits, config.recipes.wanted)
            write_plan(
                self.output,
                sources,
                self._discovered,
                config.recipes,
                seed=config.seed,
                shard_rows=config.shards.rows,
            )

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
        for _ in track_progress(results, total=len(songs), done=done, description="scan", unit="song"):
            prometheus.record("apollo_songs_scanned_total")

    def _refill_cache(self, songs: list[Song]) -> None:
        """Decode again the sources of the plan that were deleted from the cache."""
        if missing := find_uncached_songs(self.output, self.cache):
            self._scan_songs([song for song in songs if song.song_id in missing], songs)
            self.output.delete_folder(SCANS)

    def _read_plan(self) -> None:
        """Read the plan, and compare all finished shards with their commits."""
        self._plan = json.loads(self.output.read(PLAN))
        with self._timed("verify"):
            commits = read_commits(self.output)
            rows = {(task["split"], task["shard"]): task["rows"] for task in planned_shards(self._plan)}
            way, actors = self.config.verify, self.config.actors
            damaged = find_damaged(
                self.output, commits.values(), way, actors=actors, connect=lambda: self.cluster
            )
            damaged += [c for c in commits.values() if c.rows + len(c.rejected) != rows.get(c.key)]
        for commit in damaged:
            logger.warning(f"shard {schema.shard_name(*commit.key)} is damaged and will be rendered again")
        self._stale = {commit.key for commit in damaged}
        if self.config.retry_rejects:
            self._stale |= {commit.key for commit in commits.values() if commit.rejected}
        self._commits = {key: commit for key, commit in commits.items() if key not in self._stale}

    @property
    def _pending(self) -> list[dict[str, Any]]:
        """The planned shards that are not finished."""
        tasks = planned_shards(self._plan)
        return [task for task in tasks if (task["split"], task["shard"]) not in self._commits]

    def _render(self) -> None:
        pending, done = self._pending, len(self._commits)
        if not pending:
            return
        logger.info(f"rendering {len(pending)} of {len(pending) + done} shards")
        task = RenderTask(
            self.output.location, self.cache.location, self.config.codec, self.config.shards, self.versions
        )
        results = run_actors(pending, ShardRenderer, (task,), actors=self.config.actors, cluster=self.cluster)
        for row in track_progress(
            results, total=len(pending) + done, done=done, description="render", unit="shard"
        ):
            count_shard(ShardCommit(**json.loads(row["commit"])), json.loads(row["encode_seconds"]))
