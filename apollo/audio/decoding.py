"""Decode any audio file through ffmpeg, as a stream of samples in bounded memory.

Files are untrusted: ffmpeg may open this one file only, as audio only, and is killed when it stalls. Parts of
a file that differ in sample rate or channels are decoded apart, by a process each. Where ffmpeg decodes
nothing, libsndfile is asked. ffmpeg returns 0 on a truncated file: `find_damage` (apollo.audio.parts) and
`find_missing_end` (apollo.audio.probing) tell what is missing.
"""

import os
from dataclasses import replace
from types import TracebackType
from typing import Any

from apollo.audio.ffmpeg import Messages, input_arguments
from apollo.audio.parts import Part, find_parts
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.sample_stream import SAMPLE_BYTES, SampleStream, decode_command
from apollo.audio.soundfiles import needs_libsndfile, open_sound

MAX_SECONDS = 12 * 3600  # small files can decode to arbitrarily much audio
SLACK_SECONDS = 0.1  # containers round durations
MAX_CHANNELS = 32  # the largest layouts have 24; every channel costs the same, silent or not
_EXTENSIONS = (
    "3g2 3ga 3gp aac ac3 aif aifc aiff amr ape asf au avi bwf caf dff dsf dts eac3 f4a flac flv m2ts m4a m4b "
    "m4r m4v mka mkv mov mp2 mp3 mp4 mpa mpc mpeg mpg mpga mts oga ogg ogv ogx opus ra rf64 rm shn snd spx "
    "tak ts tta voc vob w64 wav wave webm wma wmv wv"
)
EXTENSIONS = frozenset(_EXTENSIONS.split())


class Decoder:
    """Decode a file with ffmpeg; a context manager.

    Args:
        path: The file.
        program: ffmpeg.
        sample_rate: Output rate in Hz; soxr resamples.
        stereo: Channel layout to convert to stereo, mono at unchanged level on both sides. None keeps the
            channels; parts with fewer than the file's largest number get them by copies of mono, or silence.
        strict: Whether damage is an error. Otherwise as much as possible is decoded.
        stream: Number of the audio stream in the file, from 0.

    Attributes:
        channels: Number of channels of the samples.
        messages: What ffmpeg reported; complete after the last block.
    """

    def __init__(
        self,
        path: str,
        program: str,
        *,
        sample_rate: int,
        stereo: str | None,
        strict: bool,
        stream: int = 0,
    ) -> None:
        self._path, self._program, self._rate = path, program, sample_rate
        self._stereo, self._strict, self._stream = stereo, strict, stream
        self._frames = 0
        self.channels = 0
        self.messages = Messages()

    def __enter__(self) -> "Decoder":
        try:
            found = find_parts(self._path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise AudioError(f"cannot be opened: {reason}", RejectKind.UNOPENED) from error
        self._parts = list(found.parts)
        self._whole = found.parts == (Part(0, found.size, found.parts[0].channels),)
        if len(self._parts) > 1:
            self._parts = [self._count_channels(part) for part in self._parts]
        most_channels = max(part.channels for part in self._parts)
        self._process = self._open_first()
        self.channels = self._process.channels
        if self._stereo is None:
            self.channels = max(self.channels, most_channels)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()

    def read(self, frames: int) -> bytes:
        """Return up to `frames` frames, interleaved float32 in native byte order; empty at the end.

        Raises:
            AudioError: the file cannot be decoded, or is longer than MAX_SECONDS.
            FfmpegError: ffmpeg stalled.
        """
        while not (block := self._process.read(frames)):
            self._process.check_end(failed=self._strict or not self._frames)
            self.messages.add(self._process.messages())
            self._process.close()
            if not self._parts:
                if not self._frames:
                    raise AudioError("the file contains no samples", RejectKind.EMPTY)
                return b""
            self._open_next()
        self._frames += len(block) // (self._process.channels * SAMPLE_BYTES)
        if self._frames > MAX_SECONDS * self._rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours", RejectKind.TOO_LONG)
        return _add_channels(block, self._process.channels, self.channels)

    def _start(self, part: Part, *, strict: bool, unmixed: bool = False) -> SampleStream:
        layout = None if unmixed else self._stereo
        if layout is not None and part.channels:
            layout = "mono" if part.channels == 1 else "stereo"
        source = input_arguments(self._path, None if self._whole else (part.start, part.end))
        return SampleStream(decode_command(self._program, source, self._rate, layout, strict, self._stream))

    def _count_channels(self, part: Part) -> Part:
        """Return a part with its number of channels, 0 if it cannot be decoded."""
        if part.channels:
            return part
        try:
            process = self._start(part, strict=False, unmixed=True)
        except AudioError:
            return part
        process.close()
        return replace(part, channels=process.channels)

    def _open_first(self) -> SampleStream:
        first = self._parts.pop(0)
        sound = open_sound(self._path, sequentially=True)
        if sound is not None and needs_libsndfile(sound):
            return self._start_with(sound)
        try:
            return self._start(first, strict=self._strict)
        except AudioError:
            if sound is None or self._parts or self._is_damaged(first):
                raise
            return self._start_with(sound)

    def _start_with(self, sound: Any) -> SampleStream:
        """Resample what libsndfile decodes."""
        source = ["-f", "f32le", "-ar", str(sound.samplerate), "-ac", str(sound.channels), "-i", "pipe:0"]
        layout = "mono" if self._stereo is not None and sound.channels == 1 else self._stereo
        return SampleStream(decode_command(self._program, source, self._rate, layout, self._strict), sound)

    def _is_damaged(self, first: Part) -> bool:
        """Return whether ffmpeg decodes any samples when it is not strict."""
        if not self._strict:
            return False
        try:
            self._start(first, strict=False).close()
        except AudioError:
            return False
        return True

    def _open_next(self) -> None:
        part = self._parts.pop(0)
        try:
            self._process = self._start(part, strict=self._strict)
        except AudioError as error:
            if self._strict:
                raise
            self.messages.errors.append(f"bytes {part.start} to {part.end}: {error}")


def _add_channels(block: bytes, channels: int, wanted: int) -> bytes:
    """Return samples with more channels: copies of mono, or silence beside several."""
    if channels == wanted:
        return block
    import torch

    samples = torch.frombuffer(bytearray(block), dtype=torch.float32).view(-1, channels)
    result = torch.zeros(len(samples), wanted)
    result[:, : wanted if channels == 1 else channels] = samples
    return result.numpy().tobytes()
