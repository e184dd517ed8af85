"""Restore songs on all machines of a cluster; the implementation of jobs/restore.py.

    OUTPUT/
      album/song.wav       results, each complete or absent, in the songs' folders
      outcomes.jsonl       a line per song: status, reason, warnings, length, gain, sha256
      rejects.jsonl        the lines of failed songs
      commits/             a record per song, from which a run resumes
      fingerprint.json     what determines the results; a run with other values is refused
      result.json          status, exit code and counts

A song is finished when its record exists and its result has the recorded size.
"""

import json
import logging
import secrets
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

from apollo.audio.formats import RATES, SongsConfig
from apollo.model.config import COMPACT, PRECISIONS
from pipelines.errors import UsageError
from pipelines.runtime import prometheus
from pipelines.runtime.outcome import RESULT, Exit, Outcome
from pipelines.runtime.progress import track_progress
from pipelines.runtime.run import absolute_location, check_fingerprint, run_exclusively
from pipelines.runtime.signals import install_sigterm_handler
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pipelines.registry.model_bundle import ModelBundle
    from pipelines.restoration.records import SongRecord
    from pipelines.restoration.songs import SongTask

OUTCOMES, REJECTS = "outcomes.jsonl", "rejects.jsonl"
_DEVICES = ("auto", "cuda", "cpu")
_STATUSES = ("restored", "skipped", "failed")


@dataclass(frozen=True, kw_only=True)
class RestoreConfig(SongsConfig):
    """Configuration of a restoration job: the options of `apollo restore`, and those below.

    Args:
        data: Songs, folders with songs (recursively), or URIs of either: s3://bucket/path, gs://bucket/path.
        output: Folder or URI for the results. A run on an existing output resumes it.
        checkpoint: `compact` (installed with the package), folder, file, Hugging Face name or registry name
            (models:/apollo@champion) of the weights; only the driver's machine reads it.
        device: `cuda` for actors with a GPU each, `cpu` for actors with a CPU and one thread each; `auto`
            takes the GPUs if the cluster has some.
        precision: Of the linear layers: `float32`, `bfloat16`, or `auto`: bfloat16 if the actor's hardware
            supports it.
        actors: Maximum number of actors; unset takes all GPUs, or all CPUs.
    """

    data: list[str]
    output: str = field()  # required, unlike that of `apollo restore`
    checkpoint: str = COMPACT
    device: str = "auto"
    precision: str = "auto"
    actors: int | None = None

    def __post_init__(self) -> None:
        if not self.data or not self.output:
            raise UsageError("--data needs at least one song, folder or URI, and --output is required")
        object.__setattr__(self, "data", [absolute_location(place, "--data") for place in self.data])
        object.__setattr__(self, "output", absolute_location(self.output, "--output"))
        for name, allowed in (("device", _DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(allowed)}")
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}: it must be 1 or more, or unset")
        try:
            super().__post_init__()
        except ValueError as error:
            raise UsageError(str(error)) from error

    @cached_property
    def songs(self) -> SongsConfig:
        """Options of `apollo restore`; actors overwrite, since existing results are not sent to them."""
        values = {one.name: getattr(self, one.name) for one in fields(SongsConfig)}
        return SongsConfig(**values | {"overwrite": True})


def restore(config: RestoreConfig) -> Outcome:
    """Restore all songs and write result.json, whatever the outcome.

    An output that another run holds, or that was created with another configuration, is not changed.
    """
    output = Folder(config.output)
    run = _Run(config)
    resume_hint = "finished songs are kept, run the same command again to continue"
    return run_exclusively(output, run.prepare, run.work, activity="restoring", resume_hint=resume_hint)


def describe(config: RestoreConfig) -> str:
    """Return what a run would do, song by song; nothing is changed.

    Raises:
        ValueError: a song or folder does not exist.
    """
    from pipelines.restoration.records import split_pending
    from pipelines.restoration.songs import find_songs

    tasks = find_songs(config.data, config.songs)
    finished, _ = split_pending(tasks, Folder(config.output), overwrite=config.overwrite)
    lines = []
    for song in tasks:
        record = finished.get(song)
        if record is None:
            lines.append(f"restore   {song.source!r} -> {song.name!r}")
        elif record.status == "restored":
            lines.append(f"exists    {song.source!r} -> {song.name!r}")
        else:
            lines.append(f"{record.status:9s} {song.source!r}: {record.reason}")
    return "\n".join([*lines, f"{len(tasks) - len(finished)} of {len(tasks)} songs to restore"])


