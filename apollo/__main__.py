"""The `apollo` command: restore songs, restore a stream, look at a checkpoint, look at this machine.

Exit codes: 0 done, 1 failed, 2 usage, 3 some files could not be restored while others were, 130 interrupted.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, cast

from apollo import __version__
from apollo.audio.formats import CLIP_MODES, FORMATS, SongsConfig
from apollo.cli import PCM_FORMATS
from apollo.model.config import DEVICES, PRECISIONS

if TYPE_CHECKING:
    from apollo.audio.songs import SongJob, SongResult
    from apollo.model.generator import Generator

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130
RELEASED = "JusperLee/Apollo"

_EXAMPLES = {
    "restore": """examples:
  apollo restore song.mp3                          restored/song.wav
  apollo restore album/ -o out --format flac24     a folder, recursively
  apollo restore song.m4a --picture --clip none    with a picture of before and after
  apollo restore *.mp3 --checkpoint runs/best      weights of your own""",
    "stream": """example:
  ffmpeg -i radio.mp3 -f f32le -ar 44100 -ac 2 - | apollo stream --checkpoint runs/causal | ffplay ...""",
}


class UsageError(Exception):
    """What the user asked for cannot be."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
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
        print("apollo: interrupted; what was finished is whole, the rest was not begun", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads our output any more
        return FAILED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo",
        description="Restores music that a lossy codec damaged (Apollo, Li and Luo 2024).",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 some files failed, 130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"apollo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    restore = _command(commands, "restore", "restore audio files", _restore)
    restore.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="audio files, or folders with audio files"
    )
    default = SongsConfig()
    restore.add_argument(
        "-o", "--output", default=default.output, help="folder for the results (%(default)s)"
    )
    _add_generator(restore)
    restore.add_argument(
        "--format", choices=FORMATS, default=default.format, help="32-bit float, 24 or 16 bit (%(default)s)"
    )
    restore.add_argument(
        "--clip",
        choices=CLIP_MODES,
        default=default.clip,
        help="beyond full scale: turn the file down, cut, or keep (%(default)s)",
    )
    restore.add_argument(
        "--filename",
        default=default.filename,
        help="name of a result without extension; {stem}, {name} and {parent} are the input's (%(default)s)",
    )
    restore.add_argument("--overwrite", action="store_true", help="make results again that are there")
    restore.add_argument("--picture", action="store_true", help="draw spectrograms before and after")
    restore.add_argument(
        "--batch", type=int, default=default.batch, help="chunks of 5 s computed at a time (%(default)s)"
    )
    restore.add_argument("--json", action="store_true", help="one JSON object a file on standard output")

    stream = _command(commands, "stream", "restore raw PCM from standard input to standard output", _stream)
    _add_generator(stream)
    stream.add_argument("--channels", type=int, default=2, help="interleaved channels (%(default)s)")
    stream.add_argument("--pcm", choices=PCM_FORMATS, default="f32le", help="sample format (%(default)s)")

    info = _command(commands, "info", "describe a checkpoint", _info)
    info.add_argument("checkpoint", metavar="CHECKPOINT")
    info.add_argument("--json", action="store_true", help="as JSON")

    doctor = _command(commands, "doctor", "look at what this machine has, and how fast it is", _doctor)
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


def _add_generator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default=RELEASED,
        help="folder, file, Hugging Face name or registry name of the weights (%(default)s)",
    )
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="(%(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="auto: bfloat16 where the hardware multiplies in it (%(default)s)",
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
        )
        from apollo.audio.songs import find_songs, is_pending, restore_songs

        jobs = find_songs(options.inputs, config)
    except ValueError as error:
        raise UsageError(error) from error
    if options.picture:
        import_module("matplotlib")  # rather now than after the first song
    from apollo.cli.progress import ProgressBar

    bar = ProgressBar()

    def progress(job: "SongJob", done: float, total: float) -> None:
        bar.show(job.source.name, done, total)

    generator = _load(options) if any(is_pending(job, config) for job in jobs) else None
    outcomes = []
    for outcome in restore_songs(generator, jobs, config, progress=progress):
        bar.close()
        outcomes.append(outcome)
        print(_line(outcome), file=sys.stderr, flush=True)
        if options.json:
            print(json.dumps(asdict(outcome)), flush=True)
    counts = {status: sum(one.status == status for one in outcomes) for status in _STATUSES}
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count), file=sys.stderr)
    if not counts["failed"]:
        return DONE
    return FAILED if counts["failed"] == len(outcomes) else PARTLY


_STATUSES = ("restored", "skipped", "failed")


def _line(outcome: "SongResult") -> str:
    if outcome.status == "failed":
        return f"FAILED   {outcome.input!r}: {outcome.reason}"
    if outcome.status == "skipped":
        return f"skipped  {outcome.output!r} is there already; --overwrite makes it again"
    speed = outcome.seconds / max(outcome.elapsed_seconds, 1e-9)
    times = f"{outcome.seconds:.2f} s in {outcome.elapsed_seconds:.1f} s ({speed:.1f} x real time)"
    line = f"restored {outcome.output!r}: {times}"
    if outcome.gain < 1:
        line += f", turned down to {outcome.gain:.3f} to fit full scale"
    return "\n".join([line, *(f"  warning: {warning}" for warning in outcome.warnings)])


def _stream(options: argparse.Namespace) -> int:
    if options.channels < 1:
        raise UsageError(f"--channels is {options.channels}: it must be at least 1")
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("stream needs standard input and standard output")
    from apollo.cli.stream import ByteInput, restore_pcm
    from apollo.inference.streaming import StreamRestorer

    generator = _load(options)
    rate = generator.config.sample_rate
    latency = StreamRestorer(generator).latency_samples / rate
    print(f"apollo: {options.pcm} at {rate} Hz, latency {latency * 1000:.0f} ms", file=sys.stderr, flush=True)
    try:
        report = restore_pcm(
            generator,
            cast(ByteInput, sys.stdin.buffer),
            sys.stdout.buffer,
            channels=options.channels,
            pcm=options.pcm,
        )
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"apollo: {error}", file=sys.stderr)
        return FAILED
    if report.dropped_bytes:
        print(f"apollo: {report.dropped_bytes} bytes at the end made no whole sample", file=sys.stderr)
    print(
        f"apollo: {report.seconds:.2f} s of audio in {report.busy_seconds:.2f} s of work: "
        f"real-time factor {report.real_time_factor:.2f}",
        file=sys.stderr,
    )
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
        for name, found, fine in check_environment(options.device, options.precision):
            healthy = healthy and fine
            print(f"{'ok ' if fine else 'BAD'} {name:16s} {found}", flush=True)
    except ValueError as error:
        raise UsageError(error) from error
    return DONE if healthy else FAILED


if __name__ == "__main__":
    sys.exit(main())
