"""What things cost on one core; `python -m benchmarks.rates` measures it."""

import json
import math
from dataclasses import asdict, dataclass

from pipelines.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What things cost on a core of the machine that is named; seconds are processor time, children included.

    Args:
        machine: What they were measured on, when, and with what music.
        degradations: Bitrates of every recipe.
        scan_seconds: Of scanning a second of a track.
        render_seconds: Of making a recipe with all its bitrates and its part of the shard.
        start_seconds: Of an actor until it works.
        plan_song_seconds: Of all that the driver does with a song from its scan to the plan.
        plan_seconds: Of drawing and writing a recipe, in the driver.
        shard_seconds: Of handing out, reading, checking and closing over a shard, in the driver.
        load_seconds: Of a training example from a shard.
        mix_seconds: Of mixing a training example live; loading it comes on top.
        score_seconds: Of all metrics of an item at one degradation.
        restore_seconds: Of restoring a second of stereo: released size, float32, on CPU.
        clean_bytes: Of a recipe's FLAC.
        recipe_bytes: Of a recipe in its shard.
        driver_bytes: Of preprocess's driver when it begins.
        driver_song_bytes: What a song of four minutes and five tracks adds to its peak.
        driver_recipe_bytes: What a planned recipe adds to its peak.
        driver_shard_bytes: What a shard adds to its peak.
    """

    machine: str
    degradations: int
    scan_seconds: float
    render_seconds: float
    start_seconds: float
    plan_song_seconds: float
    plan_seconds: float
    shard_seconds: float
    load_seconds: float
    mix_seconds: float
    score_seconds: float
    restore_seconds: float
    clean_bytes: float
    recipe_bytes: float
    driver_bytes: float
    driver_song_bytes: float
    driver_recipe_bytes: float
    driver_shard_bytes: float

    def __post_init__(self) -> None:
        """Refuse what is no rate.

        Raises:
            ValueError: a number is negative, or none.
        """
        for name, value in asdict(self).items():
            if name != "machine" and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: a rate is a number from 0")

    @classmethod
    def from_json(cls, text: str | bytes) -> "Rates":
        """Read what `to_json` wrote.

        Raises:
            UsageError: it is something else.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"these are no rates ({error}): `python -m benchmarks.rates FILE` measures them"
            ) from error

    def to_json(self) -> str:
        """Write them for people and for `from_json`."""
        return json.dumps(asdict(self), indent=1) + "\n"
