"""Synchronization of a training's local folders with an output in an object store.

    OUTPUT/ in the store
      checkpoints/step-00012000/   as on a disk; its MANIFEST.json is written last and makes it valid
      checkpoints/scores.json
      best                         an object with the name of the best checkpoint: checkpoints/step-00012000
      init/                        copy of the checkpoint that the run started from
      tracking/                    logged metrics and the id of the MLflow run
      rejects-<rank>.jsonl

The store is authoritative: a node downloads what it lacks or has in another version, since a machine that
returns may have steps that were repeated without it. Rank 0 uploads what the store lacks.

A node's folder is named by the output alone, so a run finds it with any settings that may change when it is
resumed. A copy of the run's fingerprint says which run is in it: what is left of a run that was deleted in
the store is deleted.
"""

import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from apollo.checkpoints.checkpoint import (
    BEST,
    CONFIG,
    MANIFEST,
    TRAINING,
    WEIGHTS,
    CheckpointError,
)
from apollo.checkpoints.io import file_sha256
from pipelines.registry.checkpoint_cache import fetch, is_intact
from pipelines.runtime.run import FINGERPRINT
from pipelines.storage.atomic import write_atomic
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError
from pipelines.training.config import INIT

logger = logging.getLogger(__name__)

CHECKPOINTS, TRACKING = "checkpoints", "tracking"
_LOCKS = (".lock", ".sync.lock")
_SCORES = f"{CHECKPOINTS}/scores.json"
_LINES = f"{TRACKING}/metrics.jsonl"
_STEP = re.compile(rf"{CHECKPOINTS}/step-(\d{{8,}})(?=/|$)")


