"""Who a training run speaks to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from apollo.training.validation import RestoredExample


class Callbacks:
    """What a run tells and asks whoever drives it; the defaults do nothing. Called on rank 0 unless said."""

    review_examples = 0  # validation examples to restore and pass to `on_validation_end`
    has_async_scores = False  # whether more scores of a validation come through `collect_async_scores`

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        """A step was taken; on every rank, with the names of the rank's own examples."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means over the last `log_steps` steps."""

    def on_validation_end(
        self, step: int, scores: Mapping[str, float], restored: Sequence[RestoredExample]
    ) -> None:
        """A validation is done."""

    def collect_async_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        """Give scores that have come since the last time, by step; with `wait`, all that are to come."""
        return {}

    def on_checkpoint_saved(self, step: int, path: Path) -> None:
        """A checkpoint is written."""

    def should_stop(self) -> bool:
        """Tell whether to end after this step, with a checkpoint; asked on every rank, one is enough."""
        return False
