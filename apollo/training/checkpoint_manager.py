"""Checkpoints of a run: save, load, verify, select the best, delete old ones.

    checkpoints/step-00012000/   weights.pt training.pt config.json MANIFEST.json
    checkpoints/scores.json      validation scores by step
    best                         a link to the best checkpoint

A checkpoint is valid if all files match the digests in its manifest. Invalid ones are renamed to
`step-….damaged`, and the latest valid one is used.
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
from apollo.checkpoints.container import read_container
from apollo.training.config import NonFiniteError
from apollo.training.gan import Gan
from apollo.training.validation import GENERATOR_STEPS, SCORES_COMPLETE, choose_best

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^step-(\d{8,})$")
_SCORES = "scores.json"
_DAMAGED = ".damaged"


class CheckpointManager:
    """Manages the checkpoints in a run's folder.

    Args:
        output: Folder of the run, on a disk that all ranks see.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / "checkpoints"

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending, without verifying them."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.match(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest_valid_step(self) -> int | None:
        """Return the latest step with a valid checkpoint; later ones are renamed, with a warning.

        Raises:
            CheckpointError: a file cannot be read.
        """
        self._delete_incomplete()
        for step in reversed(self.steps()):
            try:
                checkpoint.verify(self.path(step), (CONFIG, WEIGHTS, TRAINING))
            except CheckpointError as error:
                if _is_read_error(error):
                    raise  # a file that cannot be read now may be valid
                aside = self.path(step).with_suffix(_DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).rename(aside)
                logger.warning(f"{error}; set aside as {aside.name}, trying the checkpoint before it")
            else:
                return step
        return None

    def save(self, gan: Gan, step: int, progress: Mapping[str, Any]) -> Path:
        """Write a step's checkpoint.

        Raises:
            NonFiniteError: a weight is non-finite.
        """
        states = {"ema": gan.ema_generator.state_dict()}
        metadata: dict[str, Any] = {"step": step, "scores": self.scores().get(step, {})}
        training: dict[str, Any] = {"generator_optimizer": gan.generator_optimizer.state_dict()}
        if gan.has_discriminator:
            states["discriminator"] = gan.discriminator.state_dict()
            metadata["discriminator"] = gan.discriminator.config.to_dict()
            training["discriminator_optimizer"] = gan.discriminator_optimizer.state_dict()
        for name, state in {"generator": gan.generator.state_dict(), **states}.items():
            if not all(bool(torch.isfinite(value).all()) for value in state.values()):
                raise NonFiniteError(f"step {step}: the {name} has non-finite weights, checkpoint not saved")
        return checkpoint.save(
            gan.generator,
            self.path(step),
            extra_states=states,
            metadata=metadata,
            training_state={
                **training,
                "generator_steps": gan.generator_steps,
                "random": torch.get_rng_state(),
                "progress": dict(progress),
            },
        )

    def load(self, gan: Gan, step: int) -> dict[str, Any]:
        """Load networks, optimizers and random state of a step; return its `progress`.

        Raises:
            CheckpointError: the checkpoint holds a different network, is incomplete, or would run code.
        """
        weights = read_container(self.path(step) / WEIGHTS)
        training = read_container(self.path(step) / TRAINING)
        try:
            gan.generator.load_state_dict(weights["generator"])
            gan.ema_generator.load_state_dict(weights["ema"])
            gan.generator_optimizer.load_state_dict(training["generator_optimizer"])
            if gan.has_discriminator or "discriminator" in weights:
                gan.discriminator.load_state_dict(weights["discriminator"])
                gan.discriminator_optimizer.load_state_dict(training["discriminator_optimizer"])
            gan.generator_steps = training["generator_steps"]
            torch.set_rng_state(training["random"])
            progress: dict[str, Any] = training["progress"]
        except KeyError as error:
            raise CheckpointError(
                f"{self.path(step)} is not a training checkpoint: {error} is missing"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path(step)} holds a different network: {error}") from error
        return progress

    def load_ema(self, step: int) -> dict[str, Tensor]:
        """Load the averaged weights of a step."""
        weights: dict[str, Tensor] = read_container(self.path(step) / WEIGHTS)["ema"]
        return weights

    def scores(self) -> dict[int, dict[str, float]]:
        """Return validation scores by step; without scores.json, those that the checkpoints hold."""
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
        """Add scores to those of a step."""
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
        """Return the step that `best` links to."""
        link = self.output / checkpoint.BEST
        match = _NAME.match(Path(os.readlink(link)).name) if link.is_symlink() else None
        return int(match[1]) if match else None

    def link_best(self, step: int) -> None:
        """Link `best` to a step's checkpoint.

        Raises:
            CheckpointError: the checkpoint is invalid.
        """
        if step == self.best_step():
            return
        checkpoint.verify(self.path(step), (CONFIG, WEIGHTS))
        target = self.path(step).relative_to(self.output)
        _replace(self.output / checkpoint.BEST, lambda path: path.symlink_to(target))

    def prune(self, keep: int, also: Iterable[int]) -> None:
        """Delete all checkpoints but the latest `keep`, the best, and the steps in `also`."""
        kept = {*self.steps()[-keep:], self.best_step(), *also}
        for step in self.steps():
            if step not in kept:  # rename first: a reader may keep files open for a while
                doomed = self.folder / f".{self.path(step).name}-old"
                self.path(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _delete_incomplete(self) -> None:
        """Delete incomplete checkpoints of a killed process."""
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name.startswith(".step-"):
                    shutil.rmtree(entry, ignore_errors=True)


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file and rename it atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    write(scratch)
    if not scratch.is_symlink():
        io.fsync(scratch)
    scratch.replace(target)
    io.fsync(target.parent)


def _is_read_error(error: CheckpointError) -> bool:
    """Return whether a file could not be read, rather than being damaged or missing."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | NotADirectoryError)
