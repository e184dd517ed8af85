"""Serve the application on Ray Serve until a signal; the implementation of jobs/serve.py.

FOLDER/
  songs/ queue/        the songs' state and the jobs that wait: `apollo.web.song_folder`
  model/               the checkpoint that all replicas load
  run                  a random name, by which every replica checks that it sees this folder
  closing              exists while the service shuts down
  result.json          status, exit code and counts
"""

import logging
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import SongStore
from pipelines.errors import NonRetryableError, UsageError
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.run import run_exclusively
from pipelines.runtime.signals import install_sigterm_handler
from pipelines.serving.config import ServeConfig
from pipelines.serving.service_folder import CLOSING_FILE, RUN_FILE
from pipelines.storage.folder import Folder

if TYPE_CHECKING:
    from apollo.model.generator import Generator

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_NOTICE_SECONDS = 5.0  # for load balancers, which ask for /health now and then


def serve(config: ServeConfig) -> Outcome:
    """Serve until SIGTERM or SIGINT, finish what was accepted, and write result.json."""
    run = _Run(config)
    hint = "songs that wait are kept and done after the next start with this --folder"
    return run_exclusively(Folder(config.folder), run.prepare, run.work, activity="serving", resume_hint=hint)


class _Run:
    """One run over a locked folder."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.folder = Path(config.folder)
        self.settings: WebSettings
        self.generator: Generator
        self.on_gpu = False

    def prepare(self) -> None:
        """Check access, cluster and model."""
        from apollo.checkpoints.checkpoint import load
        from pipelines.cluster import connection
        from pipelines.cluster.placement import max_resources

        config = self.config
        self.settings = config.read_settings()
        self.generator = load(config.checkpoint)
        here = connection.connect()
        install_sigterm_handler()  # Ray has installed its own handler
        self.on_gpu = config.device == "cuda" or (config.device == "auto" and here.gpus > 0)
        self._check_resources(max_resources())
        try:
            from pipelines.serving import deployment
        except ImportError as error:
            raise UsageError(f"Ray Serve is not installed: pip install 'ray[serve]' ({error})") from error
        deployment.check_absent()

    def _check_resources(self, most: dict[str, float]) -> None:
        config = self.config
        for name, each in {"CPU": config.cpus, "GPU": config.gpus if self.on_gpu else 0}.items():
            needed, there = each * config.min_replicas, most.get(name, 0)
            if there < needed:
                raise UsageError(
                    f"{config.min_replicas} replicas need {needed:g} {name}s, and the cluster has {there:g}: "
                    "give fewer --min-replicas, --cpus or --gpus, or a larger cluster"
                )

    def work(self) -> Outcome:
        """Serve until a signal, then drain."""
        from pipelines.serving import deployment

        try:
            deployment.start(self.config, self._make_service())
            config = self.config
            host = f"[{config.host}]" if ":" in config.host else config.host
            print(f"serve: http://{host}:{config.port}/", flush=True)
            self._wait()
        except KeyboardInterrupt:
            self._drain()
        finally:
            deployment.stop()
        return self._outcome()

    def _make_service(self) -> Any:
        """Write the files that replicas read, and return their configuration."""
        from apollo.audio.tags import describe_checkpoint
        from apollo.checkpoints.checkpoint import save_safetensors
        from apollo.web.rendering import describe_model
        from pipelines.serving.deployment import Service

        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        save_safetensors(self.generator, model)
        for name in ("songs", "queue"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        (self.folder / CLOSING_FILE).unlink(missing_ok=True)
        run = secrets.token_hex(16)
        (self.folder / RUN_FILE).write_text(run)
        options = ModelOptions(
            checkpoint=str(model),
            device="cuda" if self.on_gpu else "cpu",
            precision=self.config.precision,
            name=describe_checkpoint(self.config.checkpoint),
        )
        description = describe_model(options, self.generator.config)
        return Service(run, options, description, self.settings, self.on_gpu)

    def _wait(self) -> None:
        """Wait for a signal.

        Raises:
            NonRetryableError: the service cannot go on.
        """
        from pipelines.serving import deployment

        while (failure := deployment.find_failure()) is None:
            time.sleep(_POLL_SECONDS)
        raise NonRetryableError(f"Ray Serve: {failure}")

    def _drain(self) -> None:
        """Refuse new songs, and wait for those that were accepted; a second signal ends the waiting."""
        (self.folder / CLOSING_FILE).touch()
        end = time.monotonic() + self.config.drain_minutes * 60
        with suppress(KeyboardInterrupt):
            time.sleep(_NOTICE_SECONDS)
            logger.info(f"shutting down: {self._num_left()} songs and downloads are left")
            while self._num_left() and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)

    def _num_left(self) -> int:
        return len(SongStore(self.folder).queue())

    def _outcome(self) -> Outcome:
        facts = {"checkpoint": self.config.checkpoint, "left": self._num_left()}
        if not facts["left"]:
            return Outcome(Exit.DONE, "shut down: all that was accepted is done", facts)
        text = f"shut down: {facts['left']} songs and downloads wait for the next start with this --folder"
        return Outcome(Exit.INTERRUPTED, text, facts)
