"""Pairs and triples that a user brings: clean and degraded files, and what somebody's model made of them.

Two layouts, at any depth below the folder:

    <name>/clean.wav  <name>/degraded.mp3  [<name>/<model>.wav …]         a folder an item
    clean/<name>.wav  degraded/<name>.mp3  [<model>/<name>.wav …]         a folder a role

A folder of the way that is named after a bitrate (`64k`, `mp3_64000`) is the item's degradation, and the
rest of the way its song: `24k/x` and `64k/x` are one song. Where several names of a role are there (`clean`,
`original`), the first counts, and the others are no results.

A result that cannot be used is a reason for its model alone. One with samples that are no numbers is given as
it is, for scores to tell (`not_finite`), if it is at 44.1 kHz; if it must be resampled, it is a reason.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray

from apollo.audio.decoding import EXTENSIONS, AudioError
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.reading import AudioReader
from pipelines.audio.codec import gain_spectrum, measure_gain
from pipelines.errors import UsageError
from pipelines.evaluation.items import Degradation, EvaluationItem, ItemInfo, choose_evenly
from pipelines.schema import SAMPLE_RATE, SONG, UNTOUCHED
from pipelines.storage.folder import is_uri

_CLEAN, _DEGRADED = ("clean", "original", "reference"), ("degraded", "lossy", "codec")
_ROLES = frozenset({*_CLEAN, *_DEGRADED})
_RESERVED = (UNTOUCHED, "clean")  # what scores and pages call something else
_MOST_CHANNELS = 2
_LONGEST_SECONDS = 60
_MOST_LENGTHS_APART = 1_152  # samples: a frame of MP3, which decoders add or leave out
_BITRATE = re.compile(r"(?:[a-z0-9]+[_-])?(?:(?P<kilo>\d{2,3})k(?:bps)?|(?P<bits>\d{5,6}))", re.IGNORECASE)
_UNKNOWN = "given"
_FAILURES = (AudioError, FfmpegError, OSError)  # a node without ffmpeg is no fault of the file


@dataclass(frozen=True)
class _Files:
    name: str
    song: str
    degradation: Degradation
    clean: Path
    degraded: Path
    restored: dict[str, Path]


class PairItems:
    """Pairs below a folder; an `ItemSource`.

    Args:
        folder: A folder on a disk.
        degradations: Names of those to score; none takes all.
        limit: Most items, taken evenly over the degradations; None takes all.

    Raises:
        UsageError: there are no pairs, or none of a degradation that was asked for; or two have one name, or
            a result has a name that means something else.
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
        wanted = [one for one in files if not degradations or one.degradation.name in degradations]
        self._files = [
            wanted[place] for place in choose_evenly([one.degradation.name for one in wanted], limit)
        ]
        left = {one.degradation for one in self._files}
        self.degradations = tuple(one for one in there if one in left)
        self.items = tuple(ItemInfo(one.name, (one.song,), SONG) for one in self._files)
        self.result_models = tuple(sorted({name for one in self._files for name in one.restored}))

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and bytes; of one that cannot be read, of what kind the error is."""
        hashed = hashlib.sha256()
        for one in self._files:
            for path in (one.clean, one.degraded, *(one.restored[name] for name in sorted(one.restored))):
                hashed.update(f"{one.name} {path.name} ".encode("utf-8", "surrogateescape"))
                try:
                    with path.open("rb") as stream:
                        hashed.update(hashlib.file_digest(stream, "sha256").digest())
                except OSError as error:
                    hashed.update(type(error).__name__.encode())
        return hashed.hexdigest()

    def indices(self, degradation: str) -> list[int]:
        """Give the places in `items` of those that have a degradation."""
        return [number for number, one in enumerate(self._files) if one.degradation.name == degradation]

    def load(self, indices: Sequence[int], degradation: str) -> Iterator[EvaluationItem | str]:
        """Give items, in their order; one that cannot be used as the reason why."""
        for index in indices:
            files = self._files[index]
            try:
                yield _load(files)
            except _FAILURES as error:
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
            found.append(_files(place.relative_to(folder), clean, degraded, roles))
    found = sorted(found + _find_by_role(folder, by_folder), key=lambda one: one.name)
    for first, second in pairwise(found):
        if first.name == second.name:
            raise UsageError(
                f"two pairs are called {first.name}, of {_text(first.clean)} and of {_text(second.clean)}: "
                "rename one"
            )
    return found


def _first(roles: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((roles[name] for name in names if name in roles), None)


def _find_by_role(folder: Path, by_folder: dict[Path, list[Path]]) -> list[_Files]:
    """Find clean/NAME with degraded/NAME beside it, and whatever other folders there hold a NAME."""
    others: dict[str, dict[str, Path]] = {}
    for place, paths in by_folder.items():
        role, *below = place.relative_to(folder).parts or ("",)
        for path in paths:
            if role:
                others.setdefault(str(PurePath(*below, path.stem)), {})[role] = path
    found = []
    for name, roles in others.items():
        clean, degraded = (_first(roles, names) for names in (_CLEAN, _DEGRADED))
        if clean and degraded:
            found.append(_files(PurePath(name), clean, degraded, roles))
    return found


def _files(name: PurePath, clean: Path, degraded: Path, roles: dict[str, Path]) -> _Files:
    results = {_text(PurePath(role)): path for role, path in roles.items() if role not in _ROLES}
    for result, path in results.items():
        if result.casefold() in _RESERVED:
            raise UsageError(
                f"{_text(path)} would be the result of a model called {result}, and that name "
                "means something else: rename it"
            )
    degradation, song = _divide(name)
    return _Files(_text(name), _text(song), degradation, clean, degraded, results)


def _text(name: PurePath) -> str:
    """Give a name as text that is UTF-8 for certain, which tables need and disks do not ask for."""
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def _divide(name: PurePath) -> tuple[Degradation, PurePath]:
    """Divide an item's name into the degradation and the song, which is the whole name if nothing is left."""
    for place, part in enumerate(name.parts):
        if match := _BITRATE.fullmatch(part):
            bitrate = int(match["kilo"]) * 1000 if match["kilo"] else int(match["bits"])
            rest = name.parts[:place] + name.parts[place + 1 :]
            return Degradation(part, bitrate), PurePath(*rest) if rest else name
    return Degradation(_UNKNOWN, None), name


