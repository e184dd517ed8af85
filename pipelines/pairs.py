"""Pairs and triples that a user brings: clean and degraded files, and what somebody's model made of them.

Two layouts, at any depth below the folder:

    <name>/clean.wav  <name>/degraded.mp3  [<name>/<model>.wav …]         a folder an item
    clean/<name>.wav  degraded/<name>.mp3  [<model>/<name>.wav …]         a folder a role

A folder of the way that is named after a bitrate (`64k`, `mp3_64000`) is the item's degradation.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray

from apollo.files.decoding import EXTENSIONS, AudioError
from apollo.files.ffmpeg_process import FfmpegError, FfmpegMissingError
from apollo.files.reading import Song
from pipelines.codec import gain_spectrum, measure_gain
from pipelines.errors import UsageError
from pipelines.items import Degradation, Item, Loaded
from pipelines.schema import SAMPLE_RATE, SONG
from pipelines.storage import is_uri

_CLEAN, _DEGRADED = ("clean", "original", "reference"), ("degraded", "lossy", "codec")
_LONGEST_SECONDS = 60
_MOST_LENGTHS_APART = 1_152  # samples: a frame of MP3, which decoders add or leave out
_BITRATE = re.compile(r"(?:[a-z0-9]+[_-])?(?:(?P<kilo>\d{2,3})k(?:bps)?|(?P<bits>\d{4,6}))", re.IGNORECASE)
_UNKNOWN = "given"


@dataclass(frozen=True)
class _Files:
    name: str
    degradation: Degradation
    clean: Path
    degraded: Path
    restored: dict[str, Path]


class PairItems:
    """Pairs below a folder; a `Collection`.

    Args:
        folder: A folder on a disk.
        degradations: Names of those to score; none takes all.
        limit: Most items; None takes all.

    Raises:
        UsageError: there are no pairs, or none of a degradation that was asked for.
    """

    def __init__(self, folder: str, degradations: tuple[str, ...], limit: int | None) -> None:
        if is_uri(folder) or not os.path.isdir(folder):
            raise UsageError(f"{folder} is no folder on a disk, and no output of preprocess")
        files = _find(Path(folder))
        if not files:
            raise UsageError(
                f"{folder} is no output of preprocess, and holds no pairs: NAME/clean.wav with "
                "NAME/degraded.mp3, or clean/NAME.wav with degraded/NAME.mp3"
            )
        there = sorted({one.degradation for one in files}, key=lambda one: (one.bitrate_bps or 0, one.name))
        if unknown := set(degradations) - {one.name for one in there}:
            names = ", ".join(one.name for one in there)
            raise UsageError(f"{folder} has no degradation {', '.join(sorted(unknown))}; there is {names}")
        self.degradations = tuple(one for one in there if not degradations or one.name in degradations)
        self._files = [one for one in files if one.degradation in self.degradations][:limit]
        self.items = tuple(Item(one.name, (one.name,), SONG) for one in self._files)
        self.given = tuple(sorted({name for one in self._files for name in one.restored}))

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and bytes."""
        hashed = hashlib.sha256()
        for one in self._files:
            for path in (one.clean, one.degraded, *(one.restored[name] for name in sorted(one.restored))):
                with path.open("rb") as stream:
                    hashed.update(f"{one.name} {path.name} ".encode("utf-8", "surrogateescape"))
                    hashed.update(hashlib.file_digest(stream, "sha256").digest())
        return hashed.hexdigest()

    def numbers(self, degradation: str) -> list[int]:
        """Give the places in `items` of those that have a degradation."""
        return [number for number, one in enumerate(self._files) if one.degradation.name == degradation]

    def load(self, numbers: Sequence[int], degradation: str) -> Iterator[Loaded | str]:
        """Give items, in their order; one that cannot be used as the reason why."""
        for number in numbers:
            files = self._files[number]
            try:
                yield _load(files)
            except (AudioError, FfmpegError, FfmpegMissingError, OSError) as error:
                yield str(error)


def _find(folder: Path) -> list[_Files]:
    by_folder: dict[Path, list[Path]] = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in EXTENSIONS and not name.startswith("."):
                by_folder.setdefault(Path(root), []).append(Path(root, name))
    found = []
    for place, paths in by_folder.items():
        roles = {path.stem: path for path in paths}
        clean, degraded = (_first(roles, names) for names in (_CLEAN, _DEGRADED))
        if clean and degraded:
            rest = {stem: path for stem, path in roles.items() if path not in (clean, degraded)}
            found.append(_files(place.relative_to(folder), clean, degraded, rest))
    found += _find_by_role(folder, by_folder)
    return sorted(found, key=lambda one: one.name)


def _first(roles: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((roles[name] for name in names if name in roles), None)


def _find_by_role(folder: Path, by_folder: dict[Path, list[Path]]) -> list[_Files]:
    """Find clean/NAME with degraded/NAME beside it, and whatever other folders there hold a NAME."""
    found = []
    for root in (root for name in _CLEAN if (root := folder / name).is_dir()):
        others: dict[str, dict[str, Path]] = {}
        for place, paths in by_folder.items():
            role, *below = place.relative_to(folder).parts or ("",)
            for path in paths:
                others.setdefault(str(PurePath(*below, path.stem)), {})[role] = path
        for name, roles in others.items():
            clean, degraded = roles.pop(root.name, None), _first(roles, _DEGRADED)
            if clean and degraded:
                rest = {role: path for role, path in roles.items() if path != degraded and role}
                found.append(_files(PurePath(name), clean, degraded, rest))
    return found


def _files(name: PurePath, clean: Path, degraded: Path, rest: dict[str, Path]) -> _Files:
    return _Files(name.as_posix(), _degradation(name), clean, degraded, rest)


def _degradation(name: PurePath) -> Degradation:
    for part in name.parts:
        if match := _BITRATE.fullmatch(part):
            bitrate = int(match["kilo"]) * 1000 if match["kilo"] else int(match["bits"])
            return Degradation(part, bitrate)
    return Degradation(_UNKNOWN, None)


def _load(files: _Files) -> Loaded:
    clean, degraded = _read(files.clean), _read(files.degraded)
    restored = {name: _read(path) for name, path in files.restored.items()}
    versions = [clean, degraded, *restored.values()]
    if len({samples.shape[0] for samples in versions}) > 1:
        raise AudioError(f"different numbers of channels: {[samples.shape[0] for samples in versions]}")
    lengths = [samples.shape[1] for samples in versions]
    if max(lengths) - min(lengths) > _MOST_LENGTHS_APART:
        raise AudioError(f"different lengths: {lengths} samples. Cut them so that they are aligned")
    end = min(lengths)
    gain = measure_gain(gain_spectrum(clean[:, :end].T), gain_spectrum(degraded[:, :end].T))
    restored = {name: samples[:, :end] for name, samples in restored.items()}
    return Loaded(clean[:, :end], degraded[:, :end], gain, restored)


def _read(path: Path) -> NDArray[np.float32]:
    with Song(str(path), SAMPLE_RATE) as song:
        if song.frames is not None and song.frames > _LONGEST_SECONDS * SAMPLE_RATE:
            raise AudioError(f"{path.name} is longer than {_LONGEST_SECONDS} s: scores need excerpts, cut it")
        blocks = []
        for block in song.blocks(SAMPLE_RATE):
            blocks.append(block)
            if len(blocks) > _LONGEST_SECONDS + 1:
                raise AudioError(f"{path.name} is longer than {_LONGEST_SECONDS} s: cut it")
    samples: NDArray[np.float32] = torch.cat(blocks, 1).numpy()
    return samples
