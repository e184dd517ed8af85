"""Checks of a pair of clean and restored audio that all perceptual scores share."""

import numpy as np
from numpy.typing import NDArray


def check_shapes(clean: NDArray[np.float32], restored: NDArray[np.float32]) -> None:
    """Check that both are [channels, samples] of one shape.

    Raises:
        ValueError: they are not.
    """
    if clean.shape != restored.shape or clean.ndim != 2:
        raise ValueError(
            f"clean {clean.shape} and restored {restored.shape} must have one shape, two dimensions"
        )


def is_finite(clean: NDArray[np.float32], restored: NDArray[np.float32]) -> bool:
    """Return whether there are samples and all are finite."""
    return bool(clean.size) and all(bool(np.isfinite(samples).all()) for samples in (clean, restored))
