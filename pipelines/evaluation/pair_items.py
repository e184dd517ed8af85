"""Items from a folder of audio files: clean and degraded pairs, optionally with models' results.

Two layouts, at any depth below the folder:

    <name>/clean.wav  <name>/degraded.mp3  [<name>/<model>.wav …]         a folder an item
    clean/<name>.wav  degraded/<name>.mp3  [<model>/<name>.wav …]         a folder a role

A path component named after a bitrate (`64k`, `mp3_64000`) is the item's degradation, and the rest of the
path its song: `24k/x` and `64k/x` are one song, and so are `24k/x/excerpt-1` and `24k/x/excerpt-2`. Of
several names of a role (`clean`, `original`), the first
counts, and the others are not results.

A result that cannot be used is unreadable for its model alone. A 44.1 kHz float file with non-finite samples
is loaded as it is and scored as `not_finite`; one that needs resampling is unreadable.
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

from apollo.audio.decoding import EXTENSIONS
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError
from pipelines.audio.codec_gain import gain_spectrum, measure_gain
from pipelines.errors import UsageError
from pipelines.evaluation.alignment import MAX_LAG, measure_lag, shift
from pipelines.evaluation.items import Degradation, EvaluationItem, ItemInfo, choose_evenly
from pipelines.schema import SAMPLE_RATE, SONG, UNTOUCHED
from pipelines.storage.folder import is_uri

_CLEAN, _DEGRADED = ("clean", "original", "reference"), ("degraded", "lossy", "codec")
_ROLES = frozenset({*_CLEAN, *_DEGRADED})
_RESERVED = (UNTOUCHED, "clean")  # names with another meaning in scores and reports
_MAX_CHANNELS = 2
_MAX_SECONDS = 60
_MAX_LENGTH_DIFFERENCE = 1_152  # samples: a frame of MP3, which decoders add or leave out
_BITRATE = re.compile(r"(?:[a-z0-9]+[_-])?(?:(?P<kilo>\d{2,3})k(?:bps)?|(?P<bits>\d{5,6}))", re.IGNORECASE)
_EXCERPT = re.compile(r"excerpt[-_ ]?\d+", re.IGNORECASE)
_UNKNOWN = "given"
_FAILURES = (AudioError, FfmpegError, OSError)  # FfmpegError: a node without ffmpeg


@dataclass(frozen=True)
class _Files:
    name: str
    song: str
    degradation: Degradation
    clean: Path
    degraded: Path
    restored: dict[str, Path]


class PairItems:
    """Pairs of files below a folder; an `ItemSource`.

    Args:
        folder: A local folder.
        degradations: Names of those to score; empty takes all.
        limit: Maximum number of items, taken evenly over the degradations; None takes all.
        align: Whether to take out lags between the files.

    Raises:
        UsageError: there are no pairs, none of a requested degradation, two with the same name, or a result
            with a reserved name.
    """

    def __init__(
        self, folder: str, degradations: tuple[str, ...], limit: int | None, *, align: bool = False
    ) -> None:
        self._align = align
        if is_uri(folder) or not os.path.isdir(folder):
            raise UsageError(f"{folder} is neither a local folder nor an output of preprocess")
        files = _find(Path(folder))
        if not files:
            raise UsageError(
                f"{folder} is not an output of preprocess and holds no pairs: NAME/clean.wav with "
                "NAME/degraded.mp3, or clean/NAME.wav with degraded/NAME.mp3"
            )
        found = sorted({one.degradation for one in files}, key=lambda one: (one.bitrate_bps or 0, one.name))
        if unknown := set(degradations) - {one.name for one in found}:
            names = ", ".join(one.name for one in found)
            raise UsageError(f"{folder} has no degradation {', '.join(sorted(unknown))}, only {names}")
        wanted = [one for one in files if not degradations or one.degradation.name in degradations]
        self._files = [
            wanted[place] for place in choose_evenly([one.degradation.name for one in wanted], limit)
        ]
        left = {one.degradation for one in self._files}
        self.degradations = tuple(one for one in found if one in left)
        self.items = tuple(ItemInfo(one.name, (one.song,), SONG) for one in self._files)
        self.result_models = tuple(sorted({name for one in self._files for name in one.restored}))

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and bytes; of an unreadable file, of the type of the error."""
        hashed = hashlib.sha256(b"aligned" if self._align else b"")
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
        """Return the indices in `items` of those that have a degradation."""
        return [number for number, one in enumerate(self._files) if one.degradation.name == degradation]

    def load(self, indices: Sequence[int], degradation: str) -> Iterator[EvaluationItem | str]:
        """Yield items in the given order, or the reason why one cannot be used."""
        for index in indices:
            files = self._files[index]
            try:
                yield _load(files, align=self._align)
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
                f"two pairs are named {first.name}: {_text(first.clean)} and {_text(second.clean)}. "
                "Rename one"
            )
    return found


def _first(roles: dict[str, Path], names: Sequence[str]) -> Path | None:
    return next((roles[name] for name in names if name in roles), None)


