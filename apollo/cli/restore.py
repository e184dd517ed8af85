"""Restore audio files: `apollo restore`."""

import argparse
import json
import sys
from collections.abc import Callable
from collections.abc import Generator as GeneratorType
from contextlib import closing
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apollo.audio.formats import BIT_DEPTHS, CLIP_MODES, FORMAT_NAMES, RATES, SongsConfig
from apollo.cli.options import (
    DONE,
    FAILED,
    PARTLY,
    UsageError,
    add_generator_options,
    load_generator,
    print_line,
)
from apollo.cli.progress import Progress

if TYPE_CHECKING:
    from apollo.audio.songs import SongJob, SongResult
    from apollo.model.generator import Generator

_STATUSES = ("restored", "skipped", "failed")


def add_restore_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    default = SongsConfig()

    def add(*names: str, text: str, **settings: Any) -> None:
        parser.add_argument(*names, help=f"{text} (%(default)s)", **settings)

    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio files, or folders with audio files")
    add("-o", "--output", default=default.output, text="output folder")
    add_generator_options(parser)
    text = "output format: WAV of 32-bit float, WAV, FLAC or ALAC of 24 or 16 bit, AAC, Opus, MP3"
    add("--format", choices=FORMAT_NAMES, default=default.format, text=text)
    text = "of --format wav, flac and alac; 24 where not given"
    parser.add_argument("--bit_depth", "--bit-depth", type=int, choices=BIT_DEPTHS, help=text)
    add("--rate", choices=RATES, default=default.rate, text="output sample rate in Hz, or the input's")
    text = "samples beyond full scale: scale the whole file down, clip, or keep"
    add("--clip", choices=CLIP_MODES, default=default.clip, text=text)
    text = "output name without extension; {stem}, {name}, {parent}: of the input"
    add("--filename", default=default.filename, text=text)
    text = "strength of the noise that replaces lost highs, 0 to 1.5; the model's default where not given"
    parser.add_argument("--strength", type=float, help=text)
    add("--seed", type=int, default=default.seed, text="seed of the added noise")
    text = "keep the input below this frequency in Hz, and restore only above it"
    parser.add_argument("--keep-below", type=float, metavar="HZ", help=text)
    text = "length of the chunks, in 5 seconds; by default chosen by free memory"
    parser.add_argument("--batch", type=int, help=text)
    text = "songs at a time on a CPU, or auto: one a core, as far as memory allows"
    parser.add_argument("--jobs", default="1", help=f"{text} (%(default)s)")
    for name, text in (
        ("--overwrite", "replace existing outputs instead of skipping them"),
        ("--force", "restore files too that are lossless and have the full band"),
        ("--only-damaged", "restore only lossy files, and lossless ones with traces of a lossy codec"),
        ("--picture", "write a PNG with the spectrograms before and after"),
        ("--compare", "write a page (HTML) to listen before and after, with a blind test"),
        ("--json", "write one JSON object per file to standard output"),
    ):
        parser.add_argument(name, action="store_true", help=text)


def restore(options: argparse.Namespace) -> int:
    """Restore the inputs, report each on standard error, and return the exit code.

    Raises:
        UsageError: an option, input or checkpoint is invalid.
    """
    try:
        config = SongsConfig(
            output=options.output,
            format=options.format,
            bit_depth=options.bit_depth,
            rate=options.rate,
            clip=options.clip,
            filename=options.filename,
            overwrite=options.overwrite,
            picture=options.picture,
            compare=options.compare,
            batch=options.batch,
            strength=options.strength,
            seed=options.seed,
            keep_below=options.keep_below,
        )
        from apollo.audio.songs import find_songs, is_pending
        from apollo.audio.tags import describe_checkpoint
        from apollo.inference.crossover import check_keep_below

        jobs = find_songs(options.inputs, config)
    except ValueError as error:
        raise UsageError(error) from error
    if options.picture:
        import_module("matplotlib")  # fail before the first song, not after it
    pending = [job for job in jobs if is_pending(job, config)]
    generator = load_generator(options) if pending else None
    if generator is not None and config.keep_below is not None:
        try:
            check_keep_below(config.keep_below, generator.config.sample_rate)
        except ValueError as error:
            raise UsageError(error) from error
    num_processes = _choose_num_processes(options, generator, len(pending))
    progress = Progress([job.source for job in pending], together=num_processes > 1)
    progress.find_lengths()

    def show(job: "SongJob", done: float, total: float | None) -> None:
        progress.show(job.source, done, total)

    outcomes = []
    model, skip = describe_checkpoint(options.checkpoint), _choose_skip(options)
    results = _start(generator, jobs, config, num_processes, progress=show, model=model, skip=skip)
    with closing(results):
        for outcome in results:
            progress.finish(Path(outcome.input))
            outcomes.append(outcome)
            print(_format_result(outcome), file=sys.stderr, flush=True)
            if options.json:
                print_line(json.dumps(asdict(outcome)))
    counts = {status: sum(one.status == status for one in outcomes) for status in _STATUSES}
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count), file=sys.stderr)
    if not counts["failed"]:
        return DONE
    return FAILED if counts["failed"] == len(outcomes) else PARTLY


def _start(
    generator: "Generator | None",
    jobs: "list[SongJob]",
    config: SongsConfig,
    num_processes: int,
    **options: Any,
) -> "GeneratorType[SongResult, None, None]":
    """Return the results of the songs, which are restored while they are read."""
    if generator is not None and num_processes > 1:
        from apollo.audio.song_processes import restore_songs_in_processes

        yield from restore_songs_in_processes(generator, jobs, config, num_processes=num_processes, **options)
        return
    from apollo.audio.songs import restore_songs

    yield from restore_songs(generator, jobs, config, **options)


def _choose_skip(options: argparse.Namespace) -> "Callable[[str], str | None] | None":
    """Return what says of a file why it need not be restored; None restores all.

    Raises:
        UsageError: two options contradict each other.
    """
    if options.force and options.only_damaged:
        raise UsageError("--force restores all files, --only-damaged some: give one of them")
    if options.force:
        return None
    from apollo.audio.inspection import describe_lossless, describe_undamaged

    return describe_undamaged if options.only_damaged else describe_lossless


def _choose_num_processes(options: argparse.Namespace, generator: "Generator | None", num_songs: int) -> int:
    """Return how many songs are restored at a time.

    Raises:
        UsageError: the option is not a number, or more than 1 and the device is no CPU.
    """
    if options.jobs != "auto" and not (options.jobs.isdecimal() and int(options.jobs)):
        raise UsageError(f"--jobs is {options.jobs!r}: it must be a number from 1, or auto")
    if generator is None or options.jobs == "1":
        return 1
    device = generator.device.type
    if options.jobs == "auto":
        from apollo.audio.song_processes import choose_num_processes

        return choose_num_processes(num_songs) if device == "cpu" else 1
    if device != "cpu":
        raise UsageError(f"--jobs {options.jobs} is for a CPU: one song at a time uses the device {device}")
    return min(int(options.jobs), num_songs)


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
