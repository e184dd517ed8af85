"""Write a generator as an ONNX file, for other programs: `apollo export`."""

import argparse
import os
import sys
from pathlib import Path

from apollo.cli.options import DONE, FAILED, ONNX_SUFFIX, UsageError, add_checkpoint_option

FORMATS = ("onnx",)


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_checkpoint_option(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="format of the file (%(default)s)"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="a name that ends in .onnx")
    text = "take a whole signal in one call, rather than its next samples and a state"
    parser.add_argument("--whole", action="store_true", help=text)
    text = "compute hidden layers in 8-bit integers: faster, smaller, and less exact"
    parser.add_argument("--int8", action="store_true", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def export(options: argparse.Namespace) -> int:
    """Export, say what was written on standard error, and return the exit code.

    Raises:
        UsageError: an option or the checkpoint is invalid.
    """
    from apollo.checkpoints.checkpoint import CheckpointError, describe_weights, load
    from apollo.onnx.export import export_onnx

    target = Path(options.output)
    _check_target(target, options.overwrite)
    try:
        generator, weights = load(options.checkpoint), describe_weights(options.checkpoint)
        export_onnx(generator, target, whole=options.whole, int8=options.int8, metadata=weights)
    except (CheckpointError, ValueError) as error:
        raise UsageError(error) from error
    except OSError as error:
        print(f"apollo: {options.output} cannot be written: {error.strerror or error}", file=sys.stderr)
        return FAILED
    print(f"exported {options.output!r}: {target.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return DONE


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse a name that cannot be written before anything is computed."""
    if target.suffix != ONNX_SUFFIX:
        raise UsageError(f"{target}: the name must end in {ONNX_SUFFIX}, by which `apollo restore` knows it")
    if target.is_dir():
        raise UsageError(f"{target} is a folder: name a file")
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} already exists; --overwrite replaces it")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
