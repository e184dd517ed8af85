"""The training loop: epochs of GAN steps, validation, checkpoints; goes on exactly where it was stopped.

Every process of a run calls `fit` with its own part of the world; what is decided is decided on numbers that
all of them have. Rank 0 alone writes.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from apollo.checkpoints.published_format import CheckpointError
from apollo.model.generator import Generator
from apollo.training.callbacks import Hooks
from apollo.training.checkpoint_manager import Snapshots
from apollo.training.config import FitConfig, NotFiniteError
from apollo.training.data import Batch, Example, FixedSource, Source, collate
from apollo.training.gan import SKIPPED, Gan
from apollo.training.step_metrics import Meter, describe_scores
from apollo.training.validation import LEARNED, LOSS, SETTLED, choose_best, listen, validate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        status: `done`, `early` (no improvement for long enough), or `interrupted`.
        step: Steps taken.
        best: Step of the best checkpoint.
        scores: Of the best checkpoint.
        skipped: Steps left out because something was no number.
    """

    status: str
    step: int
    best: int | None
    scores: dict[str, float]
    skipped: int


@dataclass
class _Progress:
    """What of the loop is kept in a checkpoint."""

    step: int = 0
    skipped: int = 0
    lowest_loss: float = math.inf
    lowest_epoch: int = 0
    validated: int = -1  # the last step that was
    unlogged: dict[str, list[float]] = field(default_factory=dict)  # what steps gave since the last log


def fit(
    gan: Gan,
    source: Source,
    config: FitConfig,
    *,
    output: Path,
    validation: FixedSource | None = None,
    hooks: Hooks | None = None,
) -> Ending:
    """Train until the end, or until told to stop; from the newest whole checkpoint in `output`, if any.

    Args:
        gan: What learns; freshly made.
        source: Examples to learn from.
        config: The loop.
        output: Folder of the run, seen by all ranks.
        validation: Fixed examples, read at epoch 0; without, there is no best checkpoint and no early end.
        hooks: Who is told.

    Returns:
        How it ended.

    Raises:
        ValueError: a batch has fewer examples than there are ranks, or an epoch fewer than a batch.
        NotFiniteError: too many steps were no numbers.
        CheckpointError: the output's checkpoints are of another network.
    """
    return _Loop(gan, source, config, output, validation, hooks or Hooks()).run()


