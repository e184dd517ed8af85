"""Bytes of audio in a bitstream, without headers and containers: what a real bitrate is measured by."""

from apollo.audio import mp3

_PAGE_HEADER = 27  # of Ogg, up to the table of segments


def measure_bitrate(stream: bytes, seconds: float) -> int:
    """Return the mean bitrate of an MP3, Ogg or MP4 file, in bits per second.

    Raises:
        ValueError: it is none of them, or damaged.
    """
    if stream[:4] == b"OggS":
        size = _ogg_payload(stream)
    elif stream[4:8] == b"ftyp":
        size = _mp4_payload(stream)
    else:
        return mp3.parse(stream).bitrate_bps
    return round(8 * size / seconds)


def _ogg_payload(stream: bytes) -> int:
    """Sum the sizes of pages with audio: those of headers end at position 0 (RFC 3533, RFC 7845)."""
    total = at = 0
    while at < len(stream):
        header = stream[at : at + _PAGE_HEADER]
        if len(header) < _PAGE_HEADER or header[:4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {at}")
        segments = stream[at + _PAGE_HEADER : at + _PAGE_HEADER + header[26]]
        if any(header[6:14]):
            total += sum(segments)
        at += _PAGE_HEADER + len(segments) + sum(segments)
    return total


def _mp4_payload(stream: bytes) -> int:
    """Return the size of the box of media data (ISO/IEC 14496-12)."""
    at = 0
    while at + 8 <= len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        if stream[at + 4 : at + 8] == b"mdat":
            return size - 8
        if size < 8:
            break
        at += size
    raise ValueError("the MP4 file has no media data")
