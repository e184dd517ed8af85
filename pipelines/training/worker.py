"""What runs on every training worker: the networks, the data, the loop, and what rank 0 tells of it."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from apollo.checkpoints.checkpoint import WEIGHTS
from apollo.checkpoints.published_format import read_container
from apollo.model.generator import Generator
from apollo.training.callbacks import Hooks
from apollo.training.config import NotFiniteError
from apollo.training.data import Source
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import World
from apollo.training.gan import SKIPPED, Gan
from apollo.training.loop import fit
from apollo.training.validation import VISQOL, Heard
from pipelines.cluster.torch_trainer import Aside, DeskLine
from pipelines.dataset.bad_rows import CorruptDataError, Reject
from pipelines.loading.live_source import LiveSource
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.runtime import progress, prometheus
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking.run import Run, Tracker
from pipelines.training.checkpoint_sync import Mirror
from pipelines.training.config import INIT, TrainConfig
from pipelines.training.validation_review import review

_REVIEW_SECONDS = 600.0  # longest wait for the last scores at the end


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker; to be called on all of them.

    Args:
        settings: `config` (a TrainConfig), `run` (of the tracking), `desk`.

    Returns:
        The ending's fields; nothing where a worker had failed for good.

    Raises:
        Exception: after word of it was left at the desk where no new start would mend it. It must be raised,
            for the other workers wait for this one.
    """
    config: TrainConfig = settings["config"]
    desk = DeskLine(settings["desk"])
    if desk.failure():
        return {}
    progress.speak_through(desk.say)
    warnings.showwarning = lambda message, *_: desk.say(f"warning: {message}")
    world = World(_device())
    if world.rank == 0:
        desk.beat()
    mirror = _mirror(config, desk, world)
    hooks = _Hooks(config, settings["run"], desk, world, mirror)
    try:
        validation = ValidationSource(
            config.shards, config.loader, limit=config.fit.validation_examples, on_reject=hooks.rejected
        )
        ending = fit(
            _build(config, world),
            _source(config, world, hooks),
            config.fit,
            output=config.folder,
            validation=validation,
            hooks=hooks,
        )
        if mirror and world.rank == 0:
            mirror.send()
    except (NotFiniteError, CorruptDataError, torch.OutOfMemoryError, ValueError) as error:
        desk.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        hooks.close()
    return asdict(ending)


def _mirror(config: TrainConfig, desk: DeskLine, world: World) -> Mirror | None:
    """Bring an output at a URI to this node, after what the store has missed has gone there."""
    if not is_uri(config.output):
        return None
    mirror = Mirror(config.output, config.folder, desk.say, world.rank)
    if world.rank == 0:
        mirror.send_newer()
    world.wait()
    mirror.bring()
    world.wait()
    return mirror


def _device() -> torch.device:
    from pipelines.cluster.connection import worker_device

    device: torch.device = worker_device()
    return device


def _build(config: TrainConfig, world: World) -> Gan:
    torch.manual_seed(config.fit.seed)  # the same first weights on every rank
    generator, discriminator = Generator(config.generator), Discriminator(config.discriminator)
    if config.init is not None:
        states = read_container(config.folder / INIT / WEIGHTS)
        generator.load_state_dict(states["generator"])
        if "discriminator" in states:
            discriminator.load_state_dict(states["discriminator"])
    return Gan(generator.to(world.device), discriminator.to(world.device), config.gan, world)


