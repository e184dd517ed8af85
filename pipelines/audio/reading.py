"""Read source audio: properties of a file, and exact windows of it as 44.1 kHz stereo.

Shape legend: samples are [frames, channels], float32, 44,100 Hz unless noted.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio.containers import read_sample_bytes
from apollo.audio.joined_files import find_joined_files
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.soundfiles import has_length, is_lossless, reads_in_pieces
from pipelines.schema import CHANNELS, SAMPLE_RATE
from pipelines.storage.folder import is_uri, join, open_filesystem
from pipelines.storage.object_store import StoreError, read_ranges, translate_store_errors

_OPEN_FILES = 256
_MOST_HEADER_BYTES = 1 << 12  # of a file without pictures


@dataclass(frozen=True)
class Probe:
    """Properties of a file as libsndfile reads them.

    Args:
        sample_rate: Hz.
        channels: Number of channels.
        frames: Samples per channel at the file's own rate, 0 if unknown.
        lossy: Whether its coding is lossy.
        windowed: Whether it can be read exactly in windows as it is: a single file, uncompressed or FLAC of a
            known length, 44.1 kHz, mono or stereo.
        remark: What the header declares wrongly, though no sample that it declares is missing.
    """

    sample_rate: int
    channels: int
    frames: int
    lossy: bool
    windowed: bool
    remark: str | None = None


def open_binary(path: str) -> BinaryIO:
    """Open a file on a disk or an object store for reading at any position.

    Raises:
        StoreError: the store does not answer.
    """
    filesystem, inner = open_filesystem(path)
    if not is_uri(path):
        return cast(BinaryIO, filesystem.open_input_file(inner))
    with translate_store_errors("open", path):
        return read_ranges(filesystem.open_input_file(inner), path)


class _StoreStream:
    """File object over an object store for libsndfile, which hides exceptions: the store's error is kept."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: StoreError | None = None
        self.seek, self.tell = stream.seek, stream.tell

    def readinto(self, buffer: Any) -> int:
        try:
            return self._stream.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except StoreError as error:
            self.failure = error
            return 0


def _raise_store_error(source: Any) -> None:
    """Raise the store's error, if one made libsndfile fail: the file itself may be valid."""
    if isinstance(source, _StoreStream) and source.failure:
        raise source.failure


def open_soundfile(path: str) -> soundfile.SoundFile:
    """Open a file with libsndfile.

    Raises:
        AudioError: it cannot be opened, or libsndfile does not know the format.
        StoreError: the store does not answer.
    """
    source: Any = None
    try:
        # a bare "-" would be standard input
        source = _StoreStream(open_binary(path)) if is_uri(path) else os.path.abspath(path)
        return soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        _raise_store_error(source)
        raise AudioError(error.error_string, RejectKind.UNOPENED) from error
    except StoreError:
        raise
    except OSError as error:
        raise AudioError(
            os.strerror(error.errno) if error.errno else str(error), RejectKind.UNOPENED
        ) from error


def probe(path: str) -> Probe | None:
    """Read a file's headers.

    Returns:
        None when libsndfile does not know the format; ffmpeg may.

    Raises:
        AudioError: the file is empty, cannot be opened, or is shorter than its header says.
    """
    with open_source_file(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        if not size:
            raise AudioError("the file is empty", RejectKind.EMPTY)
        samples = read_sample_bytes(stream, size)
        filled = samples is not None and samples.declared and size - samples.present <= _MOST_HEADER_BYTES
        joined = not filled and len(find_joined_files(stream)) > 1  # of a FLAC, all is searched
    if samples is not None and (damage := samples.find_truncation()):
        raise AudioError(damage, RejectKind.DAMAGED)
    try:
        sound = open_soundfile(path)
    except AudioError:
        return None
    with sound:
        lossy = not is_lossless(sound)
        windowed = (
            reads_in_pieces(sound)
            and not joined
            and not lossy
            and sound.samplerate == SAMPLE_RATE
            and sound.channels <= CHANNELS
            and sound.seekable()
        )
        frames = sound.frames if has_length(sound) and not joined else 0
        remark = None if samples is None else samples.find_excess()
        return Probe(sound.samplerate, sound.channels, frames, lossy, windowed, remark)


def open_source_file(path: str) -> BinaryIO:
    """Open a file; an error of the system becomes an AudioError, one of a store stays a StoreError."""
    try:
        return open_binary(path)
    except StoreError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AudioError(f"cannot be opened: {reason}", RejectKind.UNOPENED) from error


def to_stereo(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert samples [frames, 1 or 2] to [frames, 2]; a mono signal is copied to both channels."""
    return samples if samples.shape[1] == CHANNELS else np.repeat(samples, CHANNELS, axis=1)


class SourceReader:
    """Reads windows of sources, and keeps the files used last open.

    A source is a list of files that are summed: the `files` column of sources.parquet.

    Args:
        cache: Folder or URI of the decoded files, which the rows name relative to it.
    """

    def __init__(self, cache: str = "") -> None:
        self._cache = cache
        self._open: OrderedDict[str, soundfile.SoundFile] = OrderedDict()

    def _get_file(self, path: str) -> soundfile.SoundFile:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_soundfile(path)
        return self._open[path]

    def read_file(self, file: dict[str, Any], start: int, frames: int) -> NDArray[np.float32]:
        """Read a window of one file, padded with silence beyond its end.

        Raises:
            AudioError: the file cannot be read, or holds fewer samples than it did when it was scanned.
            StoreError: the store does not answer.
            RuntimeError: a file in the cache cannot be read; the next run decodes it again.
        """
        samples = np.zeros((frames, CHANNELS), np.float32)
        num_frames = min(frames, file["frames"] - start)
        if num_frames <= 0:
            return samples
        cached = file["readable"] != file.get("path", file["readable"])
        path = join(self._cache, file["readable"]) if cached else file["readable"]
        try:
            return self._read_into(samples, path, start, num_frames, file["scale"])
        except AudioError as error:
            if cached:
                raise RuntimeError(f"a decoded file in the cache cannot be read: {error}") from error
            raise

    def _read_into(
        self, samples: NDArray[np.float32], path: str, start: int, num_frames: int, scale: float
    ) -> NDArray[np.float32]:
        try:
            sound = self._get_file(path)
            sound.seek(start)
            found = sound.read(num_frames, dtype="float32", always_2d=True)
            _raise_store_error(sound.name)
        except soundfile.LibsndfileError as error:
            self.forget(path)
            _raise_store_error(sound.name)
            raise AudioError(f"{path}: {error.error_string}", RejectKind.UNDECODABLE) from error
        except StoreError:
            self.forget(path)
            raise
        except (AudioError, OSError) as error:
            raise AudioError(f"{path}: {error}", RejectKind.UNOPENED) from error
        if len(found) < num_frames:
            self.forget(path)
            missing = num_frames - len(found)
            raise AudioError(
                f"{path}: ends {missing} samples early at {start + len(found)}", RejectKind.DAMAGED
            )
        samples[:num_frames] = to_stereo(found) * np.float32(scale)
        return samples

    def read(self, files: Sequence[dict[str, Any]], start: int, frames: int) -> NDArray[np.float32]:
        """Read a window of a source: the sum of its files."""
        total = self.read_file(files[0], start, frames)
        for file in files[1:]:
            total += self.read_file(file, start, frames)
        return total

    def forget(self, path: str) -> None:
        """Close one file."""
        if path in self._open:
            self._open.pop(path).close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()
