"""A training run whose output is a URI: worked on in a folder of every node's own, mirrored to the store.

    OUTPUT/ in the store
      checkpoints/step-00012000/   as on a disk; its MANIFEST.json comes last, and without it there is none
      checkpoints/scores.json
      best                         an object with the name of the best checkpoint: checkpoints/step-00012000
      init/                        the checkpoint that the run began from
      tracking/                    what was logged, by which a run that goes on elsewhere finds its MLflow run
      rejects-<rank>.jsonl

What the store has counts: a node takes from it what it lacks, and what it has otherwise, for a machine that
comes back may have steps that the run took again without it. The first worker sends what the store lacks.
"""

import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
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
from apollo.checkpoints.io import digest
from pipelines.registry.checkpoint_cache import fetch
from pipelines.storage.folder import Folder, write_locally
from pipelines.storage.object_store import StoreError
from pipelines.training.config import INIT

logger = logging.getLogger(__name__)

CHECKPOINTS, TRACKING = "checkpoints", "tracking"
_SCORES = f"{CHECKPOINTS}/scores.json"
_LINES = f"{TRACKING}/metrics.jsonl"
_STEP = re.compile(rf"{CHECKPOINTS}/step-(\d{{8,}})(?=/|$)")


class CheckpointSync:
    """A run's output in a store, and a node's folder of it.

    Args:
        output: URI.
        local: The folder.
        rank: Of the worker, whose rejects are its own affair.
    """

    def __init__(self, output: str, local: Path, rank: int = 0) -> None:
        self._store, self._local = Folder(output), local
        self._rejects = f"rejects-{rank}.jsonl"
        self._damaged: set[str] = set()

    def pull(self) -> None:
        """Make the folder hold what the store does: to be done on every node before a run goes on.

        Raises:
            StoreError: the store does not answer.
        """
        with self._locked():
            self._pull_initial()
            _, names = self._remote_checkpoints()
            for name in sorted(set(self._local_checkpoints()) - names):
                shutil.rmtree(self._local / name)
            for name in sorted(names):
                self._pull_checkpoint(name, (CONFIG, WEIGHTS, TRAINING))
            self._merge_scores()
            self._link_best()
            rejects = self._local / self._rejects
            if not rejects.exists() and self._store.exists(self._rejects):
                write_locally(str(rejects), self._store.read(self._rejects))

    def pull_initial(self) -> None:
        """Bring what the driver needs: the checkpoint that the run began from, and by what it was tracked."""
        with self._locked():
            self._pull_initial()

    def push_init(self) -> None:
        """Give the store the checkpoint that the run began from."""
        if not self._store.exists(f"{INIT}/{MANIFEST}"):
            self._push_checkpoint(INIT)

    def push_newer(self) -> None:
        """Give the store the checkpoints after its newest: those that it was not there for."""
        newest = max(self._remote_checkpoints()[1], default="")
        self._push_checkpoints(name for name in self._local_checkpoints() if name > newest)

    def push(self) -> None:
        """Give the store what it lacks, say which checkpoint is best, and then delete what was given up here.

        Raises:
            StoreError: the store does not answer; calling again does the rest.
        """
        here, begun, there = self._local_checkpoints(), *self._remote_checkpoints()
        self._push_tracking()
        self._push_checkpoints(name for name in here if name not in there)
        self._push_file(_SCORES)
        link = self._local / BEST
        if link.is_symlink() and link.exists():
            self._store.write(BEST, link.readlink().as_posix().encode())
        # a damaged one stays: it may be whole there, and this disk at fault
        for name in begun - set(here) - self._damaged:
            self._store.delete(f"{name}/{MANIFEST}")  # first: what is half deleted is none
            self._store.delete_folder(name)

    def try_push(self) -> None:
        """Send, and where the store does not answer say so: the next time sends it too."""
        try:
            self.push()
        except StoreError as error:
            logger.warning(f"not in the store yet, which is tried again at the next checkpoint: {error}")

    def try_push_rejects(self) -> None:
        """Send what this worker has left out, on every worker; where the store does not answer say so."""
        try:
            self._push_file(self._rejects)
        except StoreError as error:
            logger.warning(f"{self._rejects} is not in the store: {error}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder: several workers of a node begin at once."""
        make_folder(self._local)
        with open(self._local / ".sync.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _local_checkpoints(self) -> list[str]:
        """Name the checkpoints that are in the folder, rising."""
        found = (self._local / CHECKPOINTS).glob(f"step-*/{MANIFEST}")
        names = (path.parent.relative_to(self._local).as_posix() for path in found)
        return sorted(name for name in names if _STEP.fullmatch(name))

    def _remote_checkpoints(self) -> tuple[set[str], set[str]]:
        """Name the checkpoints of which something is in the store, and those that are there."""
        names = {entry.name for entry in self._store.entries(CHECKPOINTS, recursive=True)}
        begun = {match[0] for name in names if (match := _STEP.match(name))}
        return begun, {name for name in begun - self._damaged if f"{name}/{MANIFEST}" in names}

    def _pull_checkpoint(self, name: str, files: tuple[str, ...]) -> None:
        def download(scratch: Path) -> Path:
            for file in (*files, MANIFEST):
                self._store.get(f"{name}/{file}", str(scratch / file))
            return scratch

        try:
            manifest = self._store.read(f"{name}/{MANIFEST}")
            fetch(self._local / name, files, download, manifest=manifest)
        except (CheckpointError, FileNotFoundError) as error:
            logger.warning(f"{name} in {self._store.location} is damaged and left aside: {error}")
            self._damaged.add(name)
            shutil.rmtree(self._local / name, ignore_errors=True)

    def _push_checkpoints(self, names: Iterable[str]) -> None:
        for name in names:
            self._push_checkpoint(name)

    def _push_checkpoint(self, name: str) -> None:
        files = [path.name for path in (self._local / name).iterdir() if path.name != MANIFEST]
        for file in (*sorted(files), MANIFEST):
            path = self._local / name / file
            self._store.put(f"{name}/{file}", str(path))
            self._store.confirm(f"{name}/{file}", digest(path))
        self._damaged.discard(name)

    def _push_file(self, name: str) -> None:
        path = self._local / name
        if path.exists():
            self._store.write(name, path.read_bytes())

    def _push_tracking(self) -> None:
        """Send what was logged before the checkpoint that comes after it, without the files that were."""
        for path in (self._local / TRACKING).glob("*.json*"):
            self._push_file(f"{TRACKING}/{path.name}")

    def _pull_initial(self) -> None:
        self._pull_tracking()
        if self._store.exists(f"{INIT}/{MANIFEST}"):
            self._pull_checkpoint(INIT, (CONFIG, WEIGHTS))

    def _pull_tracking(self) -> None:
        """Bring what was logged elsewhere; lines are only added, so the longer are the later ones."""
        stored = {entry.name: entry.size for entry in self._store.entries(TRACKING)}
        lines = self._local / _LINES
        if stored.get(_LINES, 0) > (lines.stat().st_size if lines.exists() else -1):
            for name in sorted(stored, key=_LINES.__eq__):  # the lines last: by them it is told what is here
                write_locally(str(self._local / name), self._store.read(name))

    def _merge_scores(self) -> None:
        """Put together what is known of each step, here and there."""
        path = self._local / _SCORES
        known = json.loads(path.read_bytes()) if path.exists() else {}
        stored = json.loads(self._store.read(_SCORES)) if self._store.exists(_SCORES) else {}
        merged = {step: {**stored.get(step, {}), **known.get(step, {})} for step in {**stored, **known}}
        if merged != known:
            write_locally(str(path), json.dumps(merged, indent=1).encode())

    def _link_best(self) -> None:
        name = self._store.read(BEST).decode() if self._store.exists(BEST) else ""
        if _STEP.fullmatch(name) and (self._local / name).exists():
            link = self._local / BEST
            link.unlink(missing_ok=True)
            link.symlink_to(name)


def make_folder(local: Path) -> None:
    """Make a node's folder, in one that other users cannot enter unless it was there before."""
    local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    local.mkdir(exist_ok=True)
