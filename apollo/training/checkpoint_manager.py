"""The checkpoints of a run in its folder: what is kept, which is trusted, which is best.

    checkpoints/step-00012000/   weights.pt training.pt config.json MANIFEST.json
    checkpoints/scores.json      what validation said of them, by step
    best                         a link to the best of them

A checkpoint is trusted when every file is what its manifest promises. One that is not is set aside under
another name, and the newest that is takes its place.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.checkpoints import checkpoint, io
from apollo.checkpoints.checkpoint import CONFIG, TRAINING, WEIGHTS, CheckpointError
from apollo.checkpoints.published_format import read_container
from apollo.training.config import NonFiniteError
from apollo.training.gan import Gan
from apollo.training.validation import GENERATOR_STEPS, SCORES_COMPLETE, choose_best

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^step-(\d{8,})$")
_SCORES = "scores.json"
_DAMAGED = ".damaged"


class CheckpointManager:
    """The checkpoints below a run's output.

    Args:
        output: The run's folder, on a disk that all ranks see.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / "checkpoints"

    def path(self, step: int) -> Path:
        """Give where a step's checkpoint lies."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """List the steps that have a checkpoint, rising; whether it is whole is not looked at."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.match(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest_valid_step(self) -> int | None:
        """Find the newest step whose checkpoint is whole; those after it are set aside.

        Raises:
            CheckpointError: the disk does not let a file be read.
        """
        self._delete_incomplete()
        for step in reversed(self.steps()):
            try:
                checkpoint.verify(self.path(step), (CONFIG, WEIGHTS, TRAINING))
            except CheckpointError as error:
                if _is_read_error(error):
                    raise  # what cannot be read now may be sound
                aside = self.path(step).with_suffix(_DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).rename(aside)
                logger.warning(f"{error}; set aside as {aside.name}, taking the one before it")
            else:
                return step
        return None

    def save(self, gan: Gan, step: int, progress: Mapping[str, Any]) -> Path:
        """Write a step's checkpoint.

        Raises:
            NonFiniteError: a weight is no number.
        """
        states = {"ema": gan.ema_generator.state_dict(), "discriminator": gan.discriminator.state_dict()}
        for name, state in {"generator": gan.generator.state_dict(), **states}.items():
            if not all(bool(torch.isfinite(value).all()) for value in state.values()):
                raise NonFiniteError(f"step {step}: the {name} holds weights that are no numbers; not saved")
        return checkpoint.save(
            gan.generator,
            self.path(step),
            extra_states=states,
            metadata={
                "step": step,
                "scores": self.scores().get(step, {}),
                "discriminator": gan.discriminator.config.to_dict(),
            },
            training_state={
                "generator_optimizer": gan.generator_optimizer.state_dict(),
                "discriminator_optimizer": gan.discriminator_optimizer.state_dict(),
                "generator_steps": gan.generator_steps,
                "random": torch.get_rng_state(),
                "progress": dict(progress),
            },
        )

    def load(self, gan: Gan, step: int) -> dict[str, Any]:
        """Bring everything back to a step; gives its progress.

        Raises:
            CheckpointError: the checkpoint is of another network, lacks something, or asks to run code.
        """
        weights = read_container(self.path(step) / WEIGHTS)
        training = read_container(self.path(step) / TRAINING)
        try:
            gan.generator.load_state_dict(weights["generator"])
            gan.ema_generator.load_state_dict(weights["ema"])
            gan.discriminator.load_state_dict(weights["discriminator"])
            gan.generator_optimizer.load_state_dict(training["generator_optimizer"])
            gan.discriminator_optimizer.load_state_dict(training["discriminator_optimizer"])
            gan.generator_steps = training["generator_steps"]
            torch.set_rng_state(training["random"])
            progress: dict[str, Any] = training["progress"]
        except KeyError as error:
            raise CheckpointError(f"{self.path(step)} is no checkpoint of a run: it lacks {error}") from error
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path(step)} is of another network: {error}") from error
        return progress

    def load_ema(self, step: int) -> dict[str, Tensor]:
        """Read the averaged weights of a step."""
        weights: dict[str, Tensor] = read_container(self.path(step) / WEIGHTS)["ema"]
        return weights

    def scores(self) -> dict[int, dict[str, float]]:
        """Give what validation said, by step; where that was lost, what the checkpoints remember of it."""
        try:
            found = json.loads((self.folder / _SCORES).read_text())
            return {int(step): dict(scores) for step, scores in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            saved = {step: self._read_saved_scores(step) for step in self.steps()}
            return {step: scores for step, scores in saved.items() if scores}

    def _read_saved_scores(self, step: int) -> dict[str, float]:
        try:
            return dict(json.loads((self.path(step) / CONFIG).read_text())["scores"])
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def record_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Add to what is known of a step."""
        known = self.scores()
        known[step] = {**known.get(step, {}), **scores}
        _replace(self.folder / _SCORES, lambda path: path.write_text(json.dumps(known, indent=1)))

    def incomplete_steps(self) -> list[int]:
        """Return the scored steps some of whose asynchronous scores have not arrived."""
        return [step for step, scores in self.scores().items() if SCORES_COMPLETE not in scores]

    def select_best(self, *, floor_db: float, complete_only: bool) -> int | None:
        """Return the best step that has a checkpoint, scores, and a generator that has learned."""
        skip = set(self.incomplete_steps()) if complete_only else set()
        existing = set(self.steps()) - skip
        candidates = {
            step: scores
            for step, scores in self.scores().items()
            if step in existing and scores.get(GENERATOR_STEPS)
        }
        return choose_best(candidates, floor_db=floor_db)

    def best_step(self) -> int | None:
        """Give the step that `best` names."""
        link = self.output / checkpoint.BEST
        match = _NAME.match(Path(os.readlink(link)).name) if link.is_symlink() else None
        return int(match[1]) if match else None

    def link_best(self, step: int) -> None:
        """Make `best` name a step's checkpoint.

        Raises:
            CheckpointError: it is not whole.
        """
        if step == self.best_step():
            return
        checkpoint.verify(self.path(step), (CONFIG, WEIGHTS))
        target = self.path(step).relative_to(self.output)
        _replace(self.output / checkpoint.BEST, lambda path: path.symlink_to(target))

    def prune(self, keep: int, also: Iterable[int]) -> None:
        """Delete all but the last `keep` checkpoints, the best, and those named."""
        kept = {*self.steps()[-keep:], self.best_step(), *also}
        for step in self.steps():
            if step not in kept:  # under another name first: what a reader holds open may stay for a while
                doomed = self.folder / f".{self.path(step).name}-old"
                self.path(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _delete_incomplete(self) -> None:
        """Delete what a killed writer left half done."""
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name.startswith(".step-"):
                    shutil.rmtree(entry, ignore_errors=True)


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, then take the real one in one go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    write(scratch)
    if not scratch.is_symlink():
        io.fsync(scratch)
    scratch.replace(target)
    io.fsync(target.parent)


def _is_read_error(error: CheckpointError) -> bool:
    """Tell whether a file could not be read at all, rather than being damaged or missing."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | NotADirectoryError)
