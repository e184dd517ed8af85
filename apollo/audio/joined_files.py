"""Find where further files begin in a file that several were joined to, as `cat a.flac b.flac` does.

Decoders end with the first file, or take the header of the next one for samples. A signature is at least
seven bytes that are fixed, or nearly, so that samples do not look like one.
"""

import re
from dataclasses import dataclass

from apollo.audio.containers import Readable

_BLOCK_BYTES = 1 << 22
MAX_FILES = 100
_WITH_FOURTH_BIT = b"".join(b"\\x%02x" % value for value in range(256) if value & 8)


@dataclass(frozen=True)
class _Signature:
    """How a file of a format begins.

    Args:
        anchor: Bytes to search for.
        before: Number of bytes of the file in front of them.
        pattern: The first bytes of the file.
    """

    anchor: bytes
    before: int
    pattern: re.Pattern[bytes]


def _sign(anchor: bytes, before: int, pattern: bytes) -> _Signature:
    return _Signature(anchor, before, re.compile(pattern, re.DOTALL))


_SIGNATURES = (
    _sign(b"WAVE", 8, rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE"),
    _sign(b"AIF", 8, rb"FORM.{4}AIF[FC]"),
    _sign(b".snd", 0, rb"\.snd\0\0.{2}.{4}\0{3}[\x01-\x1b]\0.{3}\0{3}[\x01-\x20]"),
    _sign(b"caff\0\x01\0\0desc", 0, rb"caff"),
    _sign(b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0", 0, rb"riff"),
    _sign(b"fLaC", 0, rb"fLaC[\0\x80]\0\0\x22"),
    _sign(b"TTA1", 0, rb"TTA1[\x01-\x03]\0.\0"),
    _sign(b"wvpk", 0, rb"wvpk.{5}\x04.\0.{4}\0{4}(?!\0{4}).{5}[" + _WITH_FOURTH_BIT + rb"]"),
    _sign(b"ftyp", 4, rb"\0{3}.ftyp(?!hei|mif1|msf1|avi)[ -~]{4}"),
    _sign(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", 0, rb"\x30"),  # ASF: WMA
    _sign(b"\x1a\x45\xdf\xa3", 0, rb"\x1a\x45\xdf\xa3.{1,8}\x42\x86\x81\x01"),  # Matroska, WebM
    _sign(b"Creative Voice File\x1a", 0, rb"Creative"),
)
_HEADER_BYTES = 48  # more than any pattern


def find_joined_files(stream: Readable) -> list[int]:
    """Return where files of the first one's format begin: 0, and where others follow.

    Args:
        stream: The file, seekable.

    Returns:
        [0] for other formats, and for a single file; at most a few more than MAX_FILES.
    """
    stream.seek(0)
    start = stream.read(_HEADER_BYTES)
    signature = next((item for item in _SIGNATURES if item.pattern.match(start)), None)
    starts = [0]
    if signature is None:
        return starts
    anchor = re.compile(re.escape(signature.anchor))
    at = 1
    while len(starts) <= MAX_FILES:
        stream.seek(at)
        block = stream.read(_BLOCK_BYTES + _HEADER_BYTES)
        for found in anchor.finditer(block):
            begin = found.start() - signature.before
            if 0 <= begin < _BLOCK_BYTES and signature.pattern.match(block, begin):
                starts.append(at + begin)
        at += _BLOCK_BYTES
        if len(block) < _BLOCK_BYTES + _HEADER_BYTES:
            break
    return starts