class _Loop:
    def __init__(
        self,
        gan: Gan,
        source: Source,
        config: FitConfig,
        output: Path,
        validation: FixedSource | None,
        hooks: Hooks,
    ) -> None:
        self.gan, self.source, self.config, self.hooks = gan, source, config, hooks
        self.validation, self.world = validation, gan.world
        self.snapshots, self.progress = Snapshots(output), _Progress()
        self.first = self.world.rank == 0
        batch_size = gan.config.batch_size
        self.epoch_steps = config.epoch_examples // batch_size
        if batch_size < self.world.size:
            raise ValueError(
                f"batch_size is {batch_size} for {self.world.size} workers: every worker needs an example"
            )
        if not self.epoch_steps:
            raise ValueError(f"an epoch of {config.epoch_examples} examples has no batch of {batch_size}")
        limit = config.epochs * self.epoch_steps
        self.last_step = min(limit, config.max_steps) if config.max_steps else limit
        self.meter = Meter(gan, self.last_step)

    def run(self) -> Ending:
        self._resume()
        while self.progress.step < self.last_step:
            if self._is_late_to_improve():
                return self._end("early")
            stopping = self._train_epoch()
            if not stopping:
                self._validate()
            self._save()
            if stopping:
                return self._end("interrupted")
        return self._end("done")

    def _resume(self) -> None:
        step = self.world.agree(self.snapshots.newest() if self.first else None)
        if step is None:
            return
        self.progress = _Progress(**self.snapshots.load(self.gan, step))
        self.meter.sums = self.progress.unlogged
        if self.first:
            logger.info(f"continuing from step {step}")
        unvalidated = self.progress.validated != step
        if unvalidated and (step % self.epoch_steps == 0 or step == self.last_step):
            self._validate()  # it was ended before that
        self._make_up(self.progress.step if unvalidated else None)

    def _make_up(self, fresh: int | None) -> None:
        """Score again what was killed before all its scores had come, but for a step that just was scored."""
        known, there = self.snapshots.scores(), set(self.snapshots.steps()) - {fresh}
        missed = sorted(step for step in there if step in known and self._waits(known[step]))
        for step in self.world.agree(missed):
            generator = copy.deepcopy(self.gan.average)
            generator.load_state_dict(self.snapshots.average(step))
            self._score(step, generator)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch or of the run, or until told to stop; tells whether it was."""
        progress, batch_size = self.progress, self.gan.config.batch_size
        epoch, done = divmod(progress.step, self.epoch_steps)
        end = min(self.epoch_steps, done + self.last_step - progress.step)
        steps = [
            self.world.part(range(step * batch_size, (step + 1) * batch_size)) for step in range(done, end)
        ]
        examples = self.source.read(epoch, [position for step in steps for position in step])
        for positions in steps:
            began = time.perf_counter()
            batches = self._batches(examples, len(positions))
            loaded = time.perf_counter()
            self._step(epoch, batches)
            self.meter.add_times(loaded - began, time.perf_counter() - loaded)
            if progress.step % self.config.log_steps == 0:
                metrics = self.meter.close(progress.skipped / progress.step)
                if self.first:
                    self.hooks.logged(progress.step, metrics)
                    self._tell(epoch, metrics)
            self._settle(wait=False)
            if self.world.any(self.hooks.should_stop()):
                return True
            if progress.step % self.config.checkpoint_steps == 0 and positions is not steps[-1]:
                self._save()
        return False

    def _batches(self, examples: Iterator[Example], count: int) -> list[Batch]:
        drawn = [next(examples) for _ in range(count)]
        size = self.gan.config.micro_batch
        return [collate(drawn[begin : begin + size]).to(self.world.device) for begin in range(0, count, size)]

    def _step(self, epoch: int, batches: list[Batch]) -> None:
        progress = self.progress
        alone = progress.step < self.gan.config.discriminator_warmup_steps
        metrics = self.gan.step(batches, epoch=epoch, alone=alone)
        progress.step += 1
        names = [name for batch in batches for name in batch.names]
        self.hooks.stepped(progress.step, metrics, names)
        if metrics[SKIPPED]:
            self._skipped(names)
        else:
            self.meter.add(metrics)

    def _skipped(self, names: list[str]) -> None:
        self.progress.skipped += 1
        suspects = self.world.gather(self.gan.suspects) or self.world.gather(names)
        text = (
            f"step {self.progress.step} met a loss or gradient that is no number and was left out; examples: "
            + ", ".join(suspects)
        )
        if self.first:
            logger.warning(text)
        if self.progress.skipped > self.gan.config.max_skipped_steps:
            raise NotFiniteError(
                f"{self.progress.skipped} steps were left out; max_skipped_steps allows "
                f"{self.gan.config.max_skipped_steps}. The last: {text}. The newest checkpoint is sound; "
                "try a lower learning rate or float32"
            )

    def _validate(self) -> None:
        progress = self.progress
        scores = self._score(progress.step, self.gan.average)
        progress.validated = progress.step
        epoch = -(-progress.step // self.epoch_steps)
        if not self.gan.steps:
            progress.lowest_epoch = epoch  # the generator has not begun to learn
        elif scores and scores[LOSS] < progress.lowest_loss:
            progress.lowest_loss, progress.lowest_epoch = scores[LOSS], epoch

    def _score(self, step: int, generator: Generator) -> dict[str, float]:
        """Score a generator as that of a step; gives the same scores on all ranks."""
        if self.validation is None:
            return {}
        examples = min(self.config.validation_examples, len(self.validation))
        scores = validate(generator, self.validation, examples, self.world)
        if self.first:
            heard = listen(
                generator, self.validation, min(self.hooks.heard, len(self.validation)), self.world.device
            )
            learned = self.snapshots.scores().get(step, {}).get(LEARNED, float(self.gan.steps))
            scores[LEARNED] = learned
            self.snapshots.note(step, scores)
            self.hooks.validated(step, scores, heard)
            epoch = -(-step // self.epoch_steps)
            logger.info(f"epoch {epoch}, step {step}: {describe_scores(scores)}")
        return scores

    def _is_late_to_improve(self) -> bool:
        epoch, rest = divmod(self.progress.step, self.epoch_steps)
        if rest or self.validation is None:
            return False
        return epoch - self.progress.lowest_epoch >= self.config.patience_epochs

    def _save(self) -> None:
        """Write a checkpoint, unless this step has one, and delete those that are not to be kept."""
        step = self.progress.step
        if self.first and step not in self.snapshots.steps():
            self.progress.unlogged = self.meter.sums
            path = self.snapshots.save(self.gan, step, asdict(self.progress))
            self.hooks.saved(step, path)
            self._settle(wait=False, anew=True)
            self._prune()
        self.world.wait()

    def _prune(self) -> None:
        waiting = [step for step, scores in self.snapshots.scores().items() if self._waits(scores)]
        self.snapshots.prune(self.config.keep_checkpoints, waiting)

    def _waits(self, scores: Mapping[str, float]) -> bool:
        return self.hooks.late and SETTLED not in scores

    def _settle(self, *, wait: bool, anew: bool = False) -> None:
        """Take scores that came late, and choose the best checkpoint again where something changed."""
        if not self.first:
            return
        late = self.hooks.late_scores(wait=wait)
        for step, scores in late.items():
            self.snapshots.note(step, {**scores, SETTLED: 1.0})
        if late or anew:
            best = self._best()
            try:
                if best is not None:
                    self.snapshots.point_best(best)
            except CheckpointError as error:
                logger.error(f"the best checkpoint stays as it was: {error}")

    def _best(self) -> int | None:
        """Find the best step among those that have a checkpoint and all their scores."""
        there = set(self.snapshots.steps())
        candidates = {
            step: scores
            for step, scores in self.snapshots.scores().items()
            if step in there and scores.get(LEARNED) and not self._waits(scores)
        }
        return choose_best(candidates, floor_db=self.config.floor_db)

    def _end(self, status: str) -> Ending:
        # what is still to come for an interrupted run is made up for when it goes on
        self._settle(wait=status != "interrupted", anew=True)
        if self.first:
            self._prune()
        self.world.wait()
        best = self._best() if self.first else None
        scores = self.snapshots.scores().get(best, {}) if best is not None else {}
        ending = Ending(status, self.progress.step, best, scores, self.progress.skipped)
        return Ending(**self.world.agree(asdict(ending)))

    def _tell(self, epoch: int, metrics: Mapping[str, float]) -> None:
        line = self.meter.line(self.progress.step, metrics)
        if line:
            logger.info(f"epoch {epoch + 1}, {line}")
