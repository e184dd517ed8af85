"""Read audio files of any format, rate and channel count as a stream of blocks at one sample rate.

libsndfile reads uncompressed files and FLAC of that rate and a known length; ffmpeg decodes and resamples the
rest. Codings whose frames refer to the frames before, as MP3 in a WAV, are not read through soundfile, which
seeks after every block. A damaged file yields what can be decoded, and a warning about what is missing.

Shape legend: blocks are [channels, samples], float32.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from apollo.audio.containers import read_sample_bytes
from apollo.audio.decoding import MAX_CHANNELS, MAX_SECONDS, Decoder
from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.parts import find_damage
from apollo.audio.probing import describe_choice, find_missing_end, probe
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
            self._check_header()
            sound = open_sound(self.path)
        except OSError as error:
            raise AudioError(
                f"cannot be opened: {os.strerror(error.errno or 0)}", RejectKind.UNOPENED
            ) from error
        if sound is not None:
            self._stack.enter_context(sound)
            self.tags = {key: value for key in _TAGS if (value := getattr(sound, key, ""))}
            self.source_rate = sound.samplerate
            self.source_frames = sound.frames if has_length(sound) else None
            self.coding, self.lossy = f"{sound.format} {sound.subtype}".lower(), not is_lossless(sound)
        if sound is not None and sound.samplerate == self.sample_rate and reads_in_pieces(sound):
            self._sound, self.channels, self.frames = sound, sound.channels, sound.frames
        else:
            self._open_decoder()
        if self.channels > MAX_CHANNELS:
            raise AudioError(f"has {self.channels} channels, more than {MAX_CHANNELS}")
        if self.frames is not None:
            self.estimated_frames = self.frames
        if self.frames is not None and self.frames > MAX_SECONDS * self.sample_rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours", RejectKind.TOO_LONG)

    def _check_header(self) -> None:
        """Compare what the file declares with what it contains."""
        with open(self.path, "rb") as stream:
            samples = read_sample_bytes(stream, os.path.getsize(self.path))
        damage = find_damage(self.path) or (None if samples is None else samples.find_truncation())
        if damage:
            self._warn_damaged(damage)
        if samples is not None and (excess := samples.find_excess()):
            self.warnings.append(excess)

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
        decoder = Decoder(self.path, program, sample_rate=self.sample_rate, stereo=None, strict=False)
        self._decoder = self._stack.enter_context(decoder)
        self.channels = decoder.channels

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
            self._warn_truncated(num_read + pending, "no more samples")

    def _read_pieces(self) -> Iterator[Tensor]:
        """Read small pieces, since libsndfile returns nothing from a read that meets damage."""
        import soundfile

        num_read = 0
        while True:
            try:
                piece = self._sound.read(_PIECE_FRAMES, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                if not num_read:
                    raise AudioError(
                        f"cannot be decoded: {error.error_string}", RejectKind.UNDECODABLE
                    ) from error
                self._warn_truncated(num_read, error.error_string)
                return
            if not len(piece):
                return
            num_read += len(piece)
            yield torch.from_numpy(piece).T

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
        initial = f"{self._info.sample_rate} Hz, {self._info.layout}"
        if others := [format for format in self._decoder.messages.formats if format != initial]:
            self.warnings.append(
                f"changes midway from {initial} to {others[0]}: resampled, and mixed into the first channels"
            )
        if message := self._decoder.messages.summarize(self._info.pictures):
            self._warn_damaged(f"ffmpeg: {message}")
        if not self._damaged and (missing := find_missing_end(self._info, seconds, self.path, self._program)):
            self._warn_damaged(missing)