def _find_by_role(folder: Path, by_folder: dict[Path, list[Path]]) -> list[_Files]:
    """Find clean/NAME with degraded/NAME, and results of the same NAME in other folders."""
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
                f"{_text(path)} would be the result of a model named {result}, which is a reserved name: "
                "rename it"
            )
    degradation, song = _split_name(name)
    if _EXCERPT.fullmatch(song.name) and len(song.parts) > 1:
        song = song.parent
    return _Files(_text(name), _text(song), degradation, clean, degraded, results)


def _text(name: PurePath) -> str:
    """Return a path as valid UTF-8, which tables need and file systems do not guarantee."""
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def _split_name(name: PurePath) -> tuple[Degradation, PurePath]:
    """Split an item's name into degradation and song; the song is the whole name if nothing else is left."""
    for place, part in enumerate(name.parts):
        if match := _BITRATE.fullmatch(part):
            bitrate = int(match["kilo"]) * 1000 if match["kilo"] else int(match["bits"])
            rest = name.parts[:place] + name.parts[place + 1 :]
            return Degradation(part, bitrate), PurePath(*rest) if rest else name
    return Degradation(_UNKNOWN, None), name


def _load(files: _Files, *, align: bool) -> EvaluationItem:
    clean, degraded = _read(files.clean), _read(files.degraded)
    if len(clean) != len(degraded):
        raise AudioError(f"different numbers of channels: {len(clean)} and {len(degraded)}")
    lengths = [clean.shape[1], degraded.shape[1]]
    lag = measure_lag(clean, degraded)
    if max(lengths) - min(lengths) > (_MAX_LENGTH_DIFFERENCE if not align else MAX_LAG):
        late = f"; the degraded one is {lag} samples late: --align_pairs true takes that out" if lag else ""
        raise AudioError(f"different lengths: {lengths} samples. Cut them so that they are aligned{late}")
    length = min(lengths)
    results = {name: _load_result(path, clean, align=align) for name, path in files.restored.items()}
    lags = {name: result[1] for name, result in results.items() if not isinstance(result, str)}
    usable = slice(0, length)
    if align:
        degraded = shift(degraded, lag, length)
        usable = slice(max(0, -lag, *(-one for one in lags.values())), length - max(0, lag, *lags.values()))
        lag, lags = 0, {}
    clean, degraded = clean[:, usable], degraded[:, usable]
    restored = {
        name: result if isinstance(result, str) else result[0][:, usable] for name, result in results.items()
    }
    gain = measure_gain(gain_spectrum(clean.T), gain_spectrum(degraded.T))
    return EvaluationItem(clean, degraded, gain, restored, lag=lag, restored_lags=lags)


def _load_result(
    path: Path, clean: NDArray[np.float32], *, align: bool
) -> tuple[NDArray[np.float32], int] | str:
    """Load a model's result in the shape of the clean audio, with its lag, which is taken out with `align`.

    Returns:
        The samples and the lag; or the reason why it cannot be used.
    """
    channels, length = clean.shape
    try:
        samples = _read_floats(path)
        samples = _read(path) if samples is None else samples
    except _FAILURES as error:
        return str(error)
    if len(samples) != channels:
        return f"different numbers of channels: the result has {len(samples)}, the item {channels}"
    if abs(samples.shape[1] - length) > (_MAX_LENGTH_DIFFERENCE if not align else MAX_LAG):
        return f"different lengths: the result has {samples.shape[1]} samples, the item {length}"
    lag = measure_lag(clean, samples) if np.isfinite(samples).all() else 0
    return shift(samples, lag if align else 0, length), lag


def _read_floats(path: Path) -> NDArray[np.float32] | None:
    """Read a 44.1 kHz float file as it is, NaN included; None for every other file."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            if (
                sound.subtype not in ("FLOAT", "DOUBLE")
                or sound.samplerate != SAMPLE_RATE
                or sound.channels > _MAX_CHANNELS
                or not 0 < sound.frames <= _MAX_SECONDS * SAMPLE_RATE
            ):
                return None
            samples: NDArray[np.float32] = sound.read(dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError:
        return None
    return samples


def _read(path: Path) -> NDArray[np.float32]:
    name = _text(PurePath(path.name))
    with AudioReader(str(path), SAMPLE_RATE) as song:
        if song.channels > _MAX_CHANNELS:
            raise AudioError(f"{name} has {song.channels} channels, more than {_MAX_CHANNELS}")
        if song.frames is not None and song.frames > _MAX_SECONDS * SAMPLE_RATE:
            raise AudioError(f"{name} is longer than {_MAX_SECONDS} s: scores need excerpts, cut it")
        blocks = []
        for block in song.blocks(SAMPLE_RATE):
            blocks.append(block)
            if len(blocks) > _MAX_SECONDS + 1:
                raise AudioError(f"{name} is longer than {_MAX_SECONDS} s: cut it")
    samples: NDArray[np.float32] = torch.cat(blocks, 1).numpy()
    return samples