def _load(files: _Files) -> EvaluationItem:
    clean, degraded = _read(files.clean), _read(files.degraded)
    if len(clean) != len(degraded):
        raise AudioError(f"different numbers of channels: {len(clean)} and {len(degraded)}")
    lengths = [clean.shape[1], degraded.shape[1]]
    if max(lengths) - min(lengths) > _MOST_LENGTHS_APART:
        raise AudioError(f"different lengths: {lengths} samples. Cut them so that they are aligned")
    clean, degraded = clean[:, : min(lengths)], degraded[:, : min(lengths)]
    gain = measure_gain(gain_spectrum(clean.T), gain_spectrum(degraded.T))
    restored = {name: _load_result(path, clean.shape) for name, path in files.restored.items()}
    return EvaluationItem(clean, degraded, gain, restored)


def _load_result(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | str:
    """Give a model's result in the item's shape, or why it cannot be used."""
    channels, length = shape
    try:
        samples = _read_floats(path)
        samples = _read(path) if samples is None else samples
    except _FAILURES as error:
        return str(error)
    if len(samples) != channels:
        return f"different numbers of channels: the result has {len(samples)}, the item {channels}"
    if abs(samples.shape[1] - length) > _MOST_LENGTHS_APART:
        return f"different lengths: the result has {samples.shape[1]} samples, the item {length}"
    return np.pad(samples[:, :length], ((0, 0), (0, max(length - samples.shape[1], 0))))


def _read_floats(path: Path) -> NDArray[np.float32] | None:
    """Read a file as it is, NaN included; None where it can hold none, or needs another reader."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            if (
                sound.subtype not in ("FLOAT", "DOUBLE")
                or sound.samplerate != SAMPLE_RATE
                or sound.channels > _MOST_CHANNELS
                or not 0 < sound.frames <= _LONGEST_SECONDS * SAMPLE_RATE
            ):
                return None
            samples: NDArray[np.float32] = sound.read(dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError:
        return None
    return samples


def _read(path: Path) -> NDArray[np.float32]:
    name = _text(PurePath(path.name))
    with AudioReader(str(path), SAMPLE_RATE) as song:
        if song.channels > _MOST_CHANNELS:
            raise AudioError(f"{name} has {song.channels} channels, more than {_MOST_CHANNELS}")
        if song.frames is not None and song.frames > _LONGEST_SECONDS * SAMPLE_RATE:
            raise AudioError(f"{name} is longer than {_LONGEST_SECONDS} s: scores need excerpts, cut it")
        blocks = []
        for block in song.blocks(SAMPLE_RATE):
            blocks.append(block)
            if len(blocks) > _LONGEST_SECONDS + 1:
                raise AudioError(f"{name} is longer than {_LONGEST_SECONDS} s: cut it")
    samples: NDArray[np.float32] = torch.cat(blocks, 1).numpy()
    return samples
