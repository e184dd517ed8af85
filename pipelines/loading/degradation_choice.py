"""Which degradation a training example gets: at random, by weights that may change during the training."""

import math
from collections.abc import Mapping, Sequence

from apollo import rng


class DegradationChoice:
    """Draws degradations, as a function of the position in the stream of examples.

    Args:
        weights: Relative frequency by name; others have 1. Empty draws all alike.
        first_weights: Weights of the first example, from which they change linearly; empty keeps `weights`.
        change_examples: Number of examples over which they change.
        seed: Another seed gives other draws.

    Raises:
        ValueError: a weight is negative or infinite, or `first_weights` has no `change_examples`.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        first_weights: Mapping[str, float],
        change_examples: int,
        seed: int,
    ) -> None:
        check_weights(weights, first_weights, change_examples)
        self._weights, self._first, self._seed = dict(weights), dict(first_weights), seed
        self._change_examples = change_examples

    def draw(self, usable: Sequence[str], position: int) -> str:
        """Return one of the usable degradations for the example at a position of the stream.

        Where all usable ones have weight 0, they are drawn alike.
        """
        weights = [self._weight(name, position) for name in usable]
        total = math.fsum(weights)
        if total <= 0 or len(set(weights)) == 1:
            return usable[rng.integer_below(len(usable), position, self._seed, "degradation")]
        left = rng.uniform(position, self._seed, "degradation") * total
        for name, weight in zip(usable, weights, strict=True):
            left -= weight
            if left < 0:
                return name
        return next(name for name, weight in zip(reversed(usable), reversed(weights)) if weight)

    def _weight(self, name: str, position: int) -> float:
        last = self._weights.get(name, 1.0)
        if not self._first:
            return last
        done = min(position / self._change_examples, 1.0)
        return (1 - done) * self._first.get(name, 1.0) + done * last


def check_weights(
    weights: Mapping[str, float], first_weights: Mapping[str, float], change_examples: int
) -> None:
    """Check the weights of degradations.

    Raises:
        ValueError: as for `DegradationChoice`.
    """
    for option, values in (("degradation_weights", weights), ("first_degradation_weights", first_weights)):
        for name, weight in values.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"loader.{option} of {name} is {weight}: it must be finite and at least 0")
    if bool(first_weights) != bool(change_examples) or change_examples < 0:
        raise ValueError(
            f"loader.weights_change_examples is {change_examples}: it must be above 0 with "
            "first_degradation_weights, and 0 without"
        )
