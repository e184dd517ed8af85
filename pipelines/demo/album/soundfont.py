"""A reader of SoundFont 2 files: the recorded samples behind each key, at any pitch, with their loops.

Follows the SoundFont Technical Specification 2.04, sections 5 to 8, as far as recordings go: zones, key and
velocity ranges, tuning, loops and attenuation. Envelopes, filters and modulators are left to the synthesizer.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]

DRUM_BANK = 128
PLAYED_VELOCITY = 100
# Generators (section 8.1.2) that are read; offsets come in samples and in units of 32768 samples.
INSTRUMENT, KEY_RANGE, VELOCITY_RANGE, SAMPLE = 41, 43, 44, 53
START, END, LOOP_START, LOOP_END = (0, 4), (1, 12), (2, 45), (3, 50)
ATTENUATION, COARSE_TUNE, FINE_TUNE, SAMPLE_MODES, SCALE_TUNING, ROOT_KEY = 48, 51, 52, 54, 56, 58
LOOPING_MODES = (1, 3)
WHOLE_RANGE = 127 << 8

Zone = dict[int, int]  # generator -> amount


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recorded sample as a key plays it.

    Args:
        samples: the recording, from its start to its end, in [-1, 1].
        loop: first sample of the loop and the one after its last; None if it is played once.
        step: recorded samples for each second of sound.
        gain: linear.
    """

    samples: Audio
    loop: tuple[int, int] | None
    step: float
    gain: float

    def read(self, place_seconds: NDArray[np.float64]) -> Audio:
        """Read the recording at any places in time, by cubic interpolation (Catmull-Rom)."""
        place = np.maximum(place_seconds, 0.0) * self.step
        if self.loop is not None:
            start, end = self.loop
            place = np.where(place < end, place, start + np.mod(place - start, end - start))
        whole = place.astype(np.int64)
        part = (place - whole).astype(np.float32)
        before, here, after, later = (self._at(whole + offset) for offset in (-1, 0, 1, 2))
        slope = 0.5 * (after - before)
        bend = before - 2.5 * here + 2.0 * after - 0.5 * later
        twist = 0.5 * (later - before) + 1.5 * (here - after)
        tone: Audio = np.float32(self.gain) * (((twist * part + bend) * part + slope) * part + here)
        return tone

    def _at(self, index: NDArray[np.int64]) -> Audio:
        if self.loop is not None:
            start, end = self.loop
            index = np.where(index < end, index, index - (end - start))
        return np.where(index < self.samples.size, self.samples.take(index, mode="clip"), np.float32(0.0))


