"""The demo: preprocess, train, evaluate, promote and restore in one run, with a page that links the results.

Every part is a job with its own output below OUTPUT, so the demo resumes where it was stopped, and any part
can be run again by hand:

    shards/  run/  decision/<candidate>/  evaluation/<model>/  songs/  restored/<model>/
    mlflow.db  index.html  result.json

Results that depend on a version of the model lie in a folder of its label, such as apollo-v1. The registry is
a database of the demo's own, whatever MLFLOW_TRACKING_URI says, so that no team's aliases move.
"""

import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apollo.checkpoints.container import CheckpointError
from pipelines.cluster.connection import check_cluster
from pipelines.demo.album import album_folders
from pipelines.demo.page import TITLES, Step, write_page
from pipelines.demo.songs import write_songs
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.run import evaluate
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.run import preprocess
from pipelines.redaction import redact
from pipelines.registry.registry import CANDIDATE, CHAMPION, Version
from pipelines.registry.resolve_models import find_version
from pipelines.restoration.run import RestoreConfig, restore
from pipelines.runtime.environment import environment
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.run import absolute_location, run_exclusively
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking.run import TrackingConfig
from pipelines.tracking.uri import check_uri, resolve_uri, sqlite_uri
from pipelines.training.config import TrainConfig
from pipelines.training.run import train

logger = logging.getLogger(__name__)

