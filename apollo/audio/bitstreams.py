"""Container, bitrate and encoder of an audio file, from its own bytes.

Nothing is taken from messages of a decoder, in which a file's tags could imitate them.
"""

import mmap
import os
from dataclasses import dataclass

from apollo.audio import mp3
from apollo.audio.end_tags import after_id3
from apollo.audio.parts import find_parts
from apollo.audio.probing import AudioInfo, measure_packets

_HEAD_BYTES = 1 << 16
_CONTAINERS = (  # by the first bytes; those of one container have the same length
    ("FLAC", 0, (b"fLaC",)),
    ("WAV", 0, (b"RIFF", b"RF64", b"BW64", b"RIFX")),
    ("Ogg", 0, (b"OggS",)),
    ("MP4", 4, (b"ftyp",)),
    ("AIFF", 0, (b"FORM",)),
    ("Matroska", 0, (b"\x1a\x45\xdf\xa3",)),
    ("CAF", 0, (b"caff",)),
    ("Wave64", 0, (b"riff",)),
    ("AU", 0, (b".snd",)),
    ("Monkey's Audio", 0, (b"MAC ",)),
    ("WavPack", 0, (b"wvpk",)),
    ("TTA", 0, (b"TTA1",)),
    ("TAK", 0, (b"tBaK",)),
    ("ASF", 0, (b"\x30\x26\xb2\x75",)),
    ("DSF", 0, (b"DSD ",)),
    ("Musepack", 0, (b"MPCK",)),
    ("FLV", 0, (b"FLV",)),
    ("AMR", 0, (b"#!AMR",)),
)
_VENDORS = (b"\x03vorbis", b"OpusTags")
_VENDOR_BLOCK = 4  # of FLAC: the comments


@dataclass(frozen=True)
class Bitstream:
    """What the bytes of an audio file say about it.

    Args:
        container: Name of the format of the file; empty if it is none of the known ones.
        bitrate_bps: Mean bitrate; of lossy codecs without tags and pictures, None if unknown.
        bitrate_mode: `constant` or `variable`; None for lossless codecs.
        encoder: Name that the encoder left; empty if there is none.
    """

    container: str
    bitrate_bps: int | None
    bitrate_mode: str | None
    encoder: str


def read_bitstream(path: str, program: str, info: AudioInfo, seconds: float) -> Bitstream:
    """Read what a file says about its coding.

    Args:
        path: The file.
        program: ffmpeg.
        info: Its properties.
        seconds: Its duration, 0 if unknown.

    Raises:
        OSError: the file cannot be read.
        FfmpegError: ffmpeg timed out.
    """
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = after_id3(content)
        head = content[start : start + _HEAD_BYTES]
        container, encoder = _name_container(head), _read_vendor(head)
        if info.codec == "mp3" and not container:
            container = "MP3"
            try:
                headers = mp3.parse(content)
            except ValueError:
                pass  # free format, or other bytes before the first frame
            else:
                mode = "constant" if headers.constant else "variable"
                return Bitstream(container, headers.bitrate_bps or None, mode, headers.encoder)
    if info.codec == "aac" and not container:
        container = "ADTS"
    if not info.lossy:
        size = os.path.getsize(path)
        return Bitstream(container, round(size * 8 / seconds) if seconds else None, None, encoder)
    size, constant = measure_packets(path, program)
    bitrate_bps = round(size * 8 / seconds) if seconds and len(find_parts(path).parts) == 1 else None
    return Bitstream(container, bitrate_bps, "constant" if constant else "variable", encoder)


def _name_container(head: bytes) -> str:
    for name, position, marks in _CONTAINERS:
        if head[position : position + len(marks[0])] in marks:
            return name
    return ""


def _read_vendor(head: bytes) -> str:
    """Return the name of the encoder in the comments of Vorbis, Opus and FLAC."""
    for mark in _VENDORS:
        at = head.find(mark)
        if at >= 0 and head.startswith(b"OggS"):
            return _read_string(head, at + len(mark))
    if head.startswith(b"fLaC"):
        at = 4
        while at + 4 <= len(head):
            kind, length = head[at], int.from_bytes(head[at + 1 : at + 4], "big")
            if kind & 0x7F == _VENDOR_BLOCK:
                return _read_string(head, at + 4)
            if kind & 0x80:
                break
            at += 4 + length
    return ""


def _read_string(head: bytes, at: int) -> str:
    length = int.from_bytes(head[at : at + 4], "little")
    text = head[at + 4 : at + 4 + min(length, 80)].decode(errors="replace")
    return "".join(letter for letter in text if letter.isprintable()).strip()
