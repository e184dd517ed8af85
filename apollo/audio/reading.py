"""Read audio files of any format, rate and channel count as a stream of blocks at one sample rate.

libsndfile reads uncompressed files and FLAC of that rate and a known length; ffmpeg decodes and resamples the
rest. Codings whose frames refer to the frames before, as MP3 in a WAV, are not read through soundfile, which
seeks after every block. A damaged file yields what can be decoded, and a warning about what is missing.

Shape legend: blocks are [channels, samples], float32.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from apollo.audio.decoding import MAX_CHANNELS, MAX_SECONDS, Decoder
from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.parts import FileParts, find_parts
from apollo.audio.probing import describe_change, describe_choice, find_missing_end, probe
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.soundfiles import has_length, is_lossless, open_sound, reads_in_pieces

_PIECE_FRAMES = 4096
_TAGS = ("title", "artist", "album", "date", "tracknumber", "genre", "copyright", "comment")


class AudioReader:
    """Read one audio file; a context manager.

    Args:
        path: The file.
        sample_rate: Hz of the blocks.

    Attributes:
        channels: Number of channels.
        frames: Samples per channel that the file declares, None if it declares none.
        estimated_frames: The same, estimated where the file declares none.
        source_rate: Hz of the file.
        source_frames: Samples per channel at that rate, None if not known exactly.
        coding: Codec, with the format of samples where libsndfile reads it.
        lossy: Whether the codec is lossy.
        tags: Title, artist and so on, where libsndfile reads them.
        warnings: Damage that does not prevent reading; complete after the last block.
    """

    def __init__(self, path: str, sample_rate: int) -> None:
        self.path = os.path.abspath(path)
        self.sample_rate = sample_rate
        self.channels = 0
        self.frames: int | None = None
        self.estimated_frames: int | None = None
        self.source_rate = 0
        self.source_frames: int | None = None
        self.coding = ""
        self.lossy = False
        self.tags: dict[str, str] = {}
        self.warnings: list[str] = []
        self._damaged = False
        self._reason = ""

    def __enter__(self) -> "AudioReader":
        """Open the file.

        Raises:
            AudioError: it is not a readable audio file.
        """
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        self._sound: Any = None
        try:
            if not os.path.getsize(self.path):
                raise AudioError("the file is empty", RejectKind.EMPTY)
            found = self._find_parts()
            sound = open_sound(self.path, sequentially=True)
        except OSError as error:
            raise AudioError(
                f"cannot be opened: {os.strerror(error.errno or 0)}", RejectKind.UNOPENED
            ) from error
        if sound is not None:
            self._stack.enter_context(sound)
            self.tags = {key: value for key in _TAGS if (value := getattr(sound, key, ""))}
            self.source_rate = sound.samplerate
            self.source_frames = sound.frames if has_length(sound) and not found.separate else None
            self.coding, self.lossy = f"{sound.format} {sound.subtype}".lower(), not is_lossless(sound)
        readable = sound is not None and reads_in_pieces(sound) and not found.separate
        if readable and sound.samplerate == self.sample_rate:
            self._sound, self.channels, self.frames = sound, sound.channels, sound.frames
        else:
            self._open_decoder()
        if self.channels > MAX_CHANNELS:
            raise AudioError(f"has {self.channels} channels, more than {MAX_CHANNELS}")
        if self.frames is not None:
            self.estimated_frames = self.frames
        if self.frames is not None and self.frames > MAX_SECONDS * self.sample_rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours", RejectKind.TOO_LONG)

    def _find_parts(self) -> FileParts:
        """Compare what the file declares with what it contains."""
        found = find_parts(self.path)
        if found.damage:
            self._warn_damaged(found.damage)
        self.warnings += found.remarks
        return found

    def _open_decoder(self) -> None:
        program = find_ffmpeg()
        self._info = info = probe(self.path, program)
        if info.sample_rate != self.source_rate:
            self.source_frames = None
        self.source_rate, self.coding, self.lossy = info.sample_rate, info.codec, info.lossy
        if choice := describe_choice(info, self.path, program):
            self.warnings.append(choice)
        if info.seconds is not None:
            self.frames = round(info.seconds * self.sample_rate)
        if info.guessed_seconds is not None:
            self.estimated_frames = round(info.guessed_seconds * self.sample_rate)
        self._program = program
        self._decoder = self._start_decoder()
        self.channels = self._decoder.channels

    def _start_decoder(self) -> Decoder:
        decoder = Decoder(self.path, find_ffmpeg(), sample_rate=self.sample_rate, stereo=None, strict=False)
        return self._stack.enter_context(decoder)

    def blocks(self, frames: int) -> Iterator[Tensor]:
        """Yield the samples, `frames` at a time.

        Raises:
            AudioError: the file contains no samples, or non-finite ones.
        """
        num_read = 0
        for block in self._read_sound(frames) if self._sound is not None else self._read_decoder(frames):
            finite = torch.isfinite(block).all(0)
            if not finite.all():
                at = (num_read + int(finite.logical_not().nonzero()[0])) / self.sample_rate
                raise AudioError(
                    f"contains non-finite samples (NaN or infinite), first at {at:.3f} s",
                    RejectKind.NOT_FINITE,
                )
            num_read += block.shape[1]
            yield block
        if not num_read:
            raise AudioError("the file contains no samples", RejectKind.EMPTY)

    @property
    def reads_in_pieces(self) -> bool:
        """Whether windows are read without what stands before them."""
        return self._sound is not None

    def read_windows(self, starts: Sequence[int], frames: int) -> list[Tensor]:
        """Read `frames` samples, or fewer at the end, from each of some ascending positions on.

        Files of libsndfile are read there alone, others, and from their beginning on damaged ones too, up to
        the end of the last window. Warnings stay incomplete.

        Raises:
            AudioError: the file cannot be decoded, or contains non-finite samples.
        """
        if self._sound is not None and starts[0]:
            return [self._read_window(start, frames) for start in starts]
        windows: list[list[Tensor]] = [[] for _ in starts]
        position, end = 0, starts[-1] + frames
        for block in self.blocks(_PIECE_FRAMES * 16):
            for window, start in zip(windows, starts, strict=True):
                first = max(start - position, 0)
                window.append(block[:, first : max(start + frames - position, first)])
            position += block.shape[1]
            if position >= end:
                break
        return [torch.cat(window, 1) for window in windows]

    def _read_window(self, start: int, frames: int) -> Tensor:
        import soundfile

        try:
            self._sound.seek(min(start, self._sound.frames))
            window = torch.from_numpy(self._sound.read(frames, dtype="float32", always_2d=True)).T
        except soundfile.LibsndfileError as error:
            raise AudioError(f"cannot be decoded: {error.error_string}", RejectKind.UNDECODABLE) from error
        if not torch.isfinite(window).all():
            raise AudioError("contains non-finite samples (NaN or infinite)", RejectKind.NOT_FINITE)
        return window

    def _read_sound(self, frames: int) -> Iterator[Tensor]:
        pieces: list[Tensor] = []
        num_read = pending = 0
        for piece in self._read_pieces():
            pieces.append(piece)
            pending += piece.shape[1]
            if pending >= frames:
                yield torch.cat(pieces, 1)
                num_read, pending, pieces = num_read + pending, 0, []
        if pieces:
            yield torch.cat(pieces, 1)
        if self.frames is not None and num_read + pending < self.frames:
            self._warn_truncated(num_read + pending, self._reason or "no more samples")
        elif self._reason and not self._damaged:
            self._warn_damaged(f"damaged: {self._reason}")

    def _read_pieces(self) -> Iterator[Tensor]:
        """Read small pieces; from damage on, where libsndfile returns nothing, with ffmpeg."""
        import soundfile

        num_read = 0
        while True:
            try:
                piece = self._sound.read(_PIECE_FRAMES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                self._reason = error.error_string
                yield from self._read_rest(num_read)
                return
            if not len(piece):
                return
            num_read += len(piece)
            yield torch.from_numpy(piece).T

    def _read_rest(self, start: int) -> Iterator[Tensor]:
        """Yield what ffmpeg decodes from a sample on.

        Raises:
            AudioError: there is nothing before that sample either.
        """
        position = 0
        try:
            decoder = self._start_decoder()
            while decoder.channels == self.channels and (block := decoder.read(_PIECE_FRAMES)):
                piece = torch.frombuffer(bytearray(block), dtype=torch.float32).view(-1, self.channels).T
                skipped = max(start - position, 0)
                position += piece.shape[1]
                if skipped < piece.shape[1]:
                    yield piece[:, skipped:]
        except AudioError as error:
            self._reason = str(error)
        if not max(start, position):
            raise AudioError(f"cannot be decoded: {self._reason}", RejectKind.UNDECODABLE)

    def _warn_truncated(self, num_read: int, reason: str) -> None:
        if not self._damaged:
            declared = "" if self.frames is None else f" of {self.frames / self.sample_rate:.2f}"
            self._warn_damaged(
                f"truncated: ends after {num_read / self.sample_rate:.2f}{declared} s: {reason}"
            )

    def _warn_damaged(self, damage: str) -> None:
        self._damaged = True
        self.warnings.append(damage)

    def _read_decoder(self, frames: int) -> Iterator[Tensor]:
        num_read = 0
        while block := self._decoder.read(frames):
            num_read += len(block) // (4 * self.channels)
            yield torch.frombuffer(bytearray(block), dtype=torch.float32).view(-1, self.channels).T
        self._check_end(num_read / self.sample_rate)

    def _check_end(self, seconds: float) -> None:
        """Warn of what ffmpeg reported, and of a missing end."""
        if change := describe_change(self._info.sample_rate, self._decoder.messages.changes):
            self.warnings.append(change)
        if message := self._decoder.messages.summarize(self._info.pictures):
            self._warn_damaged(f"ffmpeg: {message}")
        if not self._damaged and (missing := find_missing_end(self._info, seconds, self.path, self._program)):
            self._warn_damaged(missing)
