"""Open files with libsndfile, and say which of them it reads exactly in pieces."""

import os
from functools import cache
from typing import Any

_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
_LINEAR_CODINGS = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
_ALAC_CODINGS = frozenset({"ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"})
# a sample needs no sample before it, or none before its block, where libsndfile begins
_PIECEWISE_CODINGS = _LINEAR_CODINGS | _ALAC_CODINGS | {"ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"}
_LOSSLESS_CODINGS = _LINEAR_CODINGS | _ALAC_CODINGS | {"DWVW_12", "DWVW_16", "DWVW_24"}
_UNKNOWN_FRAMES = 1 << 40


def open_sound(path: str, *, sequentially: bool = False) -> Any:
    """Open a file with libsndfile for reading.

    Args:
        path: Its path, of any length: libsndfile itself refuses more than 1,024 bytes.
        sequentially: Whether it is read strictly from beginning to end, as codings need whose frames refer to
            the frames before: soundfile seeks after every read of a file that can be seeked.

    Returns:
        A `soundfile.SoundFile`; None if libsndfile cannot read the file.

    Raises:
        OSError: it cannot be opened.
    """
    import soundfile

    try:
        return _owning_class(sequentially)(os.open(path, os.O_RDONLY), "r")
    except soundfile.LibsndfileError:
        return None


def create_sound(path: str, *options: Any, **named_options: Any) -> Any:
    """Create a file with libsndfile, at a path of any length; it must not exist.

    Args:
        path: Its path.
        options: Of `soundfile.SoundFile`, after the mode.
        named_options: The same.

    Raises:
        OSError: it cannot be created, or exists.
        soundfile.LibsndfileError: the options do not fit.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    return _owning_class(sequentially=False)(descriptor, "w", *options, **named_options)


@cache
def _owning_class(sequentially: bool) -> Any:
    """Return a SoundFile over a descriptor that it closes itself: libsndfile may or may not, on failure."""
    import soundfile

    class OwningSoundFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
        def __init__(self, descriptor: int, *options: Any, **named_options: Any) -> None:
            self._descriptor: int | None = descriptor
            unfinished = options[:1] == ("r",) and _UnfinishedAu.matches(descriptor)
            source = _UnfinishedAu(descriptor) if unfinished else descriptor
            try:
                super().__init__(source, *options, closefd=False, **named_options)
            except BaseException:
                self._close_descriptor()
                raise

        def seekable(self) -> bool:
            return not sequentially and super().seekable()

        def close(self) -> None:
            try:
                super().close()
            finally:
                self._close_descriptor()

        def _close_descriptor(self) -> None:
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)

    return OwningSoundFile


class _UnfinishedAu:
    """AU file that declares no samples, as a file object that declares an unknown number of them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    @staticmethod
    def matches(descriptor: int) -> bool:
        """Return whether a file is one."""
        header = os.pread(descriptor, 12, 0)
        return header[:4] == b".snd" and header[8:] == bytes(4)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as files do."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def read(self, size: int) -> bytes:
        """Read, with the declared size replaced."""
        content = bytearray(os.pread(self._descriptor, size, self._at))
        for position in range(max(8 - self._at, 0), min(12 - self._at, len(content))):
            content[position] = 0xFF
        self._at += len(content)
        return bytes(content)


def reads_in_pieces(sound: Any) -> bool:
    """Return whether reads of a file may begin anywhere: its coding allows it and its length is known."""
    return sound.format in _CONTAINERS and sound.subtype in _PIECEWISE_CODINGS and has_length(sound)


def has_length(sound: Any) -> bool:
    """Return whether a file's length is known: 2^63 - 1 is not a length."""
    return bool(0 < sound.frames < _UNKNOWN_FRAMES)


def needs_libsndfile(sound: Any) -> bool:
    """Return whether ffmpeg does not know a file's coding, or takes it for another one."""
    others = sound.subtype in _PIECEWISE_CODINGS or sound.subtype.startswith("MPEG_")
    return sound.format in _CONTAINERS and not others


def is_lossless(sound: Any) -> bool:
    """Return whether a file's coding keeps every sample."""
    return sound.subtype in _LOSSLESS_CODINGS
