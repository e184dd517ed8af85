"""The `apollo` command: restore or inspect songs, a stream, serve a page, describe, export or publish models.

Exit codes: 0 done, 1 failed, 2 usage, 3 some files could not be restored while others were, 130 interrupted.
"""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from apollo import __version__
from apollo.cli import PCM_FORMATS
from apollo.cli.export import add_export_options, export
from apollo.cli.models import add_models_options, add_push_options, models, push
from apollo.cli.options import (
    DONE,
    FAILED,
    INTERRUPTED,
    PARTLY,
    USAGE,
    OutputError,
    UsageError,
    add_device_options,
    add_generator_options,
    load_generator,
)
from apollo.cli.restore import add_restore_options, restore
from apollo.web.command import EXAMPLES as _WEB_EXAMPLES
from apollo.web.command import add_web_options, web

_EXAMPLES = {
    "restore": """examples:
  apollo restore song.mp3                          restored/song.wav
  apollo restore album/ -o out --format flac       a folder, recursively, with its tags
  apollo restore song.ogg --format opus            or alac, aac, mp3
  apollo restore song.m4a --picture --clip none    with a picture of before and after
  apollo restore album/ --compare                  with pages to hear before and after
  apollo restore *.mp3 --checkpoint runs/best      weights of your own""",
    "inspect": """examples:
  apollo inspect song.flac                         is it what it says?
  apollo inspect album/ --json > album.json""",
    "models": """examples:
  apollo models                                    names, sizes, licences
  apollo models JusperLee/Apollo                   download, print the path""",
    "push": """examples:
  apollo push me/my-model --checkpoint runs/best --license cc-by-4.0 -o look     what would be published
  apollo push me/my-model --checkpoint runs/best --license cc-by-4.0 --card card.md""",
    "export": """examples:
  apollo export -o model.onnx                      for ONNX Runtime: the next samples and a state in
  apollo export -o model.onnx --whole              a whole signal in
  apollo export -o model.onnx --int8 --checkpoint JusperLee/Apollo""",
    "stream": """example:
  ffmpeg -i radio.mp3 -f f32le -ar 44100 -ac 2 - | apollo stream --checkpoint runs/causal | ffplay ...""",
    "web": _WEB_EXAMPLES,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    _prepare_streams()
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except UsageError as error:
        print(f"apollo: {error}", file=sys.stderr)
        return USAGE
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        print(f"apollo: {package} is not installed: pip install {package}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "apollo: interrupted; finished files are complete, the others were not written", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output is gone
        return FAILED
    except OutputError as error:
        print(f"apollo: standard output cannot be written: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered must not fail again at the end
        return FAILED


def _prepare_streams() -> None:
    """Let names in any encoding be printed, and replace a standard error that was closed."""
    try:
        os.fstat(2)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - to the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo",
        description="Restore music degraded by lossy compression (Apollo, Li and Luo 2024).",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 some files failed, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"apollo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add_restore_options(_command(commands, "restore", "restore audio files", restore))

    inspect = _command(
        commands, "inspect", "say what audio files are, and whether they lost something", _inspect
    )
    inspect.add_argument("inputs", nargs="+", metavar="FILE", help="audio files, or folders with audio files")
    inspect.add_argument("--json", action="store_true", help="as one JSON list")

    stream = _command(commands, "stream", "restore raw PCM from standard input to standard output", _stream)
    add_generator_options(stream)
    stream.add_argument("--channels", type=int, default=2, help="interleaved channels (%(default)s)")
    stream.add_argument("--pcm", choices=PCM_FORMATS, default="f32le", help="sample format (%(default)s)")

    add_web_options(_command(commands, "web", "restore and hear songs on a page in the browser", web))

    info = _command(commands, "info", "describe a checkpoint", _info)
    info.add_argument("checkpoint", metavar="CHECKPOINT")
    info.add_argument("--json", action="store_true", help="as JSON")

    add_models_options(_command(commands, "models", "list models known by name, or download them", models))
    add_push_options(_command(commands, "push", "publish a checkpoint on Hugging Face", push))
    add_export_options(
        _command(commands, "export", "write a model as an ONNX file, for other programs", export)
    )

    doctor = _command(commands, "doctor", "check packages, ffmpeg, device and speed of this machine", _doctor)
    add_device_options(doctor)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    purpose: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=_EXAMPLES.get(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    from apollo.cli.inspect import inspect

    try:
        results = inspect(options.inputs, as_json=options.json)
    except ValueError as error:
        raise UsageError(error) from error
    failed = sum(result.problem is not None for result in results)
    if not failed:
        return DONE
    return FAILED if failed == len(results) else PARTLY


def _stream(options: argparse.Namespace) -> int:
    if options.channels < 1:
        raise UsageError(f"--channels is {options.channels}: it must be at least 1")
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("stream needs standard input and output")
    from apollo.cli.stream import restore_standard_input

    try:
        restore_standard_input(load_generator(options), channels=options.channels, pcm=options.pcm)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"apollo: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _info(options: argparse.Namespace) -> int:
    from apollo.checkpoints.checkpoint import CheckpointError, describe

    try:
        facts = describe(options.checkpoint)
    except CheckpointError as error:
        raise UsageError(error) from error
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name:22s} {value}")
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    from apollo.cli.doctor import check_environment

    healthy = True
    try:
        for name, found, passed in check_environment(options.device, options.precision):
            healthy = healthy and passed
            print(f"{'ok ' if passed else 'BAD'} {name:16s} {found}", flush=True)
    except ValueError as error:
        raise UsageError(error) from error
    return DONE if healthy else FAILED


if __name__ == "__main__":
    sys.exit(main())
