"""Writing restored audio: a stream into a temporary file that gets its name when it is whole.

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
from apollo.checkpoints.io import fsync

_WAV_LIMIT_BYTES = (1 << 32) - (1 << 20)  # its sizes have 32 bits
_MOST_FLAC_CHANNELS = 8
_BLOCK_FRAMES = 1 << 18


class WriteError(RuntimeError):
    """A file cannot be written: the disk is full, the folder read-only, the format too small."""


class AudioWriter:
    """Writes one audio file; a context manager that leaves nothing behind unless `commit` was called.

    Args:
        target: The file's name.
        channels: How many.
        sample_rate: Hz.
        format: One of FORMATS.
        clip: `rescale`: when a sample exceeds full scale, the whole file is turned down to fit. `clamp`: such
            samples are cut. `none`: they are kept, which only `float` can; integers cut them.
        frames: Samples per channel to expect.
        tags: Title, artist and so on.

    Raises:
        WriteError: there cannot be such a file.
    """

    def __init__(
        self,
        target: Path,
        *,
        channels: int,
        sample_rate: int,
        format: str,
        clip: str,
        frames: int,
        tags: Mapping[str, str],
    ) -> None:
        self._target, self._channels, self._rate = target, channels, sample_rate
        self._format, self._clip, self._tags = format, clip, tags
        if FORMATS[format][0] == "FLAC" and channels > _MOST_FLAC_CHANNELS:
            raise WriteError(f"FLAC holds {_MOST_FLAC_CHANNELS} channels, not {channels}: take a WAV format")
        # what is turned down as a whole has to be known as a whole
        self._first = "float" if clip == "rescale" else format
        self._large = frames * channels * 4 > _WAV_LIMIT_BYTES
        self._scratch: list[Path] = []
        self.peak = 0.0

    def __enter__(self) -> "AudioWriter":
        """Open the temporary file, and the folder it is in.

        Raises:
            WriteError: it cannot be opened.
        """
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._sound = self._create(self._first)
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
            WriteError: the disk is full, or the like.
        """
        if block.shape[1]:
            self.peak = max(self.peak, float(block.abs().max()))
        self._put(block.clamp(-1, 1) if self._clip == "clamp" else block)

    def commit(self) -> float:
        """Finish the file and give it its name.

        Returns:
            The gain it was written with: 1, or less where it had to be turned down.

        Raises:
            WriteError: the disk is full, or the like.
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

        container, subtype, _ = FORMATS[format]
        if container == "WAV" and self._large:
            container = "RF64"
        path = self._target.with_name(f".apollo-{secrets.token_hex(8)}.part")
        path.touch(exist_ok=False)
        self._scratch.append(path)
        try:
            sound = soundfile.SoundFile(
                os.fsencode(path), "w", self._rate, self._channels, subtype, format=container
            )
        except soundfile.LibsndfileError as error:
            raise WriteError(f"cannot be written: {error.error_string}") from error
        for key, value in self._tags.items():
            setattr(sound, key, value)
        return sound

    def _put(self, block: Tensor) -> None:
        import soundfile

        try:
            self._sound.write(block.T.contiguous().numpy())
        except (soundfile.LibsndfileError, OSError) as error:
            raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _close(self, *, quietly: bool = False) -> None:
        import soundfile

        try:
            self._sound.close()
        except (soundfile.LibsndfileError, OSError) as error:
            if not quietly:
                raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _rewrite(self, gain: float) -> None:
        import soundfile

        with soundfile.SoundFile(os.fsencode(self._scratch[-1])) as first:
            self._sound = self._create(self._format)
            while len(block := first.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                self._put(torch.from_numpy(block).T * gain)
        self._close()


def _reason(error: Exception, target: Path) -> str:
    """Say why; libsndfile does not tell a full disk from other trouble."""
    if os.statvfs(target.parent).f_bavail == 0:
        return "no space left on the disk"
    return str(getattr(error, "error_string", error))
