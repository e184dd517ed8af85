"""Names of degradations: what they mean, in words, in order, and as steps to apply one after the other.

    mp3_64000 mp3_128000_lr mp3_v5      MP3: constant bitrate; left and right apart; variable bitrate, 0 to 9
    aac_64000 heaac_32000               AAC-LC; HE-AAC
    opus_48000 vorbis_64000             Opus, Vorbis, at a mean bitrate
    resample_22050                      to another sample rate and back
    lowpass_8000 clip_6 bits_8          low-pass in Hz; clipped by 6 dB; quantized to 8 bits
    mp3_64000>aac_96000                 a chain, from left to right

A shard has a column for each, of that name, in which `-` stands for `>`: names become parts of file names.
Other names belong to pairs that users bring; nothing is known of them but the name.
"""

import re
from dataclasses import dataclass

CHAIN = "-"  # in names of columns
_TITLES = {"mp3": "MP3", "aac": "AAC", "heaac": "HE-AAC", "opus": "Opus", "vorbis": "Vorbis"}
_STEP = re.compile(r"(?P<kind>[a-z0-9]+)_(?P<vbr>v?)(?P<value>\d+)(?P<apart>_lr)?")
_RANGES = {  # of the value: lowest, highest
    "mp3": (8_000, 320_000),
    "aac": (8_000, 512_000),
    "heaac": (16_000, 128_000),
    "opus": (6_000, 510_000),
    "vorbis": (48_000, 500_000),
    "resample": (4_000, 192_000),
    "lowpass": (1_000, 22_000),
    "clip": (1, 40),
    "bits": (2, 15),
}
_HIGHEST_VBR = 9
CODECS = frozenset(_TITLES)


@dataclass(frozen=True)
class Step:
    """One codec or filter.

    Args:
        kind: `mp3`, `aac`, `heaac`, `opus`, `vorbis`, `resample`, `lowpass`, `clip` or `bits`.
        value: Bitrate in bits per second, quality of variable bitrates, Hz, dB or bits.
        variable: Whether `value` is the quality of a variable bitrate.
        apart: Whether left and right are encoded apart (no joint stereo).
    """

    kind: str
    value: int
    variable: bool = False
    apart: bool = False

    @property
    def bitrate_bps(self) -> int | None:
        """The requested bitrate; None for filters and variable bitrates."""
        return None if self.variable or self.kind not in CODECS else self.value

    def __str__(self) -> str:
        return f"{self.kind}_{'v' if self.variable else ''}{self.value}{'_lr' if self.apart else ''}"

    def describe(self) -> str:
        """Return the step in words: `MP3 at 24 kbps`."""
        if self.kind in CODECS:
            amount = f"VBR quality {self.value}" if self.variable else f"{self.value / 1000:g} kbps"
            return f"{_TITLES[self.kind]} at {amount}{', left and right apart' if self.apart else ''}"
        words = {
            "resample": f"resampled at {self.value / 1000:g} kHz",
            "lowpass": f"low-pass at {self.value / 1000:g} kHz",
            "clip": f"clipped by {self.value} dB",
            "bits": f"{self.value} bits",
        }
        return words[self.kind]


def column(name: str) -> str:
    """Return the name of a degradation's column: that of a chain has `-` where the option has `>`."""
    return name.replace(">", CHAIN)


def parse(name: str) -> tuple[Step, ...]:
    """Return the steps of a degradation.

    Raises:
        ValueError: it is not one of the forms above, or a value is out of its range.
    """
    return tuple(_parse_step(step, name) for step in column(name).split(CHAIN))


def _parse_step(text: str, name: str) -> Step:
    found = _STEP.fullmatch(text)
    if (
        found is None
        or found["kind"] not in _RANGES
        or ((found["vbr"] or found["apart"]) and found["kind"] != "mp3")
    ):
        raise ValueError(
            f"degradation {name!r} is unknown: the forms are mp3_64000, mp3_128000_lr (left and right "
            "apart), mp3_v5 (VBR), aac_64000, heaac_32000, opus_48000, vorbis_64000, resample_22050, "
            "lowpass_8000, clip_6, bits_8, and chains such as mp3_64000>aac_96000"
        )
    kind, value = found["kind"], int(found["value"])
    low, high = (0, _HIGHEST_VBR) if found["vbr"] else _RANGES[kind]
    if not low <= value <= high:
        raise ValueError(f"degradation {name!r}: {text} needs a value of {low} to {high}")
    return Step(kind, value, bool(found["vbr"]), bool(found["apart"]))


def requested_bitrate(name: str) -> int | None:
    """Return the bitrate that a degradation's name asks for, of a chain the lowest; None if it has none."""
    try:
        bitrates = [step.bitrate_bps for step in parse(name)]
    except ValueError:
        bitrate = name.rpartition("_")[2]
        return int(bitrate) if bitrate.isdecimal() else None
    return min((bitrate for bitrate in bitrates if bitrate is not None), default=None)


def describe(name: str) -> str:
    """Return a degradation in words: `MP3 at 64 kbps, then AAC at 96 kbps`; others by their name."""
    try:
        return ", then ".join(step.describe() for step in parse(name))
    except ValueError:
        return f"codec's output ({name})"


def sort_key(name: str) -> tuple[str, int, str]:
    """Return a key that sorts by codec, then bitrate."""
    return re.split(r"[_-]", name)[0], requested_bitrate(name) or 0, name
