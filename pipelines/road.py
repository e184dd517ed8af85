"""The whole road in one run: music to shards to a model to scores to restored songs, and a page about it.

Every part is what its own job runs, on an output of its own below OUTPUT, so a road that was stopped goes on
where it was, and any part can be run again by hand:

    shards/  run/  decision/  evaluation/  songs/  restored/  mlflow.db  index.html
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import runs
from pipelines.demo import album_folders
from pipelines.errors import UsageError
from pipelines.evaluate import evaluate
from pipelines.evaluate_config import EvaluateConfig
from pipelines.preprocess import PreprocessConfig, preprocess
from pipelines.progress import say
from pipelines.registered import find
from pipelines.restore import RestoreConfig, restore
from pipelines.road_page import TITLES, Step, write_page
from pipelines.road_songs import write_songs
from pipelines.runs import Exit, Outcome
from pipelines.storage import is_uri
from pipelines.tracking import TrackingConfig
from pipelines.tracking_uri import shown
from pipelines.train import train
from pipelines.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RoadConfig:
    """What the road is told beside the configurations of its parts.

    Args:
        output: Folder on a disk.
        data: Data sets, as preprocess takes them; none composes an album of generated music.
        soundfont: Another SoundFont for the album.
        songs: Songs to restore at the end, from the test split.
        song_seconds: Longest excerpt of each.
        song_bitrate_bps: What they are encoded at before they are restored.
    """

    output: str = "demo"
    data: tuple[str, ...] = ()
    soundfont: Path | None = None
    songs: int = 2
    song_seconds: float = 15.0
    song_bitrate_bps: int = 48_000

    def __post_init__(self) -> None:
        if is_uri(self.output):
            raise UsageError(f"--output {self.output!r} is no folder on a disk")
        object.__setattr__(self, "output", runs.resolve(self.output, "--output"))
        if self.songs < 0 or not self.song_seconds > 0:
            raise UsageError("songs must be 0 or more, song_seconds above 0")

    def path(self, name: str) -> str:
        """Give the absolute path of a part."""
        return os.path.join(self.output, name)


def walk(config: RoadConfig, settings: Mapping[str, dict[str, Any]]) -> Outcome:
    """Walk the road to its end, or to the first part that does not end well.

    Args:
        config: The road.
        settings: Fields of the configurations of `preprocess`, `train` and `evaluate`, but for those that the
            road gives itself.

    Raises:
        UsageError: the configuration of a part is wrong.
    """
    uri = _tracking_uri(config)
    os.environ["MLFLOW_TRACKING_URI"] = uri  # where models:/apollo@champion is looked up
    data = list(config.data) or album_folders(Path(config.path("album")), config.soundfont)
    prepared = PreprocessConfig(**settings["preprocess"], data=data, output=config.path("shards"))
    tracking = TrackingConfig(uri=uri, experiment="apollo-demo")
    trained = TrainConfig(
        **settings["train"], shards=prepared.output, output=config.path("run"), tracking=tracking
    )
    scored = {
        **settings["evaluate"],
        "data": prepared.output,
        "tracking": tracking,
        "registry": trained.registry,
    }
    decided = {**scored, "output": config.path("decision"), "split": "valid", "promote": True}
    model = f"models:/{trained.registry.name}@champion"
    tested = {**scored, "output": config.path("evaluation"), "split": "test", "models": (model,)}
    return _walk(
        config,
        model,
        uri,
        {
            "shards": lambda: _make_shards(prepared),
            "run": lambda: train(trained),
            "decision": lambda: evaluate(EvaluateConfig(**decided)),
            "evaluation": lambda: evaluate(EvaluateConfig(**tested)),
            "restored": lambda: _restore(config, prepared, model),
        },
    )


def _walk(config: RoadConfig, model: str, uri: str, parts: dict[str, Callable[[], Outcome]]) -> Outcome:
    walked: list[Step] = []
    for number, (name, run) in enumerate(parts.items(), 1):
        say(f"[{number}/{len(parts)}] {TITLES[name]}")
        began = time.monotonic()
        outcome = run()
        walked.append(Step(name, outcome, time.monotonic() - began))
        say(f"[{number}/{len(parts)}] {outcome.message} ({walked[-1].seconds:.0f} s)")
        if outcome.code != Exit.DONE:
            return Outcome(outcome.code, f"{TITLES[name]}: {outcome.message}")
    page = write_page(config.output, walked, uri, find(model)[0].label)
    total = sum(step.seconds for step in walked)
    verdicts = walked[-2].outcome.facts["verdicts"]
    return Outcome(
        Exit.DONE, f"{verdicts[0]} All of it took {total:.0f} s.", {"page": page, "mlflow": _see(uri)}
    )


def _restore(config: RoadConfig, prepared: PreprocessConfig, model: str) -> Outcome:
    names = write_songs(
        config.path("songs"),
        prepared.output,
        songs=config.songs,
        seconds=config.song_seconds,
        bitrate_bps=config.song_bitrate_bps,
    )
    if not names:
        return Outcome(Exit.DONE, "the test split has no whole songs")
    return restore(
        RestoreConfig(
            data=[config.path("songs")], output=config.path("restored"), checkpoint=model, format="flac16"
        )
    )


def _make_shards(config: PreprocessConfig) -> Outcome:
    made = preprocess(config)
    return Outcome(made.code, made.message, made.report)


def _tracking_uri(config: RoadConfig) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.path('mlflow.db')}"


def _see(uri: str) -> str:
    """Say where MLflow's pages are."""
    if uri.startswith("sqlite"):
        return f"mlflow ui --backend-store-uri {uri}      # then open http://127.0.0.1:5000"
    return f"MLflow: {shown(uri)}"