_Part = Callable[[], tuple[str, Outcome]]


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Options of the demo, besides the configurations of its jobs.

    Args:
        output: Folder on a disk.
        data: Data sets, as preprocess takes them; the generated album if empty.
        tracking_uri: MLflow server or database whose registry takes the model; unset takes OUTPUT/mlflow.db,
            and never MLFLOW_TRACKING_URI.
        songs: Songs to restore at the end, from the test split.
        song_seconds: Longest excerpt of each.
        song_bitrate_bps: Bitrate of their MP3s.
    """

    output: str = "demo"
    data: tuple[str, ...] = ()
    tracking_uri: str | None = None
    songs: int = 2
    song_seconds: float = 15.0
    song_bitrate_bps: int = 48_000

    def __post_init__(self) -> None:
        if is_uri(self.output):
            raise UsageError(f"--output {self.output!r} must be a local folder")
        object.__setattr__(self, "output", absolute_location(self.output, "--output"))
        if self.songs < 0 or not self.song_seconds > 0:
            raise UsageError("songs must be 0 or more, song_seconds above 0")

    def path(self, name: str) -> str:
        """Return the absolute path of a part."""
        return os.path.join(self.output, name)


def run_demo(config: DemoConfig, settings: Mapping[str, dict[str, Any]]) -> Outcome:
    """Run all jobs, up to the first that fails, and write result.json.

    An output that another run has locked is left as it is.

    Args:
        config: Options of the demo.
        settings: Fields of the configurations of `preprocess`, `train` and `evaluate`, without those that the
            demo sets itself.
    """
    demo = _Demo(config, settings)
    resume_hint = "the finished parts stand, run the same command again to resume"
    return run_exclusively(
        Folder(config.output), demo.prepare, demo.work, activity="running the demo", resume_hint=resume_hint
    )


class _Demo:
    """One run over one locked output; every part returns its folder and its outcome."""

    def __init__(self, config: DemoConfig, settings: Mapping[str, dict[str, Any]]) -> None:
        self.config, self.settings = config, settings

    def prepare(self) -> None:
        """Build the configurations of all jobs, so that errors in any are reported first.

        Raises:
            UsageError: one of them is wrong, or no cluster answers at RAY_ADDRESS.
        """
        config, settings = self.config, self.settings
        check_cluster()
        self.uri = resolve_uri(config.tracking_uri or sqlite_uri(config.path("mlflow.db")), config.output)
        check_uri(self.uri, nodes=1)
        tracking = TrackingConfig(uri=self.uri, experiment="apollo-demo")
        data = list(config.data) or [config.path("album")]
        self.preprocess_config = PreprocessConfig(
            **settings["preprocess"], data=data, output=config.path("shards")
        )
        self.train_config = TrainConfig(
            **settings["train"],
            shards=self.preprocess_config.output,
            output=config.path("run"),
            tracking=tracking,
        )
        scored: dict[str, Any] = {
            **settings["evaluate"],
            "data": self.preprocess_config.output,
            "tracking": tracking,
            "registry": self.train_config.registry,
        }
        self.decision_config = EvaluateConfig(
            **scored, output=config.path("decision"), split="valid", promote=True
        )
        self.test_config = EvaluateConfig(**scored, output=config.path("evaluation"), split="test")

    def work(self) -> Outcome:
        """Run the parts, with names of models resolved in the demo's registry."""
        with environment({"MLFLOW_TRACKING_URI": self.uri}):
            return self._run_parts(
                {
                    "shards": self._shards,
                    "run": lambda: ("run", train(self.train_config)),
                    "decision": self._decide,
                    "evaluation": self._test,
                    "restored": self._restore,
                }
            )

    def _run_parts(self, parts: dict[str, _Part]) -> Outcome:
        steps: dict[str, Step] = {}
        for number, (name, part) in enumerate(parts.items(), 1):
            logger.info(f"[{number}/{len(parts)}] {TITLES[name]}")
            began = time.monotonic()
            try:
                folder, outcome = part()
            except CheckpointError as error:  # no such version, or no registry that answers
                folder, outcome = "", Outcome(Exit.FAILED, str(error))
            step = steps[name] = Step(name, folder, outcome, time.monotonic() - began)
            logger.info(f"[{number}/{len(parts)}] {outcome.message} ({step.seconds:.0f} s)")
            if outcome.code != Exit.DONE:
                return Outcome(outcome.code, f"{TITLES[name]}: {outcome.message}")
        page = write_page(self.config.output, steps, self.uri, self._version(CHAMPION))
        total = sum(step.seconds for step in steps.values())
        verdict = steps["evaluation"].outcome.facts["verdicts"][0]
        facts = {"page": page, "mlflow": _mlflow_hint(self.uri)}
        return Outcome(Exit.DONE, f"{verdict} All of it took {total:.0f} s.", facts)

    def _shards(self) -> tuple[str, Outcome]:
        config = self.config
        data = list(config.data) or album_folders(Path(config.path("album")))
        return "shards", preprocess(replace(self.preprocess_config, data=data))

    def _decide(self) -> tuple[str, Outcome]:
        folder = f"decision/{self._version(CANDIDATE).label}"
        return folder, evaluate(replace(self.decision_config, output=self.config.path(folder)))

    def _test(self) -> tuple[str, Outcome]:
        model = self._version(CHAMPION)
        folder = f"evaluation/{model.label}"
        return folder, evaluate(
            replace(self.test_config, output=self.config.path(folder), models=(model.uri,))
        )

    def _restore(self) -> tuple[str, Outcome]:
        config, model = self.config, self._version(CHAMPION)
        folder, songs = f"restored/{model.label}", config.path("songs")
        names = write_songs(
            songs,
            self.preprocess_config.output,
            songs=config.songs,
            seconds=config.song_seconds,
            bitrate_bps=config.song_bitrate_bps,
        )
        if not names:
            return folder, Outcome(Exit.DONE, "the test split has no whole songs")
        output = config.path(folder)
        return folder, restore(
            RestoreConfig(data=[songs], output=output, checkpoint=model.uri, format="flac16")
        )

    def _version(self, alias: str) -> Version:
        """Return a version of the model by alias; the candidate where there is no champion."""
        return find_version(f"models:/{self.train_config.registry.name}@{alias}")[0]


def _mlflow_hint(uri: str) -> str:
    """Return how to open MLflow's pages."""
    if uri.startswith("sqlite"):
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}      # then open http://127.0.0.1:5000"
    return f"MLflow: {redact(uri)}"