class _Run:
    """One run over a locked output."""

    def __init__(self, config: RestoreConfig) -> None:
        self.config = config
        self.output = Folder(config.output)
        self.tasks: list[SongTask] = []
        self.records: dict[SongTask, SongRecord] = {}
        self.pending: list[SongTask] = []
        self.weights: ModelBundle

    def prepare(self) -> Outcome | None:
        """Find the songs, load the weights, check the fingerprint, and find what is pending."""
        from apollo.inference.crossover import check_keep_below
        from pipelines.cluster.connection import check_cluster
        from pipelines.restoration.records import split_pending
        from pipelines.restoration.songs import find_songs

        check_cluster()
        self.tasks = find_songs(self.config.data, self.config.songs)
        self.weights = _load(self.config.checkpoint)
        config = self.config
        if config.keep_below is not None:
            check_keep_below(config.keep_below, self.weights.config["sample_rate"])
        default = self.weights.config.get("noise_strength")  # of all models; without noise it changes nothing
        fingerprint = {
            "weights": self.weights.digest,
            "generator": self.weights.config,
            "format": config.format,
            "rate": config.rate,
            "clip": config.clip,
            "filename": config.filename,
            "precision": config.precision,
            "strength": default if config.strength is None else config.strength,
            "seed": config.seed,
            "keep_below": config.keep_below,
        }
        # options that earlier releases did not have
        added = {"strength": default, "seed": 0, "rate": RATES[0], "keep_below": None}
        check_fingerprint(self.output, fingerprint, upgrade=lambda stored: {**added, **stored})
        self.records, self.pending = split_pending(self.tasks, self.output, overwrite=config.overwrite)
        return self._already_finished()

    def _already_finished(self) -> Outcome | None:
        """Return the outcome if everything is restored and recorded already."""
        try:
            code = json.loads(self.output.read(RESULT))["exit_code"]
            lines = self.output.read(OUTCOMES)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if self.pending or lines != self._lines(_STATUSES):
            return None
        outcome = self._outcome("nothing to do: ")
        return outcome if code == outcome.code else None

    def work(self) -> Outcome:
        """Restore the pending songs."""
        before = len(self.records)
        if self.pending:
            self._restore()
        for name, statuses in ((OUTCOMES, _STATUSES), (REJECTS, ("failed",))):
            self.output.write(name, self._lines(statuses))
        return self._outcome("", before=before)

    def _restore(self) -> None:
        from apollo.audio.tags import describe_checkpoint
        from pipelines.cluster import actor_pool, connection
        from pipelines.restoration.actor import RestoreSettings, SongRestorer
        from pipelines.restoration.records import SongRecord

        config, here = self.config, connection.connect()
        install_sigterm_handler()  # Ray has installed its own handler
        on_gpu = config.device == "cuda" or (config.device == "auto" and here.gpus > 0)
        device = "cuda" if on_gpu else "cpu"
        logger.info(
            f"restoring {len(self.pending)} of {len(self.tasks)} songs: {here.cpus} CPUs, {here.gpus} GPUs"
        )
        model = describe_checkpoint(config.checkpoint)
        task = RestoreSettings(secrets.token_hex(8), config.songs, device, config.precision, model)
        # the longest first, so that none is left for the end
        order = sorted(self.pending, key=lambda song: -song.source_bytes)
        songs = {song.name: song for song in order}
        results = actor_pool.run_actors(
            [{"song": json.dumps(asdict(song))} for song in order],
            SongRestorer,
            (task, connection.share(self.weights)),
            actors=config.actors,
            cluster=here,
            on_gpu=on_gpu,
            long_items=True,
        )
        done = len(self.tasks) - len(order)
        for row in track_progress(
            results, total=len(self.tasks), done=done, description="restore", unit="song"
        ):
            record = SongRecord(**json.loads(row["record"]))
            self.records[songs[record.name]] = record
            _count_song(record)
            if record.status == "failed":
                logger.error(f"{record.source!r} not restored: {record.reason}")
        self.output.delete_temporary()  # files of killed actors

    def _lines(self, statuses: tuple[str, ...]) -> bytes:
        records = (self.records[song] for song in self.tasks)
        return "".join(f"{record.to_json()}\n" for record in records if record.status in statuses).encode()

    def _outcome(self, begin: str, *, before: int | None = None) -> Outcome:
        """Return the outcome of the run, with the exit codes of `apollo restore`."""
        counts = Counter(record.status for record in self.records.values())
        text = begin + ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
        if counts["failed"]:
            text += f"; the reasons are in {REJECTS}"
        facts = {
            "songs": len(self.tasks),
            **{status: counts[status] for status in _STATUSES},
            "already": len(self.records) if before is None else before,
            "checkpoint": self.config.checkpoint,
        }
        if not counts["failed"]:
            return Outcome(Exit.DONE, text, facts)
        code = Exit.FAILED if counts["failed"] == len(self.tasks) else Exit.REJECTS
        return Outcome(code, text, facts)


def _load(checkpoint: str) -> "ModelBundle":
    """Load the weights as arrays.

    Raises:
        ValueError: they cannot be loaded.
    """
    from apollo.checkpoints.checkpoint import load
    from pipelines.registry.model_bundle import pack

    try:
        return pack(load(checkpoint))
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise UsageError(f"{package} is required to load {checkpoint}: pip install {package}") from error


def _count_song(song: "SongRecord") -> None:
    """Count a finished song in the Prometheus metrics."""
    if song.status == "failed":
        prometheus.count_rejects("apollo_songs_failed_total", [asdict(song)])
        return
    prometheus.record("apollo_songs_restored_total")
    prometheus.record("apollo_restored_audio_seconds_total", song.seconds or 0.0)
    prometheus.record("apollo_restore_seconds", song.elapsed_seconds or 0.0)