def _source(config: TrainConfig, world: World, hooks: "_Hooks") -> Source:
    settings: dict[str, Any] = {
        "epoch_examples": config.fit.epoch_examples,
        "seed": config.fit.seed,
        "on_reject": hooks.rejected,
    }
    if config.source == "live":
        actors = max(config.live_actors // world.size, 1)
        return LiveSource(config.shards, config.loader, actors=actors, cache=config.live_cache, **settings)
    return ShardSource(config.shards, config.loader, **settings)


class _Hooks(Hooks):
    def __init__(
        self, config: TrainConfig, run: Run, desk: DeskLine, world: World, mirror: Mirror | None
    ) -> None:
        self.config, self.desk, self.world, self.mirror = config, desk, world, mirror
        self.output = Folder(str(config.folder))
        self.tracker = Tracker(run) if world.rank == 0 else None
        self.heard = config.heard_examples
        self.late = config.heard_examples > 0
        self._reviews: dict[int, Aside] = {}
        self._counts = _TrainingCounts(world.rank)

    def stepped(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        self._counts.stepped(names, skipped=bool(metrics[SKIPPED]))
        if self.config.history:
            line = json.dumps({"step": step, "examples": list(names), **metrics})
            with open(self.output.path(f"history-{self.world.rank}.jsonl"), "a") as stream:
                stream.write(line + "\n")

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        self._counts.logged(metrics)
        if self.tracker:
            self.tracker.log(step, metrics)

    def validated(self, step: int, scores: Mapping[str, float], heard: Sequence[Heard]) -> None:
        if self.tracker:
            self.tracker.log(step, scores, kind="validation")
        examples = [
            (one.name, one.clean.numpy(), one.degraded.numpy(), one.restored.numpy()) for one in heard
        ]
        folder = self._review_folder(step)
        self._reviews[step] = Aside(
            review,
            examples,
            folder,
            self.config.generator.sample_rate,
            self.config.visqol,
            here=self.mirror is not None,
        )

    def late_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
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
            self.say(f"step {step}: no ViSQOL and no pictures: {found or 'it took too long'}")
            return {}
        scores: dict[str, float] = found["scores"]
        if self.config.visqol and VISQOL not in scores:
            self.say(f"step {step}: ViSQOL is missing, or defined for none of the examples")
        if self.tracker:
            self.tracker.log(step, scores, kind="review")
            for name, path in found["pictures"].items():
                self.tracker.log_picture(step, name, path)
            for name, path in found["clips"].items():
                self.tracker.log_audio(step, name, path)
        shutil.rmtree(self._review_folder(step), ignore_errors=True)  # the tracker has its copies
        return scores

    def _review_folder(self, step: int) -> str:
        return self.output.path(f".review/step-{step:08d}")

    def saved(self, step: int, path: Path) -> None:
        prometheus.record("apollo_training_checkpoints_total")
        self.say(f"checkpoint {os.fspath(path)}")
        if self.mirror:
            self.mirror.try_to_send()

    def should_stop(self) -> bool:
        return self.world.rank == 0 and self.desk.is_stopping()

    def say(self, text: str) -> None:
        self.desk.say(text)

    def rejected(self, reject: Reject) -> None:
        """List a row that is left out."""
        prometheus.rejected("apollo_training_rows_rejected_total", [reject.reason])
        self.say(f"left out: {reject.name}: {reject.reason}")
        with open(self.output.path(f"rejects-{self.world.rank}.jsonl"), "a") as stream:
            stream.write(json.dumps(reject._asdict()) + "\n")
        if self.mirror:
            self.mirror.try_to_send_rejects()

    def close(self) -> None:
        """Send what is to be sent."""
        if self.tracker:
            self.tracker.close()


class _TrainingCounts:
    """Counts what a training worker does; the first one counts what all of them do together.

    Args:
        rank: Of the worker.
    """

    def __init__(self, rank: int) -> None:
        self._first, self._steps = rank == 0, 0
        if self._first:
            prometheus.record("apollo_training_starts_total")

    def stepped(self, names: Sequence[str], *, skipped: bool) -> None:
        """Count a step with the worker's own examples."""
        self._steps += 1
        prometheus.record("apollo_training_examples_total", len(names))
        if self._first:
            prometheus.record("apollo_training_steps_total")
            prometheus.record("apollo_training_skipped_steps_total", skipped)

    def logged(self, metrics: Mapping[str, float]) -> None:
        """Take over the seconds of the steps since the last time: `time/step` and `time/data` are means."""
        prometheus.record("apollo_training_seconds_total", metrics["time/step"] * self._steps)
        prometheus.record("apollo_training_data_wait_seconds_total", metrics["time/data"] * self._steps)
        self._steps = 0
