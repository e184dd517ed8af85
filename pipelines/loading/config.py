"""Configuration of the loader."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from apollo.training.augmentation import LevelsConfig
from pipelines import schema
from pipelines.errors import UsageError
from pipelines.loading.degradation_choice import DegradationChoice, check_weights

_LEAST_SECONDS = 0.1  # of a piece


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Configuration of the loader.

    Memory: two windows of compressed rows, of which a worker keeps its own share (a row with one degradation
    is about 0.35 MB: 360 MB for a lone worker at 8 shards of 64 rows, 45 MB for one of eight), 2 MB for every
    example of 3 s decoded ahead, and some 70 MB for the row groups that are being read.

    Args:
        degradations: Names of those to train on, such as mp3_24000; empty for all in the shards.
        degradation_weights: How often each degradation is drawn, relative to the others, by name; 1 where not
            given. Validation takes all alike.
        first_degradation_weights: Weights of the first example, from which they change linearly (curriculum).
        weights_change_examples: Number of examples over which they change.
        below_source_bitrate: Use only degradations below the bitrates of the lossy sources that a row is
            mixed from, or the lowest where none is; see `sources.allow_lossy` of preprocess.
        levels: Levels and augmentation.
        piece_seconds: Length of the piece that is taken of each training row, at a random place; 0 takes the
            whole row. Validation takes whole rows.
        window_shards: Number of shards that are shuffled together. More shuffle better and take more memory.
        look_ahead: Number of examples that are decoded ahead.
        decode_threads: Number of decoding threads.
        fetch_threads: Number of shards that are fetched at a time.
        corrupt: Policy for corrupt rows: `stop` ends the run, `skip` replaces the row by the next valid one
            in the order and lists it.
        max_corrupt_share: Largest share of the rows that may be skipped; above it the run ends.
    """

    degradations: tuple[str, ...] = ()
    degradation_weights: dict[str, float] = field(default_factory=dict)
    first_degradation_weights: dict[str, float] = field(default_factory=dict)
    weights_change_examples: int = 0
    below_source_bitrate: bool = True
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    piece_seconds: float = 0.0
    window_shards: int = 8
    look_ahead: int = 16
    decode_threads: int = 2
    fetch_threads: int = 4
    corrupt: Literal["stop", "skip"] = "stop"
    max_corrupt_share: float = 0.01

    def __post_init__(self) -> None:
        for name in ("window_shards", "look_ahead", "decode_threads", "fetch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"loader.{name} is {getattr(self, name)}: it must be at least 1")
        check_weights(self.degradation_weights, self.first_degradation_weights, self.weights_change_examples)
        if self.piece_seconds and not _LEAST_SECONDS <= self.piece_seconds <= schema.EXCERPT_SECONDS:
            raise ValueError(
                f"loader.piece_seconds is {self.piece_seconds}: it must be from {_LEAST_SECONDS} to "
                f"{schema.EXCERPT_SECONDS}, the length of a row, or 0 for whole rows"
            )
        if self.corrupt not in ("stop", "skip"):
            raise ValueError(f"loader.corrupt is {self.corrupt!r}: choose stop or skip")
        if not 0 <= self.max_corrupt_share < 1:
            raise ValueError(
                f"loader.max_corrupt_share is {self.max_corrupt_share}: it must be at least 0 and below 1"
            )

    @property
    def piece_samples(self) -> int:
        """Length of a piece in samples; 0 for whole rows."""
        return round(self.piece_seconds * schema.SAMPLE_RATE)

    def choose_degradations(self, available: Sequence[str], seed: int) -> DegradationChoice:
        """Return what draws the degradation of each training example.

        Raises:
            UsageError: a weight is for a degradation that is not available.
        """
        named = {*self.degradation_weights, *self.first_degradation_weights}
        if unknown := sorted(named - set(available)):
            raise UsageError(
                f"loader.degradation_weights names {', '.join(unknown)}; available: {', '.join(available)}"
            )
        return DegradationChoice(
            self.degradation_weights, self.first_degradation_weights, self.weights_change_examples, seed
        )
