"""Headers of an MP3 stream: frames, bitrates, and the gapless tag with LAME's delay and padding.

Sources: ISO/IEC 11172-3 and 13818-3 (frame header), the LAME Tag specification (delay and padding in three
bytes at offset 21), and the descriptions of the ID3v1, APE and Lyrics3 tags.
"""

from dataclasses import dataclass
from mmap import mmap

_BITRATES_KBPS = {  # by MPEG version: Layer III, indices 1 to 14
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MONO = 3
_ID3V1_BYTES = 128
_LYRICS3V1_BYTES = 5_200
Content = bytes | mmap


@dataclass(frozen=True)
class Mp3Info:
    """Properties of an MP3 bitstream, from its headers.

    Args:
        sample_rate: Hz.
        bitrate_bps: Mean over the audio frames, rounded; exact at constant bitrate.
        frames: Number of audio frames, without the tag's own frame.
        samples: Samples per channel that a gapless decoder returns; None without a gapless tag.
        missing_frames: Frames that the tag declares and the stream does not contain.
        sections: Position in bytes and number of channels, from where on they or the sample rate are others.
        constant: Whether all frames have the same bitrate.
        encoder: Name in the gapless tag, such as `LAME3.100`; empty if there is none.
    """

    sample_rate: int
    bitrate_bps: int
    frames: int
    samples: int | None
    missing_frames: int
    sections: tuple[tuple[int, int], ...] = ()
    constant: bool = True
    encoder: str = ""


@dataclass(frozen=True)
class _Header:
    version: int
    sample_rate: int
    channels: int
    bitrate_bps: int
    length: int
    samples: int
    side_info: int


def is_frame(start: bytes) -> bool:
    """Return whether these bytes can be the beginning of a Layer III frame."""
    return len(start) >= 2 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2


def _header(stream: Content, at: int) -> _Header | None:
    if at + 4 > len(stream) or not is_frame(stream[at : at + 2]):
        return None
    version_bits, protected = stream[at + 1] >> 3 & 3, not stream[at + 1] & 1
    bitrate_index, rate_index, padding = stream[at + 2] >> 4, stream[at + 2] >> 2 & 3, stream[at + 2] >> 1 & 1
    if version_bits == 1 or rate_index == 3 or not 0 < bitrate_index < 15:
        return None
    version = 1 if version_bits == 3 else 2
    sample_rate = _SAMPLE_RATES[version_bits][rate_index]
    bitrate_bps = _BITRATES_KBPS[version][bitrate_index - 1] * 1000
    mono = stream[at + 3] >> 6 == _MONO
    side_info = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[version, mono]
    slots = 144 if version == 1 else 72
    return _Header(
        version,
        sample_rate,
        1 if mono else 2,
        bitrate_bps,
        slots * bitrate_bps // sample_rate + padding,
        1152 if version == 1 else 576,
        side_info + (2 if protected else 0),
    )


def skip_id3(stream: Content) -> int:
    """Return where the audio begins after an ID3v2 tag; 0 if there is none."""
    if stream[:3] != b"ID3" or len(stream) < 10:
        return 0
    size = stream[6] << 21 | stream[7] << 14 | stream[8] << 7 | stream[9]
    return size + (20 if stream[5] & 0x10 else 10)


def parse(stream: Content) -> Mp3Info:
    """Parse the frame headers of a complete MP3 stream.

    Raises:
        ValueError: there is no frame at the start (after an ID3 tag).
    """
    at = skip_id3(stream)
    first = _header(stream, at)
    if first is None:
        raise ValueError(f"no MPEG audio frame at byte {at}")
    tag = stream[at + 4 + first.side_info : at + first.length]
    tagged = tag[:4] in (b"Xing", b"Info")
    if tagged:
        at += first.length
    frames, bits, form = 0, 0, None
    bitrates = set()
    sections = []
    while (header := _header(stream, at)) is not None and at + header.length <= len(stream):
        if form != (header.sample_rate, header.channels):
            form = header.sample_rate, header.channels
            sections.append((at, header.channels))
        frames, bits, at = frames + 1, bits + header.bitrate_bps, at + header.length
        bitrates.add(header.bitrate_bps)
    samples, missing, encoder = None, 0, ""
    if tagged:
        samples, missing = _gapless(tag, first.samples, frames)
        encoder = _read_encoder(tag)
    bitrate_bps = round(bits / frames) if frames else 0
    constant = len(bitrates) < 2
    return Mp3Info(
        first.sample_rate, bitrate_bps, frames, samples, missing, tuple(sections), constant, encoder
    )


def find_end(stream: Content) -> int:
    """Return where the tags begin that taggers append after the last frame: ID3v1, APE, Lyrics3."""
    end = len(stream)
    while (start := _before_tag(stream, end)) < end:
        end = start
    return end


def _before_tag(stream: Content, end: int) -> int:
    """Return where the tag begins that ends at `end`; `end` if none does."""
    start = end
    foot = stream[max(end - 32, 0) : end]
    if end >= _ID3V1_BYTES and stream[end - _ID3V1_BYTES : end - _ID3V1_BYTES + 3] == b"TAG":
        start = end - _ID3V1_BYTES
    elif foot[:8] == b"APETAGEX":  # its size counts the footer, not the header
        start = end - int.from_bytes(foot[12:16], "little") - (32 if foot[23] & 0x80 else 0)
    elif foot[-9:] == b"LYRICS200" and foot[-15:-9].isdigit():
        start = end - 15 - int(foot[-15:-9])
    elif foot[-9:] == b"LYRICSEND":
        start = stream.rfind(b"LYRICSBEGIN", max(end - _LYRICS3V1_BYTES, 0), end)
    return start if start >= 0 else end


def _find_encoder(tag: bytes) -> int:
    """Return where the encoder's name stands in a Xing/Info tag: after the fields that its flags name."""
    flags = int.from_bytes(tag[4:8], "big")
    sizes = (4, 4, 100, 4)
    return 8 + sum(size for bit, size in enumerate(sizes) if flags >> bit & 1)


def _read_encoder(tag: bytes) -> str:
    at = _find_encoder(tag)
    name = tag[at : at + 9].rstrip(b"\0 ")
    return name.decode("ascii") if name.isascii() and name.decode("ascii").isprintable() else ""


def _gapless(tag: bytes, samples_per_frame: int, frames: int) -> tuple[int | None, int]:
    """Read a Xing/Info tag: samples after trimming (None without delays), and number of missing frames."""
    missing = 0
    if int.from_bytes(tag[4:8], "big") & 1:
        missing = max(int.from_bytes(tag[8:12], "big") - frames, 0)
    at = _find_encoder(tag)
    delays = tag[at + 21 : at + 24]
    if len(delays) < 3 or not any(tag[at : at + 9]):
        return None, missing
    delay, padding = delays[0] << 4 | delays[1] >> 4, (delays[1] & 0x0F) << 8 | delays[2]
    return frames * samples_per_frame - delay - padding, missing
