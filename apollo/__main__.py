"""The `apollo` command: restore or inspect songs, restore a stream, describe a checkpoint, check a machine.

Exit codes: 0 done, 1 failed, 2 usage, 3 some files could not be restored while others were, 130 interrupted.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from apollo import __version__
from apollo.audio.formats import CLIP_MODES, FORMATS, SongsConfig
from apollo.cli import PCM_FORMATS
from apollo.model.config import COMPACT, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from apollo.audio.songs import SongJob, SongResult
    from apollo.model.generator import Generator

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

_EXAMPLES = {
    "restore": """examples:
  apollo restore song.mp3                          restored/song.wav
  apollo restore album/ -o out --format flac24     a folder, recursively
  apollo restore song.m4a --picture --clip none    with a picture of before and after
  apollo restore *.mp3 --checkpoint runs/best      weights of your own""",
    "inspect": """examples:
  apollo inspect song.flac                         is it what it says?
  apollo inspect album/ --json > album.json""",
    "stream": """example:
  ffmpeg -i radio.mp3 -f f32le -ar 44100 -ac 2 - | apollo stream --checkpoint runs/causal | ffplay ...""",
}


class UsageError(Exception):
    """Invalid options, inputs or checkpoint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
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

    _add_restore_options(_command(commands, "restore", "restore audio files", _restore))

    inspect = _command(
        commands, "inspect", "say what audio files are, and whether they lost something", _inspect
    )
    inspect.add_argument("inputs", nargs="+", metavar="FILE", help="audio files, or folders with audio files")
    inspect.add_argument("--json", action="store_true", help="as one JSON list")

    stream = _command(commands, "stream", "restore raw PCM from standard input to standard output", _stream)
    _add_generator(stream)
    stream.add_argument("--channels", type=int, default=2, help="interleaved channels (%(default)s)")
    stream.add_argument("--pcm", choices=PCM_FORMATS, default="f32le", help="sample format (%(default)s)")

    info = _command(commands, "info", "describe a checkpoint", _info)
    info.add_argument("checkpoint", metavar="CHECKPOINT")
    info.add_argument("--json", action="store_true", help="as JSON")

    doctor = _command(commands, "doctor", "check packages, ffmpeg, device and speed of this machine", _doctor)
    _add_device(doctor)
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


def _add_restore_options(parser: argparse.ArgumentParser) -> None:
    default = SongsConfig()

    def add(*names: str, text: str, **settings: Any) -> None:
        parser.add_argument(*names, help=f"{text} (%(default)s)", **settings)

    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio files, or folders with audio files")
    add("-o", "--output", default=default.output, text="output folder")
    _add_generator(parser)
    add("--format", choices=FORMATS, default=default.format, text="output format: 32-bit float, 24 or 16 bit")
    text = "samples beyond full scale: scale the whole file down, clip, or keep"
    add("--clip", choices=CLIP_MODES, default=default.clip, text=text)
    text = "output name without extension; {stem}, {name}, {parent}: of the input"
    add("--filename", default=default.filename, text=text)
    text = "strength of the noise that replaces lost highs, 0 to 1.5; the model's default where not given"
    parser.add_argument("--strength", type=float, help=text)
    add("--seed", type=int, default=default.seed, text="seed of the added noise")
    add("--batch", type=int, default=default.batch, text="5-second chunks per batch")
    for name, text in (
        ("--overwrite", "replace existing outputs instead of skipping them"),
        ("--force", "restore files too that are lossless and have the full band"),
        ("--picture", "write a PNG with the spectrograms before and after"),
        ("--json", "write one JSON object per file to standard output"),
    ):
        parser.add_argument(name, action="store_true", help=text)


def _add_generator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default=COMPACT,
        help="compact (installed), checkpoint folder or file, Hugging Face name, MLflow URI (%(default)s)",
    )
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="device (%(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="auto: bfloat16 where the hardware supports it natively (%(default)s)",
    )


def _load(options: argparse.Namespace) -> "Generator":
    from apollo.checkpoints.checkpoint import CheckpointError, load
    from apollo.model.device import choose_device, choose_precision

    try:
        device = choose_device(options.device)
        return load(options.checkpoint).with_precision(choose_precision(options.precision, device)).to(device)
    except (CheckpointError, ValueError) as error:
        raise UsageError(error) from error


def _restore(options: argparse.Namespace) -> int:
    try:
        config = SongsConfig(
            output=options.output,
            format=options.format,
            clip=options.clip,
            filename=options.filename,
            overwrite=options.overwrite,
            picture=options.picture,
            batch=options.batch,
            strength=options.strength,
            seed=options.seed,
        )
        from apollo.audio.inspection import describe_lossless
        from apollo.audio.songs import find_songs, is_pending, restore_songs

        jobs = find_songs(options.inputs, config)
    except ValueError as error:
        raise UsageError(error) from error
    if options.picture:
        import_module("matplotlib")  # fail before the first song, not after it
    from apollo.cli.progress import ProgressBar

    bar = ProgressBar()
    skip = None if options.force else describe_lossless

    def progress(job: "SongJob", done: float, total: float | None) -> None:
        bar.show(job.source.name, done, total)

    generator = _load(options) if any(is_pending(job, config) for job in jobs) else None
    outcomes = []
    for outcome in restore_songs(generator, jobs, config, progress=progress, skip=skip):
        bar.close()
        outcomes.append(outcome)
        print(_format_result(outcome), file=sys.stderr, flush=True)
        if options.json:
            print(json.dumps(asdict(outcome)), flush=True)
    counts = {status: sum(one.status == status for one in outcomes) for status in _STATUSES}
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count), file=sys.stderr)
    if not counts["failed"]:
        return DONE
    return FAILED if counts["failed"] == len(outcomes) else PARTLY


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


_STATUSES = ("restored", "skipped", "failed")


def _format_result(outcome: "SongResult") -> str:
    if outcome.status == "failed":
        return f"FAILED   {outcome.input!r}: {outcome.reason}"
    if outcome.status == "skipped" and outcome.reason:
        return f"skipped  {outcome.input!r}: {outcome.reason}; --force restores it"
    if outcome.status == "skipped":
        return f"skipped  {outcome.output!r} already exists; --overwrite replaces it"
    speed = outcome.seconds / max(outcome.elapsed_seconds, 1e-9)
    times = f"{outcome.seconds:.2f} s in {outcome.elapsed_seconds:.1f} s ({speed:.1f} x real time)"
    line = f"restored {outcome.output!r}: {times}"
    if outcome.gain < 1:
        line += f", scaled by {outcome.gain:.3f} to fit full scale"
    return "\n".join([line, *(f"  warning: {warning}" for warning in outcome.warnings)])


def _stream(options: argparse.Namespace) -> int:
    if options.channels < 1:
        raise UsageError(f"--channels is {options.channels}: it must be at least 1")
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("stream needs standard input and output")
    from apollo.cli.stream import restore_standard_input

    try:
        restore_standard_input(_load(options), channels=options.channels, pcm=options.pcm)
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
