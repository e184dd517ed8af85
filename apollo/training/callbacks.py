"""Who a training run speaks to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from apollo.training.validation import Heard


class Hooks:
    """What a run tells and asks whoever drives it; the defaults do nothing. Called on rank 0 unless said."""

    heard = 0  # examples of each validation that `validated` wants to see
    late = False  # whether more scores of a validation come through `late_scores`

    def stepped(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        """A step was taken; on every rank, with the names of the rank's own examples."""

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means over the last `log_steps` steps."""

    def validated(self, step: int, scores: Mapping[str, float], heard: Sequence[Heard]) -> None:
        """A validation is done."""

    def late_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        """Give scores that have come since the last time, by step; with `wait`, all that are to come."""
        return {}

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint is written."""

    def should_stop(self) -> bool:
        """Tell whether to end after this step, with a checkpoint; asked on every rank, one is enough."""
        return False
