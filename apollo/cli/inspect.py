"""Print what audio files are, for people or as JSON."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from apollo.audio.formats import SongsConfig
from apollo.audio.inspection import Inspection, inspect_files
from apollo.audio.songs import list_songs
from apollo.cli.options import print_line


def inspect(inputs: Sequence[str], *, as_json: bool) -> list[Inspection]:
    """Inspect files and the audio files of folders, and print what they are.

    Raises:
        ValueError: an input does not exist.
    """
    found, problems = list_songs(inputs, SongsConfig(output=os.devnull))  # there are no outputs to leave out
    results = []
    for result in inspect_files(str(path) for path in found):
        results.append(result)
        if not as_json:
            print_line(describe(result))
    for job in problems:
        results.append(Inspection(input=str(job.source), problem=job.problem, kind=job.kind))
        if not as_json:
            print_line(describe(results[-1]))
    if as_json:
        print_line(json.dumps([asdict(result) for result in results], indent=2, allow_nan=False))
    return results


def describe(result: Inspection) -> str:
    """Return a block of lines that says what a file is."""
    if result.problem is not None:
        return f"{result.input!r}\n  UNREADABLE: {result.problem}"
    lines = [repr(result.input), f"  {_describe_stream(result)}", f"  {_describe_verdict(result)}"]
    lines += [f"    {reason}" for reason in result.reasons]
    lines += [f"    warning: {warning}" for warning in result.warnings]
    spans = ", ".join(f"{start:.0f}-{end:.0f}" for start, end in result.analysed)
    lines.append(f"    analysed: {spans} s")
    return "\n".join(lines)


def _describe_verdict(result: Inspection) -> str:
    if not result.confidence:
        return f"{result.verdict}:"
    history = f" from {result.history}" if result.history else ""
    return f"{result.verdict}{history} (confidence {result.confidence:.2f}):"


def _describe_stream(result: Inspection) -> str:
    parts = [result.codec + (f" in {result.container}" if result.container else "")]
    if result.bitrate_bps:
        parts.append(
            f"{result.bitrate_bps / 1000:.0f} kbps"
            + (f" {result.bitrate_mode}" if result.bitrate_mode else "")
        )
    parts += [f"{result.sample_rate} Hz", f"{result.channels} channel{'s' * (result.channels != 1)}"]
    if result.seconds is not None:
        parts.append(f"{result.seconds:.1f} s")
    if result.encoder:
        parts.append(f"encoder {result.encoder!r}")
    return ", ".join(parts)
