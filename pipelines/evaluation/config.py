"""Configuration of an evaluation."""

import logging
from dataclasses import dataclass, field

from pipelines.errors import UsageError
from pipelines.evaluation.promotion_config import PromotionConfig
from pipelines.registry.registry import RegistryConfig
from pipelines.runtime.run import absolute_location
from pipelines.schema import SPLITS
from pipelines.tracking.run import TrackingConfig

logger = logging.getLogger(__name__)

_PRECISIONS = ("float32", "bfloat16")  # no `auto`: it would differ between nodes


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Configuration of an evaluation: models x degradations over the same items.

    Args:
        data: Output of preprocess, path or URI; or a folder of pairs: NAME/clean.wav with NAME/degraded.mp3,
            or clean/NAME.wav with degraded/NAME.mp3.
        output: Folder or URI of the evaluation.
        models: Models to score in addition to the untouched codec: folders of runs, checkpoints, published
            or community files, Hugging Face names, models:/apollo@champion, runs:/ID; NAME=MODEL renames
            one, MODEL#strength=0.5 sets the strength of its noise (0 to 1.5). `promote` adds the registry's
            candidate and champion.
        split: Split of the shards: `test`, or `valid` for decisions.
        degradations: Names of those to score, such as mp3_24000; empty takes all.
        limit: Maximum number of items, evenly over categories; unset takes all.
        precision: Of the linear layers: `float32` or `bfloat16`, the same on all nodes.
        gpu: Whether models run on GPUs if the cluster has some.
        scorers: Maximum number of scoring actors; unset takes one per CPU.
        rtf_runs: Maximum number of runs that a real-time factor is the mean of; 0 measures none.
        rtf_seconds: Maximum duration of these runs in seconds, per model and device.
        bootstrap_resamples: Resamples of the confidence intervals.
        bootstrap_seed: Seed of the confidence intervals.
        listening_items: Listening examples per degradation in the report: worst, median, best.
        heard_items: Former name of `listening_items`.
        max_reject_share: Largest share of items that may be unreadable.
        retry_unreadable: Try again the items that an earlier run could not read; other scores are kept.
        align_pairs: Take out the lag between the files of a pair, found by cross-correlation, up to 0.1 s. It
            is reported otherwise.
        promote: Move the alias `champion` to the candidate if it is better.
        promotion: Rules of the promotion.
        registry: Registered model.
        tracking: MLflow run.
    """

    data: str
    output: str
    models: tuple[str, ...] = ()
    split: str = "test"
    degradations: tuple[str, ...] = ()
    limit: int | None = None
    precision: str = "float32"
    gpu: bool = True
    scorers: int | None = None
    rtf_runs: int = 1000
    rtf_seconds: float = 60.0
    bootstrap_resamples: int = 2000
    bootstrap_seed: int = 0
    listening_items: int = 3
    heard_items: int | None = None
    max_reject_share: float = 0.01
    retry_unreadable: bool = False
    align_pairs: bool = False
    promote: bool = False
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.heard_items is not None:
            logger.warning("--heard_items is deprecated: use --listening_items")
            object.__setattr__(self, "listening_items", self.heard_items)
            object.__setattr__(self, "heard_items", None)  # replace() must not apply it again
        object.__setattr__(self, "data", absolute_location(self.data, "--data"))
        object.__setattr__(self, "output", absolute_location(self.output, "--output"))
        if self.split not in SPLITS:
            raise UsageError(f"split is {self.split!r}: it must be one of {', '.join(SPLITS)}")
        if self.precision not in _PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}: it must be {' or '.join(_PRECISIONS)}")
        if self.promote and self.split != "valid":
            raise UsageError(
                "champions are chosen on the validation split, so that the test split stays unseen: add "
                "--split valid"
            )
        for name in ("limit", "scorers", "bootstrap_resamples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be 1 or more")
        if self.rtf_runs < 0 or not self.rtf_seconds > 0 or self.listening_items < 0:
            raise UsageError("rtf_runs and listening_items must be 0 or more, rtf_seconds above 0")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share is {self.max_reject_share}: it must be between 0 and 1")
