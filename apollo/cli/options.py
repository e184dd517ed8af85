"""Options that several commands share, and exit codes."""

import argparse
from typing import TYPE_CHECKING

from apollo.model.config import COMPACT, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from apollo.model.generator import Generator
    from apollo.onnx.onnx_generator import OnnxGenerator

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130
BACKENDS = ("auto", "torch", "onnx")
ONNX_SUFFIX = ".onnx"


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
        help="compact (installed), checkpoint folder or file, Hugging Face name, MLflow URI, .onnx file "
        "(%(default)s)",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="what computes: torch, or ONNX Runtime on the CPU; auto: onnx for .onnx files (%(default)s)",
    )
    add_device_options(parser)


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses a checkpoint for torch, which no .onnx file is."""
    text = "compact (installed), checkpoint folder or file, Hugging Face name, MLflow URI (%(default)s)"
    parser.add_argument("--checkpoint", default=COMPACT, help=text)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose device and precision."""
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="device (%(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="auto: bfloat16 where the hardware supports it natively (%(default)s)",
    )


def load_generator(options: argparse.Namespace) -> "Generator | OnnxGenerator":
    """Load the generator that the options choose, on its device.

    Raises:
        UsageError: it cannot be loaded, or there is no such device.
    """
    from apollo.checkpoints.checkpoint import CheckpointError, load
    from apollo.model.device import choose_device, choose_precision

    is_onnx_file = options.checkpoint.endswith(ONNX_SUFFIX)
    if options.backend == "onnx" or (options.backend == "auto" and is_onnx_file):
        return _load_onnx_generator(options)
    if is_onnx_file:
        raise UsageError(f"{options.checkpoint} is for --backend onnx, not torch")
    try:
        device = choose_device(options.device)
        return load(options.checkpoint).with_precision(choose_precision(options.precision, device)).to(device)
    except (CheckpointError, ValueError) as error:
        raise UsageError(error) from error


def _load_onnx_generator(options: argparse.Namespace) -> "OnnxGenerator":
    """Load a generator for ONNX Runtime; one that is no ONNX file is exported in memory."""
    from apollo.checkpoints.checkpoint import CheckpointError, load, locate
    from apollo.onnx.export import to_onnx_bytes
    from apollo.onnx.onnx_generator import OnnxGenerator, load_onnx

    if options.device not in ("auto", "cpu"):
        raise UsageError(f"--device {options.device}: ONNX Runtime is used on the CPU here")
    if options.precision not in ("auto", "float32"):
        raise UsageError(f"--precision {options.precision} is for --backend torch; see apollo export --int8")
    try:
        if options.checkpoint.endswith(ONNX_SUFFIX):
            return load_onnx(locate(options.checkpoint))
        return OnnxGenerator(to_onnx_bytes(load(options.checkpoint)), options.checkpoint)
    except CheckpointError as error:
        raise UsageError(error) from error
