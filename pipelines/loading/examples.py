"""Turn encoded rows into training examples: a piece of each, with its level and augmentation."""

from apollo.training.augmentation import LevelsConfig, set_levels
from apollo.training.data import Example
from apollo.training.pieces import draw_piece
from pipelines.dataset.shard_reader import EncodedRow, check_row, decode_clean, decode_degraded
from pipelines.schema import SAMPLE_RATE


def make_training_example(
    row: EncodedRow, levels: LevelsConfig, *, piece_samples: int, seed: int, index: int
) -> Example:
    """Make the training example of a row; a pure function of its arguments.

    Args:
        row: Encoded row.
        levels: Levels and augmentation.
        piece_samples: Length of the piece that is decoded; 0 is the whole row.
        seed: Seed of the run.
        index: Index of the example in the run.

    Raises:
        CorruptRowError: the row cannot be decoded.
    """
    check_row(row)
    piece, clean = draw_piece(
        lambda piece: decode_clean(row, piece),
        samples=row.frames,
        piece_samples=piece_samples,
        seed=seed,
        index=index,
    )
    degraded = decode_degraded(row, piece)
    clean, degraded = set_levels(
        clean,
        degraded,
        gain=row.gain,
        config=levels,
        seed=seed,
        index=index,
        sample_rate=SAMPLE_RATE,
    )
    return Example(clean, degraded, row.name, row.bandwidth_hz)
