"""Find the audio files of a folder, and say which files were left out."""

import os
from collections.abc import Sequence
from pathlib import Path

from apollo.audio.decoding import EXTENSIONS

_SHOWN_NAMES = 8


def is_song(name: str) -> bool:
    """Return whether a file below a folder is an audio file, by its name."""
    return name.rpartition(".")[2].lower() in EXTENSIONS and not name.startswith(".")


def walk(folder: Path, output: Path) -> tuple[list[Path], dict[Path, str], list[str]]:
    """Find the audio files below a folder; hidden files are ignored.

    Args:
        folder: The folder.
        output: A folder below it to leave out.

    Returns:
        The audio files; the folders that cannot be read, with the reasons; the names of all other files.
    """
    errors: list[OSError] = []
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if Path(place, name) != output)
        found += [Path(place, name) for name in sorted(files) if not name.startswith(".")]
    songs = [path for path in found if is_song(path.name)]
    others = [path.name for path in found if not is_song(path.name)]
    return songs, {Path(error.filename): error.strerror or str(error) for error in errors}, others


def describe_left_out(names: Sequence[str]) -> str:
    """Return which files of a folder are not restored, since their names are not those of audio files."""
    shown = ", ".join(map(repr, names[:_SHOWN_NAMES])) + (", …" if len(names) > _SHOWN_NAMES else "")
    return f"{len(names)} files were left out, by their names' extensions: {shown}"