class SoundFont:
    """A SoundFont 2 file in memory."""

    def __init__(self, path: Path) -> None:
        """Read a SoundFont.

        Raises:
            ValueError: if the file is missing or not a SoundFont 2 file.
        """
        if not path.is_file():
            raise ValueError(f"soundfont {path} is not a file; pass the path of an existing .sf2 file")
        self.path = path
        try:
            chunks = _chunks(path.read_bytes())
            self._samples = np.frombuffer(chunks["smpl"], "<i2")
            self._headers = list(struct.iter_unpack("<20s5IBbHH", chunks["shdr"]))
            self._instruments = _zones(chunks, records="inst", layout="<20sH", bags="ibag", generators="igen")
            presets = _zones(chunks, records="phdr", layout="<20sHHHIII", bags="pbag", generators="pgen")
            names = struct.iter_unpack("<20sHHHIII", chunks["phdr"])
            self._presets = {(row[2], row[1]): zones for row, zones in zip(names, presets, strict=False)}
        except (KeyError, IndexError, ValueError, struct.error) as error:
            raise ValueError(
                f"soundfont {path} is not a SoundFont 2 file ({error!r}); pass an .sf2 file"
            ) from error
        self.recordings = lru_cache(maxsize=4096)(self._recordings)

    def _recordings(self, bank: int, program: int, key: int) -> tuple[Recording, ...]:
        """Return the recordings that sound together when a key is struck.

        Raises:
            ValueError: if the SoundFont has no sound for the key.
        """
        found = []
        for preset_zone in self._presets.get((bank, program), []):
            if not _covers(preset_zone, key) or INSTRUMENT not in preset_zone:
                continue
            for zone in self._instruments[preset_zone[INSTRUMENT]]:
                if _covers(zone, key) and SAMPLE in zone:
                    found.append(self._recording(zone, preset_zone, key))
        if not found:
            raise ValueError(
                f"soundfont {self.path} has no sound for bank {bank}, program {program}, key {key}; "
                "use one with all General MIDI programs"
            )
        return tuple(found)

    def _recording(self, zone: Zone, preset_zone: Zone, key: int) -> Recording:
        _, start, end, loop_start, loop_end, rate_hz, header_key, correction_cents, _, _ = self._headers[
            zone[SAMPLE]
        ]
        start, end, loop_start, loop_end = (
            place + zone.get(fine, 0) + 32768 * zone.get(coarse, 0)
            for place, (fine, coarse) in zip(
                (start, end, loop_start, loop_end), (START, END, LOOP_START, LOOP_END), strict=True
            )
        )
        root = zone.get(ROOT_KEY, -1)
        root = root if root >= 0 else header_key
        cents = (key - root) * (
            zone.get(SCALE_TUNING, 100) + preset_zone.get(SCALE_TUNING, 0)
        ) + correction_cents
        cents += sum(100 * part.get(COARSE_TUNE, 0) + part.get(FINE_TUNE, 0) for part in (zone, preset_zone))
        loops = zone.get(SAMPLE_MODES, 0) in LOOPING_MODES and start <= loop_start < loop_end <= end
        centibels = zone.get(ATTENUATION, 0) + preset_zone.get(ATTENUATION, 0)
        return Recording(
            samples=(self._samples[start:end] / 32768.0).astype(np.float32),
            loop=(loop_start - start, loop_end - start) if loops else None,
            step=rate_hz * 2.0 ** (cents / 1200.0),
            gain=10.0 ** (-centibels / 200.0),
        )


def _covers(zone: Zone, key: int) -> bool:
    pairs = ((KEY_RANGE, key), (VELOCITY_RANGE, PLAYED_VELOCITY))
    ranges = ((zone.get(generator, WHOLE_RANGE) & 0xFFFF, value) for generator, value in pairs)
    return all(bounds & 0xFF <= value <= bounds >> 8 for bounds, value in ranges)


def _chunks(content: bytes) -> dict[str, bytes]:
    """Return the RIFF file's chunks by name, lists opened."""
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise ValueError("it does not begin as a RIFF file of form sfbk")
    chunks = {}
    place = 12
    while place + 8 <= len(content):
        name, size = (
            content[place : place + 4].decode("ascii"),
            struct.unpack_from("<I", content, place + 4)[0],
        )
        if name == "LIST":
            place += 12
            continue
        chunks[name] = content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return chunks


def _zones(
    chunks: dict[str, bytes], *, records: str, layout: str, bags: str, generators: str
) -> list[list[Zone]]:
    """Return the zones of each record (preset or instrument), with its global zone's generators filled in."""
    bag_column = 1 if layout == "<20sH" else 3
    first_bags = [row[bag_column] for row in struct.iter_unpack(layout, chunks[records])]
    first_generators = [row[0] for row in struct.iter_unpack("<HH", chunks[bags])]
    amounts = list(struct.iter_unpack("<Hh", chunks[generators]))
    result = []
    for first_bag, last_bag in pairwise(first_bags):
        zones = [
            dict(amounts[first_generators[bag] : first_generators[bag + 1]])
            for bag in range(first_bag, last_bag)
        ]
        shared = zones[0] if zones and not {SAMPLE, INSTRUMENT} & zones[0].keys() else {}
        result.append([shared | zone for zone in zones])
    return result
