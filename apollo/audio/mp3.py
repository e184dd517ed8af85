"""Headers of an MP3 stream: frames, bitrates, and the gapless tag with LAME's delay and padding.

Sources: ISO/IEC 11172-3 and 13818-3 (frame header), the LAME Tag specification (delay and padding in three
bytes at offset 21).
"""

from dataclasses import dataclass
from typing import NamedTuple

from apollo.audio.end_tags import Content, after_id3, after_tags_and_zeros

_BITRATES_KBPS = {  # by MPEG version: Layer III, indices 1 to 14
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MONO = 3


class Section(NamedTuple):
    """Range of frames that have one sample rate and number of channels, and belong to one stream.

    Args:
        start: Position of the first frame, which may be the gapless tag.
        end: Position after the last frame.
        channels: Number of channels.
    """

    start: int
    end: int
    channels: int


@dataclass(frozen=True)
class Mp3Info:
    """Properties of an MP3 bitstream, from its headers.

    Args:
        sample_rate: Hz.
        bitrate_bps: Mean over the audio frames, rounded; exact at constant bitrate.
        frames: Number of audio frames, without the tag's own frame.
        samples: Samples per channel that a gapless decoder returns; None without a gapless tag.
        missing_frames: Frames that the tag declares and the stream does not contain.
        sections: Frames that must be decoded apart.
        constant: Whether all frames have the same bitrate.
        encoder: Name in the first gapless tag, such as `LAME3.100`; empty if there is none.
        hole: Position of zeros within a stream, None if there are none.
    """

    sample_rate: int
    bitrate_bps: int
    frames: int
    samples: int | None
    missing_frames: int
    sections: tuple[Section, ...] = ()
    constant: bool = True
    encoder: str = ""
    hole: int | None = None


@dataclass(frozen=True)
class _Header:
    version: int
    sample_rate: int
    channels: int
    bitrate_bps: int
    length: int
    samples: int
    side_info: int

    @property
    def form(self) -> tuple[int, int]:
        """What may not change within a section."""
        return self.sample_rate, self.channels


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


def parse(stream: Content) -> Mp3Info:
    """Parse the frame headers of an MP3, and of those that were joined to it.

    Raises:
        ValueError: there is no frame at the start (after tags and zeros).
    """
    at = find_start(stream)
    first = None if at is None else _header(stream, at)
    if at is None or first is None:
        raise ValueError(f"no MPEG audio frame at byte {after_tags_and_zeros(stream, 0)[0]}")
    state = _Parsing(stream)
    following: int | None = at
    while following is not None:
        following = state.read_stream(following)
    return Mp3Info(
        first.sample_rate,
        round(state.bits / state.frames) if state.frames else 0,
        state.frames,
        sum(filter(None, state.samples)) if None not in state.samples else None,
        state.missing,
        tuple(state.sections),
        len(state.bitrates) < 2,
        state.encoder,
        state.hole,
    )


class _Parsing:
    """What was read of an MP3 so far."""

    def __init__(self, stream: Content) -> None:
        self._stream = stream
        self.frames = self.bits = self.missing = 0
        self.samples: list[int | None] = []
        self.sections: list[Section] = []
        self.hole: int | None = None
        self.bitrates: set[int] = set()
        self.encoder = ""

    def read_stream(self, at: int) -> int | None:
        """Read the frames from `at` on, and return where those of another stream begin, None if none do."""
        stream, start, frames, form = self._stream, at, 0, None
        first = _header(stream, at)
        tag = b"" if first is None else stream[at + 4 + first.side_info : at + first.length]
        tagged = tag[:4] in (b"Xing", b"Info")
        if first is not None and tagged:
            at += first.length
            self.encoder = self.encoder or _read_encoder(tag)
        following = None
        while True:
            header, end = _header(stream, at), at
            if header is None or at + header.length > len(stream):
                found = _find_next(stream, at)
                if found is None or found.is_new:
                    following = None if found is None else found.at
                    break
                if found.zeros and self.hole is None:
                    self.hole = at
                at, header = found.at, found.header
            if form is not None and form != header.form:
                self.sections.append(Section(start, end, form[1]))
                start = at
            form = header.form
            frames, self.bits, at = frames + 1, self.bits + header.bitrate_bps, at + header.length
            self.bitrates.add(header.bitrate_bps)
        if form is not None:
            self.sections.append(Section(start, at, form[1]))
        samples, missing = _gapless(tag, first.samples, frames) if first is not None and tagged else (None, 0)
        self.samples.append(samples)
        self.frames, self.missing = self.frames + frames, self.missing + missing
        return following


class _Next(NamedTuple):
    """First frame after a gap.

    Args:
        at: Its position.
        header: Its header.
        is_new: Whether it begins a stream: it needs no bits of frames before it.
        zeros: Whether the gap consists of zeros alone.
    """

    at: int
    header: _Header
    is_new: bool
    zeros: bool


def _find_next(stream: Content, at: int) -> _Next | None:
    """Return the first frame after tags and zeros, None if there are none or something else follows."""
    start, has_tags = after_tags_and_zeros(stream, at)
    header = _header(stream, start) if start > at else None
    if header is None or start + header.length > len(stream):
        return None
    after = start + header.length
    if _header(stream, after) is None and after_tags_and_zeros(stream, after)[0] < len(stream):
        return None  # samples of something else that look like a header
    side_info_at = start + (4 if stream[start + 1] & 1 else 6)
    side_info = stream[side_info_at : side_info_at + 2]
    # main_data_begin, its first 9 or 8 bits: how many bytes of the frames before it needs
    needed = int.from_bytes(side_info, "big") >> (7 if header.version == 1 else 8)
    return _Next(start, header, not needed, not has_tags)


def find_start(stream: Content) -> int | None:
    """Return where the first frame begins, after tags and zeros; None if something else does."""
    if _header(stream, at := after_id3(stream)) is not None:
        return at
    found = _find_next(stream, 0)
    return None if found is None else found.at


def starts_plainly(stream: Content) -> bool:
    """Return whether nothing precedes the first frame but an ID3 tag."""
    return find_start(stream) == after_id3(stream)


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
