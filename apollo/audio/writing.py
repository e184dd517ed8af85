"""Write restored audio as a stream into a temporary file, which gets its tags and is renamed when complete.

libsndfile writes WAV and FLAC, ffmpeg the other formats.

Shape legend: blocks are [channels, samples], float32.
"""

import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from apollo.audio.encoding import Encoder
from apollo.audio.formats import FORMATS
from apollo.audio.quantization import quantize
from apollo.audio.soundfiles import create_sound, open_sound
from apollo.audio.tag_writing import write_tags
from apollo.audio.tags import SongTags
from apollo.checkpoints.io import fsync

PART_PREFIX = f".apollo-{secrets.token_hex(4)}-"  # of this process: another one deletes what it leaves
_WAV_LIMIT_BYTES = (1 << 32) - (1 << 20)  # its sizes are 32-bit
_BLOCK_FRAMES = 1 << 18
_SAMPLE_BYTES = 4  # the largest
_INFO = ("title", "artist", "album", "date", "genre", "comment")  # in a WAV beside its ID3 tags


class WriteError(RuntimeError):
    """A file cannot be written: disk full, read-only folder, or a format with too few channels."""


class AudioWriter:
    """Write one audio file; a context manager that leaves nothing behind unless `commit` was called.

    Args:
        target: Output path.
        channels: Number of channels.
        sample_rate: Hz, one that the format has.
        format: One of FORMATS.
        clip: `rescale` scales the whole file down where a sample exceeds full scale; `clamp` clips such
            samples; `none` keeps them, which `float` and lossy formats can: integer formats clip.
        frames: Expected samples per channel, None if unknown.
        tags: Of the song.

    Attributes:
        peak: Largest absolute sample before clipping.
        warnings: Tags that the file lacks; complete after `commit`.

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
        tags: SongTags,
    ) -> None:
        self._target, self._channels, self._rate = target, channels, sample_rate
        self._format, self._clip, self._tags = format, clip, tags
        if not self._fits(channels):
            name = {"ipod": "M4A"}.get(FORMATS[format].container, FORMATS[format].container.upper())
            raise WriteError(f"{name} ({format}) cannot hold {channels} channels: choose a WAV format")
        # the peak of the whole file is known only at its end
        self._first = "float" if clip == "rescale" else format
        self._large = (frames or 0) * channels * _SAMPLE_BYTES > _WAV_LIMIT_BYTES
        self._frames = 0  # in the current file
        self._scratch: list[Path] = []
        self._encoder: Encoder | None = None
        self.peak = 0.0
        self.warnings: list[str] = []

    def _fits(self, channels: int) -> bool:
        format = FORMATS[self._format]
        return channels in format.layouts if format.is_encoded else channels <= format.max_channels

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
        if self._encoder is not None:
            self._encoder.close()
        else:
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
            self.warnings += write_tags(self._scratch[-1], FORMATS[self._format].container, self._tags)
            fsync(self._scratch[-1])
            self._scratch[-1].replace(self._target)
        except OSError as error:
            raise WriteError(f"cannot be written: {error.strerror or error}") from error
        return gain

    def _create(self, format: str) -> Any:
        """Create the next temporary file in a format, and return what writes it."""
        import soundfile

        self._current, self._frames = format, 0
        form = FORMATS[format]
        path = self._target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}.part")
        self._scratch.append(path)
        if form.is_encoded:
            path.touch(exist_ok=False)  # with the error of the system, if there is one
            self._encoder = Encoder(path, form, self._channels, self._rate)
            return self._encoder
        container = "RF64" if form.container == "WAV" and self._large else form.container
        try:
            file = create_sound(str(path), self._rate, self._channels, form.coding, format=container)
        except soundfile.LibsndfileError as error:
            raise WriteError(f"cannot be written: {error.error_string}") from error
        if form.container == "WAV":
            for key in _INFO:
                if value := "; ".join(self._tags.texts.get(key.upper(), ())):
                    setattr(file, key, value)
        return file

    def _put(self, block: Tensor, *, dither: bool = True) -> None:
        import soundfile

        start, bits = self._frames, FORMATS[self._current].bits
        self._frames += block.shape[1]
        if not self._large and self._frames * self._channels * _SAMPLE_BYTES > _WAV_LIMIT_BYTES:
            self._enlarge(block.shape[1])
        if bits is not None:
            block = quantize(block, bits, start, dither=dither)
        samples = block.T.contiguous().numpy()
        try:
            self._file.write(samples.tobytes() if FORMATS[self._current].is_encoded else samples)
        except (soundfile.LibsndfileError, OSError) as error:
            raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _close(self, *, quietly: bool = False) -> None:
        import soundfile

        try:
            if self._encoder is not None:
                self._encoder.finish()
                self._encoder.close()
            else:
                self._file.close()
        except (soundfile.LibsndfileError, OSError) as error:
            if not quietly:
                raise WriteError(f"cannot be written: {_reason(error, self._target)}") from error

    def _rewrite(self, gain: float) -> None:
        self._copy(self._format, gain)
        self._close()

    def _enlarge(self, num_new: int) -> None:
        """Continue as RF64, with 64-bit sizes: there is more audio than was expected."""
        self._large = True
        format = self._current
        if FORMATS[format].container != "WAV":
            return
        self._close()
        self._copy(format, 1.0)
        self._frames += num_new

    def _copy(self, format: str, gain: float) -> None:
        """Start a new file with the samples of the current one, which is deleted."""
        dither = format != self._current  # else that of the current one stays
        with open_sound(str(self._scratch[-1])) as first:
            self._file = self._create(format)
            while len(block := first.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                self._put(torch.from_numpy(block).T * gain, dither=dither)
        self._scratch.pop(-2).unlink()


def _reason(error: Exception, target: Path) -> str:
    """Return the reason; libsndfile does not distinguish a full disk from other errors."""
    if os.statvfs(target.parent).f_bavail == 0:
        return "no space left on device"
    return str(getattr(error, "error_string", error))
