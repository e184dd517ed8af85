"""Options that several commands share, and exit codes."""

import argparse
from typing import TYPE_CHECKING

from apollo.model.config import COMPACT, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from apollo.model.generator import Generator

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130


class OutputError(Exception):
    """Standard output cannot be written."""


def print_line(text: str) -> None:
    """Print a line on standard output at once.

    Raises:
        OutputError: it cannot be written, such as on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


class UsageError(Exception):
    """Invalid options, inputs or checkpoint."""


def add_generator_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a generator and its device."""
    parser.add_argument(
        "--checkpoint",
        default=COMPACT,
        help="compact (installed), checkpoint folder or file, Hugging Face name, MLflow URI (%(default)s)",
    )
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose device and precision."""
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="device (%(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="auto: bfloat16 where the hardware supports it natively (%(default)s)",
    )


def load_generator(options: argparse.Namespace) -> "Generator":
    """Load the generator that the options choose, on its device.

    Raises:
        UsageError: it cannot be loaded, or there is no such device.
    """
    from apollo.checkpoints.checkpoint import CheckpointError, load
    from apollo.model.device import choose_device, choose_precision

    try:
        device = choose_device(options.device)
        return load(options.checkpoint).with_precision(choose_precision(options.precision, device)).to(device)
    except (CheckpointError, ValueError) as error:
        raise UsageError(error) from error
