"""The training loop: epochs of GAN steps, validation, checkpoints, exact resume.

Every process of a run calls `fit`. Decisions are taken on numbers that are the same on all ranks; only rank 0
writes.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from apollo.checkpoints.container import CheckpointError
from apollo.model.generator import Generator
from apollo.training.callbacks import Callbacks
from apollo.training.checkpoint_manager import CheckpointManager
from apollo.training.config import FitConfig
from apollo.training.data import Batch, Example, ExampleSource, ValidationExamples, collate
from apollo.training.gan import Gan
from apollo.training.step_metrics import MetricTracker, format_scores
from apollo.training.stop_requests import StopRequests
from apollo.training.unread_steps import UnreadSteps
from apollo.training.validation import GENERATOR_STEPS, SCORES_COMPLETE, STFT_LOSS, restore_examples, validate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """Result of a training run.

    Args:
        status: `done`, `early` (stopped early, without improvement), or `interrupted`.
        step: Number of steps taken.
        best: Step of the best checkpoint.
        scores: Validation scores of the best checkpoint.
        skipped: Number of steps skipped because of non-finite values.
    """

    status: str
    step: int
    best: int | None
    scores: dict[str, float]
    skipped: int


@dataclass
class _Progress:
    """State of the loop that a checkpoint holds."""

    step: int = 0
    skipped: int = 0
    lowest_loss: float = math.inf
    lowest_epoch: int = 0
    validated: int = -1  # step of the last validation
    unlogged: dict[str, list[float]] = field(default_factory=dict)  # metrics of steps since the last log


def fit(
    gan: Gan,
    source: ExampleSource,
    config: FitConfig,
    *,
    output: Path,
    validation: ValidationExamples | None = None,
    callbacks: Callbacks | None = None,
) -> FitResult:
    """Train to the end, or until a callback requests a stop; resume from the latest valid checkpoint, if any.

    Args:
        gan: Newly created networks and optimizers.
        source: Training examples.
        config: Configuration of the loop.
        output: Folder of the run, visible to all ranks.
        validation: Validation examples, read as epoch 0; without them there is no best checkpoint and no
            early stopping.
        callbacks: Called during training.

    Returns:
        The result, the same on all ranks.

    Raises:
        ValueError: a batch has fewer examples than there are ranks, or an epoch fewer than a batch.
        NonFiniteError: more than `max_skipped_steps` steps had non-finite losses or gradients; raised up to
            `log_steps` steps after the last of them.
        CheckpointError: the output's checkpoints hold a different network.
    """
    return _Loop(gan, source, config, output, validation, callbacks or Callbacks()).run()


class _Loop:
    def __init__(
        self,
        gan: Gan,
        source: ExampleSource,
        config: FitConfig,
        output: Path,
        validation: ValidationExamples | None,
        callbacks: Callbacks,
    ) -> None:
        self.gan, self.source, self.config, self.callbacks = gan, source, config, callbacks
        self.validation, self.context = validation, gan.context
        self.checkpoints, self.progress = CheckpointManager(output), _Progress()
        self.is_rank0 = self.context.rank == 0
        batch_size = gan.config.batch_size
        self.epoch_steps = config.epoch_examples // batch_size
        if batch_size < self.context.world_size:
            raise ValueError(
                f"batch_size is {batch_size} for {self.context.world_size} workers: "
                "every worker needs an example"
            )
        if not self.epoch_steps:
            raise ValueError(f"an epoch of {config.epoch_examples} examples has no batch of {batch_size}")
        limit = config.epochs * self.epoch_steps
        self.last_step = min(limit, config.max_steps) if config.max_steps else limit
        self.metrics = MetricTracker(gan, self.last_step)
        self.unread_steps = UnreadSteps(gan, self.metrics, callbacks)
        self.stop_requests = StopRequests(self.context, waits=self.context.device.type == "cuda")

    def run(self) -> FitResult:
        self._resume()
        while self.progress.step < self.last_step:
            if self._should_stop_early():
                return self._finish("early")
            stopping = self._train_epoch()
            if not stopping:
                self._validate()
            self._save()
            if stopping:
                return self._finish("interrupted")
        return self._finish("done")

    def _resume(self) -> None:
        step = self.context.broadcast(self.checkpoints.latest_valid_step() if self.is_rank0 else None)
        if step is None:
            return
        self.progress = _Progress(**self.checkpoints.load(self.gan, step))
        self.metrics.sums = self.progress.unlogged
        if self.is_rank0:
            logger.info(f"resuming from step {step}")
        unvalidated = self.progress.validated != step
        if unvalidated and (step % self.epoch_steps == 0 or step == self.last_step):
            self._validate()  # the run ended before its validation
        self._rescore_incomplete(self.progress.step if unvalidated else None)

    def _rescore_incomplete(self, exclude: int | None) -> None:
        """Validate checkpoints again whose asynchronous scores were lost, except the step just validated."""
        existing = set(self.checkpoints.steps()) - {exclude}
        for step in self.context.broadcast(sorted(existing.intersection(self._incomplete_steps()))):
            generator = copy.deepcopy(self.gan.ema_generator)
            generator.load_state_dict(self.checkpoints.load_ema(step))
            self._score(step, generator)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch or the run; return True if a callback requested a stop before."""
        progress, batch_size = self.progress, self.gan.config.batch_size
        epoch, done = divmod(progress.step, self.epoch_steps)
        end = min(self.epoch_steps, done + self.last_step - progress.step)
        steps = [
            self.context.shard(range(step * batch_size, (step + 1) * batch_size)) for step in range(done, end)
        ]
        examples = self.source.read(epoch, [position for step in steps for position in step])
        for positions in steps:
            began = time.perf_counter()
            batches = self._batches(examples, len(positions))
            loaded = time.perf_counter()
            self._step(epoch, batches)
            is_last = positions is steps[-1]
            logs, saves = (
                progress.step % count == 0 for count in (self.config.log_steps, self.config.checkpoint_steps)
            )
            reads = logs or saves or is_last
            if reads:
                self._read_steps()  # within the time of the step, as the host waits for the device
            self.metrics.add_seconds(loaded - began, time.perf_counter() - loaded)
            if logs:
                metrics = self.metrics.flush(progress.skipped / progress.step)
                if self.is_rank0:
                    self.callbacks.on_log(progress.step, metrics)
                    self._log_progress(epoch, metrics)
            self._collect_scores(wait=False)
            if self.stop_requests.agree(self.callbacks.should_stop(), has_waited=reads):
                return True
            if saves and not is_last:
                self._save()
        return False

    def _batches(self, examples: Iterator[Example], count: int) -> list[Batch]:
        drawn = [next(examples) for _ in range(count)]
        size = self.gan.config.micro_batch
        return [
            collate(drawn[begin : begin + size]).to(self.context.device) for begin in range(0, count, size)
        ]

    def _step(self, epoch: int, batches: list[Batch]) -> None:
        progress = self.progress
        only = self.gan.config.is_discriminator_only(progress.step)
        result = self.gan.step(batches, epoch=epoch, step=progress.step, discriminator_only=only)
        progress.step += 1
        names = [name for batch in batches for name in batch.names]
        self.unread_steps.add(progress.step, result, names)
        self.callbacks.on_train_step_end(progress.step, result, names)

    def _read_steps(self) -> None:
        self.progress.skipped = self.unread_steps.read(self.progress.skipped)

    def _validate(self) -> None:
        progress = self.progress
        scores = self._score(progress.step, self.gan.ema_generator)
        progress.validated = progress.step
        epoch = -(-progress.step // self.epoch_steps)
        if not self.gan.generator_steps:
            progress.lowest_epoch = epoch  # no patience is used up before the generator is trained
        elif scores and scores[STFT_LOSS] < progress.lowest_loss:
            progress.lowest_loss, progress.lowest_epoch = scores[STFT_LOSS], epoch

    def _score(self, step: int, generator: Generator) -> dict[str, float]:
        """Validate the generator of a step; return the scores, the same on all ranks."""
        if self.validation is None:
            return {}
        examples = min(self.config.validation_examples, len(self.validation))
        scores = validate(generator, self.validation, examples, self.context)
        if self.is_rank0:
            count = min(self.callbacks.listening_examples, len(self.validation))
            restored = restore_examples(generator, self.validation, count, self.context.device)
            earlier = self.checkpoints.scores().get(step, {})
            scores[GENERATOR_STEPS] = earlier.get(GENERATOR_STEPS, float(self.gan.generator_steps))
            self.checkpoints.record_scores(step, scores)
            self.callbacks.on_validation_end(step, scores, restored)
            epoch = -(-step // self.epoch_steps)
            logger.info(f"epoch {epoch}, step {step}: {format_scores(scores)}")
        return scores

    def _should_stop_early(self) -> bool:
        epoch, rest = divmod(self.progress.step, self.epoch_steps)
        if rest or self.validation is None:
            return False
        return epoch - self.progress.lowest_epoch >= self.config.patience_epochs

    def _save(self) -> None:
        """Write a checkpoint, unless this step has one, and delete old ones."""
        self._read_steps()
        step = self.progress.step
        if self.is_rank0 and step not in self.checkpoints.steps():
            self.progress.unlogged = self.metrics.sums
            path = self.checkpoints.save(self.gan, step, asdict(self.progress))
            self.callbacks.on_checkpoint_saved(step, path)
            self._collect_scores(wait=False, force_update=True)
            self._prune()
        self.context.barrier()

    def _incomplete_steps(self) -> list[int]:
        return self.checkpoints.incomplete_steps() if self.callbacks.has_async_scores else []

    def _prune(self) -> None:
        self.checkpoints.prune(self.config.keep_checkpoints, self._incomplete_steps())

    def _collect_scores(self, *, wait: bool, force_update: bool = False) -> None:
        """Record asynchronous scores that arrived, and update the `best` link where something changed."""
        if not self.is_rank0:
            return
        scores_by_step = self.callbacks.collect_async_scores(wait=wait)
        for step, scores in scores_by_step.items():
            self.checkpoints.record_scores(step, {**scores, SCORES_COMPLETE: 1.0})
        if scores_by_step or force_update:
            best = self._best()
            try:
                if best is not None:
                    self.checkpoints.link_best(best)
            except CheckpointError as error:
                logger.error(f"the best checkpoint stays as it was: {error}")

    def _best(self) -> int | None:
        return self.checkpoints.select_best(
            floor_db=self.config.floor_db, complete_only=self.callbacks.has_async_scores
        )

    def _finish(self, status: str) -> FitResult:
        # pending scores of an interrupted run are computed again when it is resumed
        self._collect_scores(wait=status != "interrupted", force_update=True)
        if self.is_rank0:
            self._prune()
        self.context.barrier()
        best = self._best() if self.is_rank0 else None
        scores = self.checkpoints.scores().get(best, {}) if best is not None else {}
        result = FitResult(status, self.progress.step, best, scores, self.progress.skipped)
        return FitResult(**self.context.broadcast(asdict(result)))

    def _log_progress(self, epoch: int, metrics: Mapping[str, float]) -> None:
        line = self.metrics.progress_line(self.progress.step, metrics)
        if line:
            logger.info(f"epoch {epoch + 1}, {line}")
