"""The whole road in one run: music to shards to a model to scores to restored songs, and a page about it.

Every part is what its own job runs, on an output of its own below OUTPUT, so a road that was stopped goes on
where it was, and any part can be run again by hand:

    shards/  run/  decision/  evaluation/  songs/  restored/  mlflow.db  index.html
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.evaluate import evaluate
from pipelines.evaluate_config import EvaluateConfig
from pipelines.preprocess import PreprocessConfig, preprocess
from pipelines.progress import say
from pipelines.restore import RestoreConfig, restore
from pipelines.road_page import Step, write_page
from pipelines.road_songs import write_songs
from pipelines.runs import Exit, Outcome
from pipelines.tracking import TrackingConfig
from pipelines.train import train
from pipelines.train_config import TrainConfig

CHAMPION = "models:/apollo@champion"


@dataclass(frozen=True, kw_only=True)
class RoadConfig:
    """What the road is told.

    Args:
        output: Folder on a disk.
        data: Data sets; folders as preprocess takes them.
        preprocess: Other fields of PreprocessConfig.
        train: Other fields of TrainConfig.
        evaluate: Other fields of EvaluateConfig.
        decide: The same, for the decision on the validation split, over those of `evaluate`.
        songs: Songs to restore, from the test split.
        song_seconds: Longest excerpt of each.
        song_bitrate_bps: What they are encoded at before they are restored.
    """

    output: str
    data: tuple[str, ...]
    preprocess: dict[str, Any]
    train: dict[str, Any]
    evaluate: dict[str, Any]
    decide: dict[str, Any]
    songs: int = 2
    song_seconds: float = 20.0
    song_bitrate_bps: int = 48_000

    def path(self, name: str) -> str:
        """Give the absolute path of a part."""
        return os.path.join(os.path.abspath(self.output), name)


def walk(config: RoadConfig) -> Outcome:
    """Walk the road to its end, or to the first part that does not end well.

    Raises:
        ValueError: the configuration of a part is wrong.
    """
    tracking = TrackingConfig(uri=_tracking_uri(config), experiment="apollo-demo")
    parts = _parts(config, tracking)
    os.environ["MLFLOW_TRACKING_URI"] = str(tracking.uri)  # where models:/apollo@champion is looked up
    walked: list[Step] = []
    for number, (name, run) in enumerate(parts):
        say(f"[{number + 1}/{len(parts)}] {name}")
        began = time.monotonic()
        outcome = run()
        walked.append(Step(name, outcome, time.monotonic() - began))
        say(f"[{number + 1}/{len(parts)}] {outcome.message} ({walked[-1].seconds:.0f} s)")
        if outcome.code != Exit.DONE:
            return Outcome(outcome.code, f"{name}: {outcome.message}")
    page = write_page(config.path(""), walked, str(tracking.uri), CHAMPION)
    total = sum(step.seconds for step in walked)
    return Outcome(Exit.DONE, f"{len(parts)} parts in {total:.0f} s", {"page": page, "uri": tracking.uri})


def _tracking_uri(config: RoadConfig) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.path('mlflow.db')}"


def _parts(config: RoadConfig, tracking: TrackingConfig) -> list[tuple[str, Callable[[], Outcome]]]:
    """Give every part's name and what runs it; all configurations are made before the first one runs."""
    shards, run = config.path("shards"), config.path("run")
    prepared = PreprocessConfig(**config.preprocess, data=list(config.data), output=shards)
    trained = TrainConfig(**config.train, shards=shards, output=run, tracking=tracking)
    common = {"data": shards, "tracking": tracking, **config.evaluate}
    decided = EvaluateConfig(
        **common | config.decide, output=config.path("decision"), split="valid", promote=True
    )
    evaluated = EvaluateConfig(**common, output=config.path("evaluation"), split="test", models=(CHAMPION,))
    songs = RestoreConfig(
        data=[config.path("songs")], output=config.path("restored"), checkpoint=CHAMPION, format="flac16"
    )

    def make_shards() -> Outcome:
        made = preprocess(prepared)
        return Outcome(made.code, made.message, made.report)

    def restore_songs() -> Outcome:
        write_songs(
            config.path("songs"),
            shards,
            songs=config.songs,
            seconds=config.song_seconds,
            bitrate_bps=config.song_bitrate_bps,
        )
        return restore(songs)

    return [
        ("shards: activity detection, random mixes, MP3 at six bitrates", make_shards),
        ("training: the generator against its discriminator", lambda: train(trained)),
        ("decision: candidate, champion and MP3 on the validation split", lambda: evaluate(decided)),
        ("evaluation: the champion and the MP3 on the test split", lambda: evaluate(evaluated)),
        ("restoring: MP3s of songs that were never trained on", restore_songs),
    ]
