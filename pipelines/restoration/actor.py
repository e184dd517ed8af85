"""An actor that restores songs: reads each, restores it as `apollo restore` does, and writes the result.

A bad song only gives a record with a reason. One that kills its process repeatedly (by its memory, say) fails
after three attempts, which are counted in its record.
"""

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from apollo.audio.formats import SongsConfig
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.songs import SongJob, restore_songs
from apollo.checkpoints.io import file_sha256
from apollo.model.device import choose_device, choose_precision
from pipelines.audio.reading import open_source_file
from pipelines.cluster.connection import Shared
from pipelines.errors import root_cause
from pipelines.registry.model_bundle import unpack
from pipelines.restoration.records import SongRecord, commit_path, read_record, write_record
from pipelines.restoration.songs import SongTask
from pipelines.runtime import logs
from pipelines.runtime.run import FINGERPRINT
from pipelines.storage.folder import Folder, is_uri

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class RestoreSettings:
    """Settings of an actor.

    Args:
        run: Identifier of the run.
        songs: Format and naming of results, and the output: path or URI.
        device: `cuda` or `cpu`.
        precision: One of `apollo.model.config.PRECISIONS`.
        model: Name of the generator, for the results' tags.
    """

    run: str
    songs: SongsConfig
    device: str
    precision: str
    model: str = ""


class SongRestorer:
    """Restores and commits one song at a time; the class of the Ray actor."""

    def __init__(self, task: RestoreSettings, weights: Shared) -> None:
        logs.configure()
        self._task = task
        self._output = Folder(task.songs.output)
        if not self._output.exists(FINGERPRINT):
            raise RuntimeError(
                f"node {os.uname().nodename} cannot access {task.songs.output}: use an output that "
                "every node can write, or a URI such as s3://bucket/path"
            )
        self._device = choose_device(task.device)
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # an actor has one CPU
        precision = choose_precision(task.precision, self._device)
        self._precision = str(precision).removeprefix("torch.")
        self._generator = unpack(weights.get()).with_precision(precision).to(self._device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore the song of a row."""
        return {"record": json.dumps(asdict(self.restore(SongTask(**json.loads(row["song"])))))}

    def restore(self, song: SongTask) -> SongRecord:
        """Restore and commit one song."""
        before = read_record(self._output, commit_path(song.name))
        if before is None or before.run != self._task.run:
            attempts = 1
        elif before.status == "begun":
            attempts = before.attempts + 1
        else:
            return before  # finished; its actor died afterwards
        record = replace(
            SongRecord.start(song, "begun"),
            run=self._task.run,
            attempts=attempts,
            device=self._device.type,
            precision=self._precision,
        )
        if attempts > _MAX_ATTEMPTS:
            record.status, record.kind = "failed", RejectKind.KILLED
            record.reason = f"killed its process {_MAX_ATTEMPTS} times"
        else:
            write_record(self._output, record)
            try:
                self._restore(song, record)
            except torch.AcceleratorError as error:
                # the device is unusable: every song would fail at once. Ray restarts the actor
                logger.error(f"{song.source}: {root_cause(error)}")
                os._exit(1)
        write_record(self._output, record)
        return record

    def _restore(self, song: SongTask, record: SongRecord) -> None:
        """Restore a song, write its result and complete its record."""
        with tempfile.TemporaryDirectory(prefix="apollo-restore-") as scratch:
            try:
                source = _fetch(song.source, scratch)
                remote = is_uri(self._task.songs.output)
                target = Path(scratch, f"result{Path(song.name).suffix}")
                if not remote:
                    target = Path(self._task.songs.output, song.name)
                jobs = [SongJob(source, target)]
                (outcome,) = restore_songs(self._generator, jobs, self._task.songs, model=self._task.model)
                record.status, record.reason, record.kind = outcome.status, outcome.reason, outcome.kind
                if outcome.status == "restored":
                    record.bytes, record.sha256 = target.stat().st_size, file_sha256(target)
                    if remote:
                        self._output.put(song.name, str(target))
                        self._output.verify_upload(song.name, record.sha256)
                for name in ("warnings", "channels", "samples", "seconds", "elapsed_seconds", "peak", "gain"):
                    setattr(record, name, getattr(outcome, name))
            except torch.AcceleratorError:
                raise
            except Exception as error:  # an error of one song does not stop the others
                record.status, record.kind = "failed", getattr(error, "kind", RejectKind.OTHER)
                record.reason = str(error) if isinstance(error, AudioError) else root_cause(error)


def _fetch(location: str, scratch: str) -> Path:
    """Return a song as a local file.

    Raises:
        AudioError: it cannot be opened.
    """
    if not is_uri(location):
        return Path(location)
    copy = Path(scratch, "song")
    with open_source_file(location) as stream, copy.open("wb") as file:
        shutil.copyfileobj(stream, file, _COPY_BYTES)
    return copy
