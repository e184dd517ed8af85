"""Callbacks of the training loop on Ray: MLflow, Prometheus, checkpoints in a store, stop requests."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from apollo.training.callbacks import Callbacks
from apollo.training.distributed import DistributedContext
from apollo.training.validation import VISQOL, RestoredExample
from pipelines.cluster.coordinator import CoordinatorClient
from pipelines.cluster.torch_trainer import BackgroundTask
from pipelines.dataset.bad_rows import Reject
from pipelines.runtime import prometheus
from pipelines.storage.folder import Folder
from pipelines.tracking.run import Run, Tracker
from pipelines.training.background_uploads import BackgroundUploads
from pipelines.training.checkpoint_sync import CheckpointSync
from pipelines.training.config import TrainConfig
from pipelines.training.validation_review import review_examples

logger = logging.getLogger(__name__)

_REVIEW_SECONDS = 600.0  # longest wait for the last scores at the end


class RayCallbacks(Callbacks):
    """Callbacks of one rank.

    Args:
        config: The training.
        run: The MLflow run, which rank 0 logs to.
        coordinator: Connection to the driver.
        context: Ranks of the training.
        sync: Uploads what is written, for an output at a URI.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        coordinator: CoordinatorClient,
        context: DistributedContext,
        sync: CheckpointSync | None,
    ) -> None:
        self.config, self.coordinator, self.context, self.sync = config, coordinator, context, sync
        self.output = Folder(str(config.folder))
        self.tracker = Tracker(run) if context.rank == 0 else None
        self.listening_examples = config.listening_examples
        self.has_async_scores = config.listening_examples > 0
        self._reviews: dict[int, BackgroundTask] = {}
        self._uploads, self._rejects_waiting = BackgroundUploads(), False
        self._counts = _TrainingCounts(context.rank)

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        """Count a step, and append it to the history if that is configured."""
        self._counts.count_step(names)
        if self.config.history:
            line = json.dumps({"step": step, "examples": list(names), **metrics})
            with open(self.output.path(f"history-{self.context.rank}.jsonl"), "a") as stream:
                stream.write(line + "\n")

    def on_train_step_skipped(self, step: int, examples: Sequence[str]) -> None:
        """Count a skipped step."""
        self._counts.count_skipped_step()

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log step metrics to Prometheus and, on rank 0, to MLflow."""
        self._counts.count_seconds(metrics)
        if self.tracker:
            self.tracker.log(step, metrics)

    def on_validation_end(
        self, step: int, scores: Mapping[str, float], restored: Sequence[RestoredExample]
    ) -> None:
        """Log validation scores and start the review of the example audio, if there is any."""
        if self.tracker:
            self.tracker.log(step, scores, kind="validation")
        if not restored:
            return
        examples = [
            (one.name, one.clean.numpy(), one.degraded.numpy(), one.restored.numpy()) for one in restored
        ]
        folder = self._review_folder(step)
        self._reviews[step] = BackgroundTask(
            review_examples,
            examples,
            folder,
            self.config.generator.sample_rate,
            self.config.visqol,
            here=self.sync is not None,
        )

    def collect_async_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        """Return the scores of reviews that have ended, by step; with `wait`, of all of them."""
        arrived: dict[int, dict[str, float]] = {}
        deadline = time.monotonic() + (_REVIEW_SECONDS if wait else 0.0)
        for step, task in list(self._reviews.items()):
            ended, found = task.poll(max(deadline - time.monotonic(), 0.0))
            if ended or wait:
                del self._reviews[step]
                arrived[step] = self._reviewed(step, found)
        return arrived

    def _reviewed(self, step: int, found: Any) -> dict[str, float]:
        if not isinstance(found, dict):
            logger.warning(f"step {step}: no ViSQOL and no pictures: {found or 'timeout'}")
            return {}
        scores: dict[str, float] = found["scores"]
        if self.config.visqol and VISQOL not in scores:
            logger.warning(f"step {step}: ViSQOL is not installed, or not defined for any of the examples")
        if self.tracker:
            self.tracker.log(step, scores, kind="review")
            for name, path in found["pictures"].items():
                self.tracker.log_file("pictures", step, name, path)
            for name, path in found["clips"].items():
                self.tracker.log_file("audio", step, name, path)
        shutil.rmtree(self._review_folder(step), ignore_errors=True)  # the tracker has its copies
        return scores

    def _review_folder(self, step: int) -> str:
        return self.output.path(f".review/step-{step:08d}")

    def on_checkpoint_saved(self, step: int, path: Path) -> None:
        """Log a checkpoint, and start its upload if the output is in a store.

        Waits for the last upload: a machine that is lost takes at most one checkpoint with it.
        """
        prometheus.record("apollo_training_checkpoints_total")
        logger.info(f"checkpoint {os.fspath(path)}")
        if self.sync:
            # metrics are read now: those that come later are not of this checkpoint
            self._uploads.start(partial(self.sync.try_push, self.sync.read_tracking()))

    def should_stop(self) -> bool:
        """Return whether the driver requested a stop."""
        return self.context.rank == 0 and self.coordinator.stop_requested()

    def log_reject(self, reject: Reject) -> None:
        """Log a skipped row and append it to rejects-<rank>.jsonl."""
        prometheus.count_rejects("apollo_training_rows_rejected_total", [reject._asdict()])
        logger.warning(f"row skipped: {reject.name}: {reject.reason}")
        with open(self.output.path(f"rejects-{self.context.rank}.jsonl"), "a") as stream:
            stream.write(json.dumps(reject._asdict()) + "\n")
        if self.sync and not self._uploads.try_start(self.sync.try_push_rejects):
            self._rejects_waiting = True

    def finish(self) -> None:
        """Wait for uploads, and upload the rest.

        Raises:
            StoreError: the store is unreachable: what was written lately is not in it.
        """
        self._uploads.wait()
        if self.sync and self._rejects_waiting:
            self.sync.try_push_rejects()
        if self.sync and self.context.rank == 0:
            self.sync.push()

    def close(self) -> None:
        """End uploads and close the tracker."""
        self._uploads.close()
        if self.tracker:
            self.tracker.close()


class _TrainingCounts:
    """Prometheus counters of a training worker; rank 0 also counts what all ranks do together.

    Args:
        rank: Rank of the worker.
    """

    def __init__(self, rank: int) -> None:
        self._first, self._steps = rank == 0, 0
        if self._first:
            prometheus.record("apollo_training_starts_total")

    def count_step(self, names: Sequence[str]) -> None:
        """Count a step and the examples of this rank."""
        self._steps += 1
        prometheus.record("apollo_training_examples_total", len(names))
        if self._first:
            prometheus.record("apollo_training_steps_total")

    def count_skipped_step(self) -> None:
        """Count a skipped step."""
        if self._first:
            prometheus.record("apollo_training_skipped_steps_total")

    def count_seconds(self, metrics: Mapping[str, float]) -> None:
        """Add the seconds of the steps since the last call; `time/step` and `time/data` are means."""
        prometheus.record("apollo_training_seconds_total", metrics["time/step"] * self._steps)
        prometheus.record("apollo_training_data_wait_seconds_total", metrics["time/data"] * self._steps)
        self._steps = 0
