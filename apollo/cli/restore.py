"""Restore audio files: `apollo restore`."""

import argparse
import json
import sys
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from apollo.audio.formats import CLIP_MODES, FORMATS, SongsConfig
from apollo.cli.options import DONE, FAILED, PARTLY, UsageError, add_generator_options, load_generator
from apollo.cli.progress import ProgressBar

if TYPE_CHECKING:
    from apollo.audio.songs import SongJob, SongResult

_STATUSES = ("restored", "skipped", "failed")


def add_restore_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    default = SongsConfig()

    def add(*names: str, text: str, **settings: Any) -> None:
        parser.add_argument(*names, help=f"{text} (%(default)s)", **settings)

    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio files, or folders with audio files")
    add("-o", "--output", default=default.output, text="output folder")
    add_generator_options(parser)
    add("--format", choices=FORMATS, default=default.format, text="output format: 32-bit float, 24 or 16 bit")
    text = "samples beyond full scale: scale the whole file down, clip, or keep"
    add("--clip", choices=CLIP_MODES, default=default.clip, text=text)
    text = "output name without extension; {stem}, {name}, {parent}: of the input"
    add("--filename", default=default.filename, text=text)
    text = "strength of the noise that replaces lost highs, 0 to 1.5; the model's default where not given"
    parser.add_argument("--strength", type=float, help=text)
    add("--seed", type=int, default=default.seed, text="seed of the added noise")
    text = "length of the chunks, in 5 seconds; by default chosen by free memory"
    parser.add_argument("--batch", type=int, help=text)
    for name, text in (
        ("--overwrite", "replace existing outputs instead of skipping them"),
        ("--picture", "write a PNG with the spectrograms before and after"),
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
            clip=options.clip,
            filename=options.filename,
            overwrite=options.overwrite,
            picture=options.picture,
            batch=options.batch,
            strength=options.strength,
            seed=options.seed,
        )
        from apollo.audio.songs import find_songs, is_pending, restore_songs

        jobs = find_songs(options.inputs, config)
    except ValueError as error:
        raise UsageError(error) from error
    if options.picture:
        import_module("matplotlib")  # fail before the first song, not after it
    bar = ProgressBar()

    def progress(job: "SongJob", done: float, total: float | None) -> None:
        bar.show(job.source.name, done, total)

    generator = load_generator(options) if any(is_pending(job, config) for job in jobs) else None
    outcomes = []
    for outcome in restore_songs(generator, jobs, config, progress=progress):
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


def _format_result(outcome: "SongResult") -> str:
    if outcome.status == "failed":
        return f"FAILED   {outcome.input!r}: {outcome.reason}"
    if outcome.status == "skipped":
        return f"skipped  {outcome.output!r} already exists; --overwrite replaces it"
    speed = outcome.seconds / max(outcome.elapsed_seconds, 1e-9)
    times = f"{outcome.seconds:.2f} s in {outcome.elapsed_seconds:.1f} s ({speed:.1f} x real time)"
    line = f"restored {outcome.output!r}: {times}"
    if outcome.gain < 1:
        line += f", scaled by {outcome.gain:.3f} to fit full scale"
    return "\n".join([line, *(f"  warning: {warning}" for warning in outcome.warnings)])
