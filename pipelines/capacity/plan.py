"""What `pipelines.capacity.predict` is asked: how much of everything, and at which prices."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pipelines.dataset.plan import count_shards
from pipelines.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What you pay, in any currency: no price is built in, and what is not given costs nothing.

    Args:
        core_hour: A core for an hour.
        gpu_hour: A GPU for an hour.
        gb_month: A GB of disk for a month.
    """

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    gb_month: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check(f"prices.{name}", value, value >= 0, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done; the defaults are the paper's where it says something.

    Args:
        songs: Songs that are scanned.
        recipes: Recipes of all splits together.
        song_seconds: Length of a song.
        tracks: Files of a song: its stems, and its mixture where there is one.
        shard_rows: Recipes of a shard.
        row_group_rows: Recipes of a row group.
        components: Sources of a recipe, in the mean: half are one song, half a mix of 1 to 8.
        cores: CPU cores that work.
        cores_per_node: CPU cores of a node.
        gpus: GPUs that train; 0 trains nothing.
        gpus_per_node: GPUs of a node.
        gpu_step_seconds: Time of a step on your GPU, as `python -m benchmarks.gan_step` tells it: no GPU was
            measured here, so there are no hours of training without it.
        micro_batch: Examples of a GPU's step.
        source: Whether training reads `shards` or mixes `live`.
        epochs: Epochs of training.
        epoch_examples: Examples of an epoch.
        parameters: Of generator and discriminator: their gradients travel between nodes.
        score_items: Items that are scored, each at every bitrate.
        models: Models that are scored beside the untouched MP3, restored on CPUs.
        months: How long sources and shards are kept.
        prices: Yours.
    """

    songs: int
    recipes: int
    song_seconds: float = 240.0
    tracks: float = 5.0
    shard_rows: int = 64
    row_group_rows: int = 8
    components: float = 2.75
    cores: int = 64
    cores_per_node: int = 64
    gpus: int = 0
    gpus_per_node: int = 8
    gpu_step_seconds: float | None = None
    micro_batch: int = 1
    source: Literal["shards", "live"] = "shards"
    epochs: int = 500
    epoch_examples: int = 40_000
    parameters: int = 19_310_811
    score_items: int = 0
    models: int = 1
    months: float = 1.0
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        for name in ("songs", "recipes", "shard_rows", "row_group_rows", "cores", "cores_per_node"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("gpus_per_node", "micro_batch", "epochs", "epoch_examples"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("song_seconds", "tracks", "components"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("gpus", "parameters", "score_items", "models", "months"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        step = self.gpu_step_seconds
        _check("gpu_step_seconds", step, step is None or step > 0, "a number above 0, or leave it unset")
        _check("source", self.source, self.source in ("shards", "live"), "shards or live")

    @property
    def shards(self) -> int:
        """How many there are; splits that end within a shard add one each."""
        return count_shards([self.recipes], self.shard_rows)


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good or value == math.inf:
        raise UsageError(f"{name} is {value!r}: give {wanted}")
