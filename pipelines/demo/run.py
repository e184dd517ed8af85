"""The whole road in one run: music to shards to a model to scores to restored songs, and a page about it.

Every part is what its own job runs, on an output of its own below OUTPUT, so a road that was stopped goes on
where it was, and any part can be run again by hand:

    shards/  run/  decision/<candidate>/  evaluation/<model>/  songs/  restored/<model>/
    mlflow.db  index.html  result.json

What a version of the model decides lies in a folder of its label, such as apollo-v1: a new version makes its
own. The registry is the road's own database, whatever MLFLOW_TRACKING_URI says, so that no team's aliases
move for a demo.
"""

import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apollo.checkpoints.published_format import CheckpointError
from pipelines.demo.album import write_album
from pipelines.demo.page import TITLES, Step, write_page
from pipelines.demo.songs import write_songs
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.run import evaluate
from pipelines.preprocess.run import PreprocessConfig, preprocess
from pipelines.redaction import shown
from pipelines.registry.registry import CANDIDATE, CHAMPION, Version
from pipelines.registry.resolve_models import find_version
from pipelines.restoration.run import RestoreConfig, restore
from pipelines.runtime import run
from pipelines.runtime.run import Exit, Outcome
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking.run import TrackingConfig
from pipelines.tracking.uri import check_uri, resolve_uri
from pipelines.training.config import TrainConfig
from pipelines.training.run import train

logger = logging.getLogger(__name__)

_URI = "MLFLOW_TRACKING_URI"
_Part = Callable[[], tuple[str, Outcome]]


@dataclass(frozen=True, kw_only=True)
class RoadConfig:
    """What the road is told beside the configurations of its parts.

    Args:
        output: Folder on a disk.
        data: Data sets, as preprocess takes them; none composes an album of generated music.
        tracking_uri: MLflow server or database whose registry takes the model; unset takes OUTPUT/mlflow.db,
            and never MLFLOW_TRACKING_URI.
        songs: Songs to restore at the end, from the test split.
        song_seconds: Longest excerpt of each.
        song_bitrate_bps: What they are encoded at before they are restored.
    """

    output: str = "demo"
    data: tuple[str, ...] = ()
    tracking_uri: str | None = None
    songs: int = 2
    song_seconds: float = 15.0
    song_bitrate_bps: int = 48_000

    def __post_init__(self) -> None:
        if is_uri(self.output):
            raise UsageError(f"--output {self.output!r} is no folder on a disk")
        object.__setattr__(self, "output", run.resolve(self.output, "--output"))
        if self.songs < 0 or not self.song_seconds > 0:
            raise UsageError("songs must be 0 or more, song_seconds above 0")

    def path(self, name: str) -> str:
        """Give the absolute path of a part."""
        return os.path.join(self.output, name)


def walk(config: RoadConfig, settings: Mapping[str, dict[str, Any]]) -> Outcome:
    """Walk the road to its end, or to the first part that does not end well, and leave result.json.

    An output that another road holds is left as it is.

    Args:
        config: The road.
        settings: Fields of the configurations of `preprocess`, `train` and `evaluate`, but for those that the
            road gives itself.
    """
    road = _Road(config, settings)
    left = "the finished parts stand, run the same command again to go on"
    return run.run_held(Folder(config.output), road.prepare, road.work, doing="walking", left=left)