class CheckpointSync:
    """Uploads and downloads a run's output.

    Args:
        output: URI of the output.
        local: Folder of this node.
        rank: Rank of the worker, which uploads its own rejects.
    """

    def __init__(self, output: str, local: Path, rank: int = 0) -> None:
        self._store, self._local = Folder(output), local
        self._rejects = f"rejects-{rank}.jsonl"
        self._damaged: set[str] = set()

    def bind_to_run(self) -> None:
        """Delete local files of a different run, then record the fingerprint of the store's run."""
        if not self._store.exists(FINGERPRINT):
            return
        run, note = self._store.read(FINGERPRINT), self._local / FINGERPRINT
        if not note.exists() or note.read_bytes() != run:
            self._clear()
            write_atomic(str(note), run)

    def pull(self) -> None:
        """Download what the folder lacks, then delete checkpoints that the store does not have.

        Raises:
            StoreError: the store is unreachable.
        """
        with self._locked():
            self.bind_to_run()
            self._pull_initial()
            _, names = self._remote_checkpoints()
            for name in sorted(names):
                self._pull_checkpoint(name, (CONFIG, WEIGHTS, TRAINING))
            for name in sorted(set(self._local_checkpoints()) - names):
                shutil.rmtree(self._local / name)
            self._merge_scores()
            self._link_best()
            rejects = self._local / self._rejects
            if not rejects.exists() and self._store.exists(self._rejects):
                write_atomic(str(rejects), self._store.read(self._rejects))

    def pull_initial(self) -> None:
        """Download what the driver needs: the initial checkpoint and the id of the MLflow run."""
        with self._locked():
            if self._store.exists(FINGERPRINT):
                self.bind_to_run()
            else:
                self._clear()  # a new run
            self._pull_initial()

    def push_init(self) -> None:
        """Upload the initial checkpoint."""
        if not self._store.exists(f"{INIT}/{MANIFEST}"):
            self._push_checkpoint(INIT)

    def push_newer(self) -> None:
        """Upload the checkpoints after the store's newest, whose upload failed when they were written."""
        newest = max(self._remote_checkpoints()[1], default="")
        for name in self._local_checkpoints():
            if name > newest:
                self._push_checkpoint(name)

    def push_intact(self) -> None:
        """Upload checkpoints that are intact here and, as `pull` found, damaged in the store."""
        for name in sorted(self._damaged.intersection(self._local_checkpoints())):
            self._push_checkpoint(name)

    def read_tracking(self) -> dict[str, bytes]:
        """Read the metrics logged so far, without artifacts: name and content."""
        found = (self._local / TRACKING).glob("*.json*")
        return {f"{TRACKING}/{path.name}": path.read_bytes() for path in found}

    def push(self, tracking: Mapping[str, bytes] | None = None) -> None:
        """Upload what the store lacks and the name of the best checkpoint, then delete what was deleted here.

        Safe while training runs: checkpoints that are deleted before their upload are skipped, new ones are
        uploaded by the next call.

        Args:
            tracking: The metrics that precede the newest checkpoint; by default those logged so far.

        Raises:
            StoreError: the store is unreachable; calling again does the rest.
        """
        local, partial, remote = self._local_checkpoints(), *self._remote_checkpoints()
        for file, content in (self.read_tracking() if tracking is None else tracking).items():
            self._store.write(file, content)
        for name in sorted(set(local) - remote):
            self._push_checkpoint(name)
        self._push_file(_SCORES)
        link = self._local / BEST
        best = link.readlink().as_posix() if link.is_symlink() else ""
        if best in {*local, *remote}:  # not one that was written after this call
            self._store.write(BEST, best.encode())
        # a damaged one stays: it may be intact there, and this disk at fault
        for name in partial - set(local) - self._damaged:
            self._store.delete(f"{name}/{MANIFEST}")  # first: without it the rest is not a checkpoint
            self._store.delete_folder(name)

    def try_push(self, tracking: Mapping[str, bytes]) -> None:
        """Upload as `push` does; if the store is unreachable, log it and leave it to the next call."""
        try:
            self.push(tracking)
        except StoreError as error:
            logger.warning(f"upload failed, retrying at the next checkpoint: {error}")

    def try_push_rejects(self) -> None:
        """Upload the rejects of this rank; if the store is unreachable, log it."""
        try:
            self._push_file(self._rejects)
        except StoreError as error:
            logger.warning(f"upload of {self._rejects} failed: {error}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude the other workers of this node, which start at the same time."""
        make_folder(self._local)
        with open(self._local / ".sync.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _clear(self) -> None:
        make_folder(self._local)
        files = [path for path in self._local.iterdir() if path.name not in _LOCKS]
        if files:
            logger.warning(f"{self._local} is of a run that {self._store.location} does not hold: deleted")
        for path in files:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _local_checkpoints(self) -> list[str]:
        """List the checkpoints in the folder, oldest first."""
        found = (self._local / CHECKPOINTS).glob(f"step-*/{MANIFEST}")
        names = (path.parent.relative_to(self._local).as_posix() for path in found)
        return sorted(name for name in names if _STEP.fullmatch(name))

    def _remote_checkpoints(self) -> tuple[set[str], set[str]]:
        """List the checkpoints that the store has any object of, and those that are valid."""
        names = {entry.name for entry in self._store.entries(CHECKPOINTS, recursive=True)}
        partial = {match[0] for name in names if (match := _STEP.match(name))}
        return partial, {name for name in partial - self._damaged if f"{name}/{MANIFEST}" in names}

    def _pull_checkpoint(self, name: str, files: tuple[str, ...]) -> None:
        def download(scratch: Path) -> Path:
            for file in (*files, MANIFEST):
                self._store.get(f"{name}/{file}", str(scratch / file))
            return scratch

        try:
            manifest = self._store.read(f"{name}/{MANIFEST}")
            fetch(self._local / name, files, download, manifest=manifest)
        except (CheckpointError, FileNotFoundError) as error:
            logger.warning(f"{name} in {self._store.location} is damaged and ignored: {error}")
            self._damaged.add(name)
            if not is_intact(self._local / name, files):
                shutil.rmtree(self._local / name, ignore_errors=True)

    def _push_checkpoint(self, name: str) -> None:
        try:
            files = [path.name for path in (self._local / name).iterdir() if path.name != MANIFEST]
            for file in (*sorted(files), MANIFEST):
                path = self._local / name / file
                self._store.put(f"{name}/{file}", str(path))
                self._store.verify_upload(f"{name}/{file}", file_sha256(path))
            self._damaged.discard(name)
        except OSError:
            if (self._local / name / MANIFEST).exists():
                raise
            logger.info(f"{name} was deleted before its upload ended")  # newer ones have taken its place

    def _push_file(self, name: str) -> None:
        path = self._local / name
        if path.exists():
            self._store.write(name, path.read_bytes())

    def _pull_initial(self) -> None:
        self._pull_tracking()
        if self._store.exists(f"{INIT}/{MANIFEST}"):
            self._pull_checkpoint(INIT, (CONFIG, WEIGHTS))

    def _pull_tracking(self) -> None:
        """Download what another machine logged; lines are only appended, so the longer file is newer."""
        stored = {entry.name: entry.size for entry in self._store.entries(TRACKING)}
        lines = self._local / _LINES
        if stored.get(_LINES, 0) > (lines.stat().st_size if lines.exists() else -1):
            for name in sorted(stored, key=_LINES.__eq__):  # the metrics last: their length says what is here
                write_atomic(str(self._local / name), self._store.read(name))

    def _merge_scores(self) -> None:
        """Merge the scores of the folder and of the store, by step."""
        path = self._local / _SCORES
        known = json.loads(path.read_bytes()) if path.exists() else {}
        stored = json.loads(self._store.read(_SCORES)) if self._store.exists(_SCORES) else {}
        merged = {step: {**stored.get(step, {}), **known.get(step, {})} for step in {**stored, **known}}
        if merged != known:
            write_atomic(str(path), json.dumps(merged, indent=1).encode())

    def _link_best(self) -> None:
        name = self._store.read(BEST).decode() if self._store.exists(BEST) else ""
        if _STEP.fullmatch(name) and (self._local / name).exists():
            link = self._local / BEST
            link.unlink(missing_ok=True)
            link.symlink_to(name)


def make_folder(local: Path) -> None:
    """Create a node's folder; its parent is made inaccessible to other users unless it exists."""
    local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    local.mkdir(exist_ok=True)
