"""Output formats and options for restoring songs; no torch import, to keep `apollo --help` fast."""

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OutputFormat:
    """How a format is written.

    Args:
        container: Format of libsndfile; muxer of ffmpeg, if there is an encoder.
        extension: Of the file name.
        coding: Sample format of libsndfile, or encoder of ffmpeg.
        bits: Of an integer sample, None for floating point.
        layouts: Channel layouts by number of channels; empty: libsndfile knows none.
        max_channels: Where layouts do not say it.
        rates: Sample rates in Hz; empty: all.
        bitrate_bps: Of a channel, of a lossy codec.
        max_bitrate_bps: Of all channels; the least, too, if `bitrate_bps` is None.
    """

    container: str
    extension: str
    coding: str
    bits: int | None = None
    layouts: Mapping[int, str] = field(default_factory=dict)
    max_channels: int = 1024
    rates: tuple[int, ...] = ()
    bitrate_bps: int | None = None
    max_bitrate_bps: int | None = None

    @property
    def is_encoded(self) -> bool:
        """Whether ffmpeg writes it."""
        return bool(self.layouts)

    def choose_rate(self, rate: int) -> int:
        """Return the sample rate that the format has for audio of a rate: itself, or the next that it has."""
        if not self.rates or rate in self.rates:
            return rate
        divisors = [one for one in self.rates if rate % one == 0]
        above = [one for one in self.rates if one > rate]
        return min(above, default=max(divisors, default=max(self.rates)))


# those whose channels the bundled ffmpeg decodes in the order in which it encoded them
_TWO = {1: "mono", 2: "stereo"}
_ALAC = {**_TWO, 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1(back)", 8: "7.1(wide)"}
_AAC = {**_TWO, 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1(back)", 8: "7.1"}
_OPUS = {**_TWO, 3: "3.0", 4: "quad", 6: "5.1", 8: "7.1"}
_AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
FORMATS = {
    "float": OutputFormat("WAV", "wav", "FLOAT"),
    "wav24": OutputFormat("WAV", "wav", "PCM_24", 24),
    "wav16": OutputFormat("WAV", "wav", "PCM_16", 16),
    "flac24": OutputFormat("FLAC", "flac", "PCM_24", 24, max_channels=8),
    "flac16": OutputFormat("FLAC", "flac", "PCM_16", 16, max_channels=8),
    "alac24": OutputFormat("ipod", "m4a", "alac", 24, _ALAC),
    "alac16": OutputFormat("ipod", "m4a", "alac", 16, _ALAC),
    "aac": OutputFormat("ipod", "m4a", "aac", None, _AAC, rates=_AAC_RATES, bitrate_bps=128_000),
    "opus": OutputFormat("opus", "opus", "libopus", None, _OPUS, rates=(48_000,), bitrate_bps=96_000),
    "mp3": OutputFormat(
        "mp3", "mp3", "libmp3lame", None, _TWO, rates=(32_000, 44_100, 48_000), max_bitrate_bps=320_000
    ),
}
BIT_DEPTHS = (16, 24)
_WITH_BIT_DEPTH = ("wav", "flac", "alac")  # short for those of 24 bits, or of --bit_depth
FORMAT_NAMES = (*FORMATS, *_WITH_BIT_DEPTH)
RATES = ("44100", "same")
CLIP_MODES = ("rescale", "clamp", "none")
CHUNK_SECONDS = 5.0
MAX_STRENGTH = 1.5
_FIELDS = ("stem", "name", "parent")


@dataclass(frozen=True, kw_only=True)
class SongsConfig:
    """Options for restoring songs.

    Args:
        output: Output folder.
        format: `float` (WAV), `wav24`, `wav16`, `flac24`, `flac16`, `alac24`, `alac16`, `aac`, `opus` or
            `mp3`; `wav`, `flac` and `alac` are those of 24 bits, or of `bit_depth`.
        bit_depth: 16 (with dither) or 24, for `wav`, `flac` and `alac`.
        rate: Sample rate of outputs: `44100`, or `same` as the input's. Opus is always 48 kHz.
        clip: Handling of samples beyond full scale: `rescale` scales the whole file down, `clamp` clips them,
            `none` keeps them, which only `float` and lossy formats can.
        filename: Output name without extension; {stem} is the input's name without its extension, {name}
            with it, {parent} the name of its folder. "/" makes folders.
        overwrite: Whether existing outputs are replaced; otherwise they are skipped.
        picture: Whether to write a PNG with the spectrograms before and after, beside the output.
        compare: Whether to write a page to listen to the song before and after, beside the output.
        batch: Length of the chunks, in 5 seconds, whatever memory is free; None chooses it by free memory.
            The output does not depend on it: on a CPU to the byte, elsewhere to float rounding.
        strength: Strength of the noise that replaces what the codec removed, 0 to 1.5; None takes the
            generator's default.
        seed: Seed of the noise; the same seed gives the same output.
        keep_below: Frequency in Hz below which the input is kept; None restores all of it.
    """

    output: str = "restored"
    format: str = "float"
    bit_depth: int | None = None
    rate: str = RATES[0]
    clip: str = "rescale"
    filename: str = "{stem}"
    overwrite: bool = False
    picture: bool = False
    compare: bool = False
    batch: int | None = None
    strength: float | None = None
    seed: int = 0
    keep_below: float | None = None

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ValueError: a field is out of its range.
        """
        if not self.output:
            raise ValueError("output is empty: it must be a folder")
        for name, allowed in (("format", FORMAT_NAMES), ("clip", CLIP_MODES), ("rate", RATES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(allowed)}")
        self._set_bit_depth()
        if self.strength is not None and not 0 <= self.strength <= MAX_STRENGTH:
            raise ValueError(f"strength is {self.strength}: it must be from 0 to {MAX_STRENGTH}")
        if self.keep_below is not None and not 0 < self.keep_below < math.inf:
            raise ValueError(
                f"keep_below is {self.keep_below}: it must be more than 0 and less than half the sample rate"
            )
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}: it must be at least 1")
        try:
            parts = list(string.Formatter().parse(self.filename))
        except ValueError as error:
            raise ValueError(f"filename {self.filename!r} is not a valid template: {error}") from error
        fields = [name for _, name, _, _ in parts if name is not None]
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError(
                f"filename {self.filename!r}: {{stem}}, {{name}}, {{parent}} take no format specification"
            )
        if self.filename.endswith("/"):
            raise ValueError(f"filename {self.filename!r} ends with /: add {{stem}} after it")
        if unknown := [name for name in fields if name not in _FIELDS]:
            raise ValueError(f"filename takes {{stem}}, {{name}} and {{parent}}, not {{{unknown[0]}}}")
        if not fields:
            raise ValueError(f"filename {self.filename!r} is the same for all outputs: add {{stem}}")

    def _set_bit_depth(self) -> None:
        """Replace `flac` by `flac24` and so on."""
        if self.bit_depth not in (None, *BIT_DEPTHS):
            raise ValueError(f"bit_depth is {self.bit_depth}: it must be 16 or 24")
        if self.format in _WITH_BIT_DEPTH:
            object.__setattr__(self, "format", f"{self.format}{self.bit_depth or max(BIT_DEPTHS)}")
        elif self.bit_depth not in (None, FORMATS[self.format].bits):
            raise ValueError(f"bit_depth is for {', '.join(_WITH_BIT_DEPTH)}, not for {self.format}")
