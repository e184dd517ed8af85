"""Write restored audio as a stream into a temporary file, which is renamed when complete.

Shape legend: blocks are [channels, samples], float32.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from apollo.audio.formats import FORMATS
from apollo.audio.soundfiles import create_sound, open_sound
from apollo.checkpoints.io import fsync

PART_PREFIX = f".apollo-{secrets.token_hex(4)}-"  # of this process: another one deletes what it leaves
_WAV_LIMIT_BYTES = (1 << 32) - (1 << 20)  # its sizes are 32-bit
_MAX_FLAC_CHANNELS = 8
_BLOCK_FRAMES = 1 << 18
_SAMPLE_BYTES = 4  # the largest


class WriteError(RuntimeError):
    """A file cannot be written: disk full, read-only folder, or a format with too few channels."""


class AudioWriter:
    """Write one audio file; a context manager that leaves nothing behind unless `commit` was called.

    Args:
        target: Output path.
        channels: Number of channels.
        sample_rate: Hz.
        format: One of FORMATS.
        clip: `rescale` scales the whole file down where a sample exceeds full scale; `clamp` clips such
            samples; `none` keeps them, which only `float` can: integer formats clip.
        frames: Expected samples per channel, None if unknown.
        tags: Title, artist and so on.

    Raises:
        WriteError: the format cannot hold so many channels.
    """

    def __init__(
        self,
        target: Path,
        *,
        channels: int,
        sample_rate: int,
        format: str,
        clip: str,
        frames: int | None,
        tags: Mapping[str, str],
    ) -> None:
        self._target, self._channels, self._rate = target, channels, sample_rate
        self._format, self._clip, self._tags = format, clip, tags
        if FORMATS[format][0] == "FLAC" and channels > _MAX_FLAC_CHANNELS:
            raise WriteError(
                f"FLAC supports {_MAX_FLAC_CHANNELS} channels, not {channels}: choose a WAV format"
            )
        # the peak of the whole file is known only at its end
        self._first = "float" if clip == "rescale" else format
        self._large = (frames or 0) * channels * _SAMPLE_BYTES > _WAV_LIMIT_BYTES
        self._frames = 0  # in the current file
        self._scratch: list[Path] = []
        self.peak = 0.0

    def __enter__(self) -> "AudioWriter":
        """Create the output folder and open the temporary file.

        Raises:
            WriteError: they cannot be created.
        """
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._create(self._first)
        except OSError as error:
            raise WriteError(f"cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(quietly=True)
        for path in self._scratch:
            path.unlink(missing_ok=True)

    def write(self, block: Tensor) -> None:
        """Append samples [channels, samples].

        Raises:
            WriteError: the disk is full or another write error occurred.
        """
        if block.shape[1]:
            self.peak = max(self.peak, float(block.abs().max()))
        self._put(block.clamp(-1, 1) if self._clip == "clamp" else block)

    def commit(self) -> float:
        """Finish the file and rename it to its target.

        Returns:
            The gain that was applied: 1, or less where the file was scaled down.

        Raises:
            WriteError: the disk is full or another write error occurred.
        """
        self._close()
        gain = 1 / self.peak if self._clip == "rescale" and self.peak > 1 else 1.0
        if gain < 1 or self._first != self._format:
            self._rewrite(gain)
        try:
            fsync(self._scratch[-1])
            self._scratch[-1].replace(self._target)
        except OSError as error:
            raise WriteError(f"cannot be written: {error.strerror or error}") from error
        return gain

    def _create(self, format: str) -> Any:
        import soundfile

        self._current = format
        container, subtype, _ = FORMATS[format]
        if container == "WAV" and self._large:
            container = "RF64"
        path = self._target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}.part")
        self._scratch.append(path)
        try:
            file = create_sound(str(path), self._rate, self._channels, subtype, format=container)
        except soundfile.LibsndfileError as error:
            raise WriteError(f"cannot be written: {error.error_string}") from error
        for key, value in self._tags.items():
            setattr(file, key, value)
        self._frames = 0
        return file

    def _put(self, block: Tensor) -> None:
        import soundfile

        self._frames += block.shape[1]
        if not self._large and self._frames * self._channels * _SAMPLE_BYTES > _WAV_LIMIT_BYTES:
            self._enlarge(block.shape[1])
        try:
            self._file.write(block.T.contiguous().numpy())
        except (soundfile.LibsndfileError, OSError) as error:
            raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _close(self, *, quietly: bool = False) -> None:
        import soundfile

        try:
            self._file.close()
        except (soundfile.LibsndfileError, OSError) as error:
            if not quietly:
                raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _rewrite(self, gain: float) -> None:
        self._copy(self._format, gain)
        self._close()

    def _enlarge(self, num_new: int) -> None:
        """Go on in a file of 64-bit sizes: there is more audio than was expected."""
        self._large = True
        format = self._current
        if FORMATS[format][0] != "WAV":
            return
        self._close()
        self._copy(format, 1.0)
        self._frames += num_new

    def _copy(self, format: str, gain: float) -> None:
        """Begin a new file with the samples of the current one, which is deleted."""
        with open_sound(str(self._scratch[-1])) as first:
            self._file = self._create(format)
            while len(block := first.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                self._put(torch.from_numpy(block).T * gain)
        self._scratch.pop(-2).unlink()


def _reason(error: Exception, target: Path) -> str:
    """Return the reason; libsndfile does not distinguish a full disk from other errors."""
    if os.statvfs(target.parent).f_bavail == 0:
        return "no space left on device"
    return str(getattr(error, "error_string", error))
