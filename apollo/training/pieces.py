"""Random pieces of examples, the same for every source of examples."""

from collections.abc import Callable

from torch import Tensor

from apollo import rng
from apollo.training.augmentation import AUDIBLE_PEAK, find_peak

_DRAWS = 4


def draw_piece(
    read_clean: Callable[[slice], Tensor], *, samples: int, piece_samples: int, seed: int, index: int
) -> tuple[slice, Tensor]:
    """Draw a piece of an example, uniformly over its starts; again, up to three times, while it is silent.

    Silent is a clean peak below -60 dBFS: set to full level, such a piece would be mostly rounding noise. A
    pure function of its arguments.

    Args:
        read_clean: Returns the clean audio of a piece, [channels, piece_samples].
        samples: Length of the example.
        piece_samples: Length of the piece; 0 is the whole example.
        seed: Seed of the run.
        index: Index of the example in the run.

    Returns:
        The piece as a range of samples, and its clean audio.

    Raises:
        ValueError: the example is shorter than the piece.
    """
    if not piece_samples:
        whole = slice(0, samples)
        return whole, read_clean(whole)
    if piece_samples > samples:
        raise ValueError(f"a piece of {piece_samples} samples is longer than the example, of {samples}")
    for draw in range(_DRAWS):
        start = rng.integer_below(samples - piece_samples + 1, _DRAWS * index + draw, seed, "piece")
        piece = slice(start, start + piece_samples)
        clean = read_clean(piece)
        if find_peak(clean) >= AUDIBLE_PEAK:
            break
    return piece, clean
