"""Steps whose results are still on the device."""

import logging

from apollo.training.callbacks import Callbacks
from apollo.training.config import NonFiniteError
from apollo.training.gan import Gan
from apollo.training.step_metrics import MetricTracker
from apollo.training.step_statistics import SKIPPED, StepResult, read_results

logger = logging.getLogger(__name__)


class UnreadSteps:
    """Collects the results of steps, and reads and handles them together.

    Args:
        gan: Takes the steps.
        metrics: Receives the metrics of steps that were not skipped.
        callbacks: Informed of steps that were.
    """

    def __init__(self, gan: Gan, metrics: MetricTracker, callbacks: Callbacks) -> None:
        self._context, self._max_skipped = gan.context, gan.config.max_skipped_steps
        self._metrics, self._callbacks = metrics, callbacks
        self._steps: list[tuple[int, StepResult, list[str]]] = []

    def add(self, step: int, result: StepResult, names: list[str]) -> None:
        """Add a step with the names of this rank's examples; does not wait for the device."""
        self._steps.append((step, result, names))

    def read(self, skipped: int) -> int:
        """Read and handle all steps since the last call, in order; called by all ranks.

        Args:
            skipped: Number of steps skipped before.

        Returns:
            Number of steps skipped so far.

        Raises:
            NonFiniteError: these are more than `max_skipped_steps`.
        """
        steps, self._steps = self._steps, []
        read_results([result for _, result, _ in steps])
        for step, result, names in steps:
            if result[SKIPPED]:
                skipped += 1
                self._handle_skipped(step, result, names, skipped)
            else:
                self._metrics.add(result)
        return skipped

    def _handle_skipped(self, step: int, result: StepResult, names: list[str], skipped: int) -> None:
        context = self._context
        examples = context.all_gather(result.non_finite_examples) or context.all_gather(names)
        self._callbacks.on_train_step_skipped(step, examples)
        text = f"step {step}: non-finite loss or gradient, step skipped; examples: " + ", ".join(examples)
        if context.rank == 0:
            logger.warning(text)
        if skipped > self._max_skipped:
            raise NonFiniteError(
                f"{skipped} steps skipped, more than max_skipped_steps ({self._max_skipped}). The last: "
                f"{text}. The latest checkpoint has finite weights; try a lower learning rate or float32"
            )
