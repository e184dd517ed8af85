"""Callbacks of the training loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from apollo.training.validation import RestoredExample


class Callbacks:
    """Base class of callbacks; by default all methods do nothing. Called on rank 0 unless noted."""

    listening_examples = 0  # number of validation examples to restore and pass to `on_validation_end`
    has_async_scores = False  # whether `collect_async_scores` returns further scores of each validation

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        """Handle the metrics of a step, with the names of this rank's examples; called on every rank.

        `metrics` are read from the device upon the first access, for which the host waits. They may be kept:
        once every `log_steps` steps, before `on_log`, those of all steps are read in one transfer.
        """

    def on_train_step_skipped(self, step: int, examples: Sequence[str]) -> None:
        """Handle a step that was skipped for a non-finite loss or gradient; called on every rank.

        Called when metrics are read, up to `log_steps` steps after the step. `examples` are those of all
        ranks with a non-finite loss, or of the whole step if there are none.
        """

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Handle the mean metrics of the last `log_steps` steps."""

    def on_validation_end(
        self, step: int, scores: Mapping[str, float], restored: Sequence[RestoredExample]
    ) -> None:
        """Handle validation scores and the first `listening_examples` restored examples."""

    def collect_async_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        """Return scores by step that arrived since the last call; with `wait`, wait for all pending ones."""
        return {}

    def on_checkpoint_saved(self, step: int, path: Path) -> None:
        """Handle a checkpoint folder that was written."""

    def should_stop(self) -> bool:
        """Return whether to stop after this step, with a checkpoint; called on every rank, one suffices.

        Several ranks on GPUs stop up to `log_steps` steps later, but within about 10 s.
        """
        return False
