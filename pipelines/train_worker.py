"""What runs on every training worker: the networks, the data, the loop, and what rank 0 tells of it."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from apollo.checkpoint import WEIGHTS, CheckpointError
from apollo.discriminator import Discriminator
from apollo.examples import Source
from apollo.gan import Gan
from apollo.generator import Generator
from apollo.loop import Hooks, NotFiniteError, fit
from apollo.published import read_container
from apollo.validation import Heard
from apollo.world import World
from pipelines.loader import ShardSource, ValidationSource
from pipelines.mixing import LiveSource
from pipelines.policy import CorruptDataError, Reject
from pipelines.review import review
from pipelines.storage import Folder
from pipelines.tracking import Run, Tracker
from pipelines.workers import Aside, DeskLine

if TYPE_CHECKING:
    from pipelines.train import TrainConfig

INIT = "init"  # the checkpoint that a run began from, below its output
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
    world = World(_device())
    hooks = _Hooks(config, settings["run"], desk, world)
    try:
        validation = ValidationSource(
            config.shards, config.loader, limit=config.fit.validation_examples, on_reject=hooks.rejected
        )
        ending = fit(
            _build(config, world),
            _source(config, world, hooks),
            config.fit,
            output=Path(config.output),
            validation=validation,
            hooks=hooks,
        )
    except (NotFiniteError, CorruptDataError, CheckpointError, ValueError) as error:
        desk.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        hooks.close()
    return asdict(ending)


def _device() -> torch.device:
    from pipelines.cluster import worker_device

    device: torch.device = worker_device()
    return device


def _build(config: "TrainConfig", world: World) -> Gan:
    torch.manual_seed(config.fit.seed)  # the same first weights on every rank
    generator, discriminator = Generator(config.generator), Discriminator(config.discriminator)
    begun = Path(config.output) / INIT / WEIGHTS
    if begun.exists():
        states = read_container(begun)
        generator.load_state_dict(states["generator"])
        if "discriminator" in states:
            discriminator.load_state_dict(states["discriminator"])
    return Gan(generator.to(world.device), discriminator.to(world.device), config.gan, world)


def _source(config: "TrainConfig", world: World, hooks: "_Hooks") -> Source:
    settings: dict[str, Any] = {
        "epoch_examples": config.fit.epoch_examples,
        "seed": config.fit.seed,
        "on_reject": hooks.rejected,
    }
    if config.source == "live":
        actors = max(config.live_actors // world.size, 1)
        return LiveSource(config.shards, config.loader, actors=actors, **settings)
    return ShardSource(config.shards, config.loader, **settings)


class _Hooks(Hooks):
    def __init__(self, config: "TrainConfig", run: Run, desk: DeskLine, world: World) -> None:
        self.config, self.desk, self.world = config, desk, world
        self.output = Folder(config.output)
        self.tracker = Tracker(run) if world.rank == 0 else None
        self.heard = config.heard_examples
        self.late = config.heard_examples > 0
        self._reviews: dict[int, Aside] = {}

    def stepped(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        if self.config.history:
            line = json.dumps({"step": step, "examples": list(names), **metrics})
            with open(self.output.path(f"history-{self.world.rank}.jsonl"), "a") as stream:
                stream.write(line + "\n")

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
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
            review, examples, folder, self.config.generator.sample_rate, self.config.visqol
        )

    def late_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        arrived: dict[int, dict[str, float]] = {}
        for step, task in list(self._reviews.items()):
            ended, found = task.poll(_REVIEW_SECONDS if wait else 0.0)
            if ended or wait:
                del self._reviews[step]
                arrived[step] = self._reviewed(step, found)
        return arrived

    def _reviewed(self, step: int, found: Any) -> dict[str, float]:
        if not isinstance(found, dict):
            self.say(f"step {step}: no ViSQOL and no pictures: {found or 'it took too long'}")
            return {}
        scores: dict[str, float] = found["scores"]
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
        self.say(f"checkpoint {os.fspath(path)}")

    def should_stop(self) -> bool:
        return self.world.rank == 0 and self.desk.is_stopping()

    def say(self, text: str) -> None:
        self.desk.say(text)

    def rejected(self, reject: Reject) -> None:
        """List a row that is left out."""
        self.say(f"left out: {reject.name}: {reject.reason}")
        with open(self.output.path(f"rejects-{self.world.rank}.jsonl"), "a") as stream:
            stream.write(json.dumps(reject._asdict()) + "\n")

    def close(self) -> None:
        """Send what is to be sent."""
        if self.tracker:
            self.tracker.close()