class _Road:
    """One walk over one output, which is held meanwhile; every part gives its folder and how it ended."""

    def __init__(self, config: RoadConfig, settings: Mapping[str, dict[str, Any]]) -> None:
        self.config, self.settings = config, settings

    def prepare(self) -> None:
        """Make the parts' configurations, so that what is wrong in the last one is said before the first.

        Raises:
            UsageError: one of them is wrong.
        """
        config, settings = self.config, self.settings
        self.uri = resolve_uri(config.tracking_uri or f"sqlite:///{config.path('mlflow.db')}", config.output)
        check_uri(self.uri, nodes=1)
        tracking = TrackingConfig(uri=self.uri, experiment="apollo-demo")
        data = list(config.data) or [config.path("album")]
        self.prepared = PreprocessConfig(**settings["preprocess"], data=data, output=config.path("shards"))
        self.trained = TrainConfig(
            **settings["train"], shards=self.prepared.output, output=config.path("run"), tracking=tracking
        )
        scored: dict[str, Any] = {
            **settings["evaluate"],
            "data": self.prepared.output,
            "tracking": tracking,
            "registry": self.trained.registry,
        }
        self.decided = EvaluateConfig(**scored, output=config.path("decision"), split="valid", promote=True)
        self.tested = EvaluateConfig(**scored, output=config.path("evaluation"), split="test")

    def work(self) -> Outcome:
        """Walk, with the names of models looked up in the road's registry."""
        with _names_looked_up_in(self.uri):
            return self._walk(
                {
                    "shards": self._shards,
                    "run": lambda: ("run", train(self.trained)),
                    "decision": self._decide,
                    "evaluation": self._test,
                    "restored": self._restore,
                }
            )

    def _walk(self, parts: dict[str, _Part]) -> Outcome:
        walked: dict[str, Step] = {}
        for number, (name, part) in enumerate(parts.items(), 1):
            logger.info(f"[{number}/{len(parts)}] {TITLES[name]}")
            began = time.monotonic()
            try:
                folder, outcome = part()
            except CheckpointError as error:  # no such version, or no registry that answers
                folder, outcome = "", Outcome(Exit.FAILED, str(error))
            step = walked[name] = Step(name, folder, outcome, time.monotonic() - began)
            logger.info(f"[{number}/{len(parts)}] {outcome.message} ({step.seconds:.0f} s)")
            if outcome.code != Exit.DONE:
                return Outcome(outcome.code, f"{TITLES[name]}: {outcome.message}")
        page = write_page(self.config.output, walked, self.uri, self._version(CHAMPION))
        total = sum(step.seconds for step in walked.values())
        verdict = walked["evaluation"].outcome.facts["verdicts"][0]
        facts = {"page": page, "mlflow": _see(self.uri)}
        return Outcome(Exit.DONE, f"{verdict} All of it took {total:.0f} s.", facts)

    def _shards(self) -> tuple[str, Outcome]:
        config = self.config
        data = list(config.data) or _album_folders(Path(config.path("album")))
        made = preprocess(replace(self.prepared, data=data))
        return "shards", Outcome(made.code, made.message, made.report)

    def _decide(self) -> tuple[str, Outcome]:
        folder = f"decision/{self._version(CANDIDATE).label}"
        return folder, evaluate(replace(self.decided, output=self.config.path(folder)))

    def _test(self) -> tuple[str, Outcome]:
        model = self._version(CHAMPION)
        folder = f"evaluation/{model.label}"
        return folder, evaluate(replace(self.tested, output=self.config.path(folder), models=(model.uri,)))

    def _restore(self) -> tuple[str, Outcome]:
        config, model = self.config, self._version(CHAMPION)
        folder, songs = f"restored/{model.label}", config.path("songs")
        names = write_songs(
            songs,
            self.prepared.output,
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
        """Find a version of the road's model; the candidate stands in for a champion that is not there."""
        return find_version(f"models:/{self.trained.registry.name}@{alias}")[0]


@contextmanager
def _names_looked_up_in(uri: str) -> Iterator[None]:
    """Let names such as models:/apollo@champion mean the versions of a registry; put back what was there."""
    before = os.environ.get(_URI)
    os.environ[_URI] = uri
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_URI, None)
        else:
            os.environ[_URI] = before


def _see(uri: str) -> str:
    """Say where MLflow's pages are."""
    if uri.startswith("sqlite"):
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}      # then open http://127.0.0.1:5000"
    return f"MLflow: {shown(uri)}"


def _album_folders(destination: Path) -> list[str]:
    """Write the built-in album where it does not exist yet; return its folders in the data sets' layouts."""
    logger.info(f"built-in album: 12 generated songs in {destination}")
    write_album(destination)
    return [str(destination / layout) for layout in ("musdb18hq", "moisesdb")]
