"""The synthesizer: plays a part's notes with a SoundFont's recordings and places them in a room.

A SoundFont gives the recordings; velocity, envelopes, vibrato, breath and consonants are made here, note by
note, from each instrument's description. Shapes: a tone is `[samples]`, a track `[2, samples]`, float32.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.album.composer import Note, Part
from pipelines.demo.album.instruments import DRUM_PIECES, INSTRUMENTS, KITS, DrumPiece, Instrument
from pipelines.demo.album.soundfont import DRUM_BANK, Audio, SoundFont

SAMPLE_RATE_HZ = 44100
AIR_LOW_HZ, SIBILANT_LOW_HZ = 4000.0, 5500.0
CONSONANT_SECONDS = 0.07
TRACK_LEVEL_DB = -22.0  # RMS of a track while it plays, before the song is scaled as a whole
KIT_LIFT_DB = 4.0  # strokes are short: between them the level is low
ROOM_SECONDS = 1.1
ROOM_SEND_DB = -13.0
# Two formants each, in Hz: ah, eh, ee, oh, oo.
VOWELS_HZ = ((730.0, 1090.0), (530.0, 1840.0), (300.0, 2300.0), (520.0, 900.0), (350.0, 800.0))


def default_soundfont() -> Path:
    """Return the SoundFont that the package pretty_midi ships.

    Raises:
        ValueError: if pretty_midi is not installed.
    """
    spec = find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise ValueError(
            "no SoundFont: the default one comes with the package pretty_midi, which is not installed; "
            "install it, or pass soundfont=<path to an .sf2 file>"
        )
    return Path(spec.origin).parent / "TimGM6mb.sf2"


def play(part: Part, soundfont: SoundFont, rng: np.random.Generator) -> Audio:
    """Play a part, dry, at the level that its sheet asks for. Returns [2, samples]."""
    tones = []
    for number, note in enumerate(part.notes):
        if part.sheet.instrument in KITS:
            following = part.notes[number + 1 : number + 9]
            tone, pan, lead = *_drum_tone(note, following, part.sheet.instrument, soundfont, rng), 0
        else:
            tone, pan, lead = _instrument_tone(note, INSTRUMENTS[part.sheet.instrument], soundfont, rng)
        tones.append((max(0, round(note.start_seconds * SAMPLE_RATE_HZ) - lead), tone, pan))
    track = np.zeros((2, max(start + tone.size for start, tone, _ in tones)), np.float32)
    for start, tone, pan in tones:
        angle = (float(np.clip(part.sheet.pan + pan, -1.0, 1.0)) + 1.0) * np.pi / 4.0
        track[0, start : start + tone.size] += np.float32(np.cos(angle)) * tone
        track[1, start : start + tone.size] += np.float32(np.sin(angle)) * tone
    level_db = TRACK_LEVEL_DB + part.sheet.level_db + (KIT_LIFT_DB if part.sheet.instrument in KITS else 0.0)
    return track * np.float32(_gain(level_db) / _active_rms(track))


def _instrument_tone(
    note: Note, instrument: Instrument, soundfont: SoundFont, rng: np.random.Generator
) -> tuple[Audio, float, int]:
    """Return a tone, its place off the track's, and how many samples it starts before the beat."""
    decay_seconds = instrument.decay_seconds * 2.0 ** ((60 - note.pitch) / 24.0)
    time = _time(note.duration_seconds + 4.0 * instrument.release_seconds)
    place = _trembling(time, instrument.vibrato_cents, rng) if instrument.vibrato_cents else time
    raw = _recorded(soundfont, 0, instrument.program, note.pitch, place)
    if decay_seconds:
        raw = raw / np.maximum(_follow(raw), 0.03 * np.abs(raw).max()) ** np.float32(0.6)
    if instrument.sings:
        raw = _sing_vowel(raw, VOWELS_HZ[int(rng.integers(len(VOWELS_HZ)))])
    raw /= max(float(np.abs(raw).max()), 1e-6)
    loudness = note.velocity / 127.0
    dark = _smooth(raw, 9)
    bright_fall = np.exp(-time * 3.0 / decay_seconds) if decay_seconds else 1.0
    tone = dark + (raw - dark) * (0.4 + 0.7 * loudness) * bright_fall
    tone = tone * _envelope(time, note.duration_seconds, instrument, decay_seconds)
    tone += _gain(instrument.air_db) * _air(AIR_LOW_HZ, tone.size, rng) * _follow(tone)
    tone += _gain(instrument.pick_db) * _air(AIR_LOW_HZ, tone.size, rng) * np.exp(-time / 0.006)
    lead = 0
    if instrument.sings and rng.random() < 0.6:
        tone, lead = _with_consonant(tone, rng)
    pan = instrument.spread * rng.uniform(-1.0, 1.0)
    return (tone * loudness**1.5).astype(np.float32), pan, lead


def _drum_tone(
    note: Note, following: tuple[Note, ...], kit: str, soundfont: SoundFont, rng: np.random.Generator
) -> tuple[Audio, float]:
    """Return a stroke and its place in the kit; a closed hi-hat ends an open one."""
    piece = _piece(note.pitch)
    time = _time(min(3.0, 7.0 * piece.decay_seconds))
    loudness = note.velocity / 127.0
    raw = _recorded(soundfont, DRUM_BANK, KITS[kit], note.pitch, time)
    tone = raw * np.exp(-time / (piece.decay_seconds * (0.7 + 0.4 * loudness)))
    tone += _gain(piece.air_db) * _air(AIR_LOW_HZ, tone.size, rng) * _follow(tone)
    closings = [other.start_seconds for other in following if other.pitch == DRUM_PIECES["hat"].pitch]
    if note.pitch == DRUM_PIECES["open"].pitch and closings:
        tone *= np.exp(-np.maximum(0.0, time - (closings[0] - note.start_seconds)) / 0.01)
    fade = np.minimum(1.0, (time[-1] - time) / 0.02)
    return (tone * fade * _gain(piece.gain_db) * loudness**1.7).astype(np.float32), piece.pan


def _recorded(soundfont: SoundFont, bank: int, program: int, key: int, place: NDArray[np.float64]) -> Audio:
    tone: Audio = np.zeros(place.size, np.float32)
    for recording in soundfont.recordings(bank, program, key):
        tone += recording.read(place)
    return tone


def room_impulse(rng: np.random.Generator) -> Audio:
    """Draw a small room: stereo noise that decays exponentially, its highs faster. Returns [2, samples]."""
    samples = round(ROOM_SECONDS * SAMPLE_RATE_HZ)
    time = np.arange(samples, dtype=np.float32) / SAMPLE_RATE_HZ
    noise = rng.standard_normal((2, samples)).astype(np.float32)
    low = np.stack([_smooth(channel, 15) for channel in noise])
    impulse = low * 3.0 * np.exp(-time * 6.9 / ROOM_SECONDS) + (noise - low) * np.exp(
        -time * 16.0 / ROOM_SECONDS
    )
    impulse[:, : round(0.012 * SAMPLE_RATE_HZ)] = 0.0
    normalized: Audio = (impulse / np.sqrt((impulse**2).sum(axis=1, keepdims=True))).astype(np.float32)
    return normalized


def in_room(track: Audio, impulse: Audio) -> Audio:
    """Add the room to a dry track; the result is longer by the room's ring. Returns [2, samples]."""
    samples = track.shape[1] + impulse.shape[1] - 1
    size = -(-samples // 65536) * 65536
    send = np.fft.rfft(track.mean(axis=0), size)
    wet = np.fft.irfft(send * np.fft.rfft(impulse, size), size)[:, :samples]
    wet *= _gain(ROOM_SEND_DB) * np.sqrt(2.0)
    wet[:, : track.shape[1]] += track
    wet *= np.minimum(1.0, np.arange(samples, 0, -1) / (0.05 * SAMPLE_RATE_HZ))
    return wet.astype(np.float32)


def _time(seconds: float) -> NDArray[np.float64]:
    return np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _gain(level_db: float) -> float:
    return float(10.0 ** (level_db / 20.0))


def _smooth(signal: Audio, width: int) -> Audio:
    """Return the centred moving average over an odd number of samples."""
    padded = np.pad(signal, (width // 2 + 1, width // 2)).astype(np.float64)
    total = np.cumsum(padded)
    return ((total[width:] - total[:-width]) / width).astype(np.float32)


def _follow(signal: Audio) -> Audio:
    """Return the signal's envelope over 10 ms."""
    return _smooth(np.abs(signal), 441) * np.float32(np.pi / 2)


def _active_rms(track: Audio) -> float:
    """Return the RMS over the 50 ms frames that are within 30 dB of the loudest."""
    frame = SAMPLE_RATE_HZ // 20
    padded = np.pad(track, ((0, 0), (0, -track.shape[1] % frame)))
    power = (padded.reshape(2, -1, frame) ** 2).mean(axis=(0, 2))  # [frames]
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))


def _envelope(
    time: NDArray[np.float64], held_seconds: float, instrument: Instrument, decay_seconds: float
) -> Audio:
    rise = np.minimum(1.0, time / instrument.attack_seconds)
    fall = np.exp(-np.maximum(0.0, time - held_seconds) / instrument.release_seconds)
    body = np.exp(-time / decay_seconds) if decay_seconds else 0.85 + 0.15 * np.sin(np.pi * time / time[-1])
    end = np.minimum(1.0, (time[-1] - time) / 0.01)
    shaped: Audio = (rise * fall * body * end).astype(np.float32)
    return shaped


def _trembling(time: NDArray[np.float64], cents: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where to read a recording for a late vibrato, a scooped start and a player's intonation."""
    speed_hz = rng.uniform(4.8, 5.8)
    depth = 2.0 ** (cents / 1200.0) - 1.0
    sway = depth / (2.0 * np.pi * speed_hz) * (1.0 - np.exp(-time / 0.35))
    detune = 2.0 ** (rng.normal(0.0, 4.0) / 1200.0) - 1.0
    scoop = depth * 0.06 * np.exp(-time / 0.06)
    place: NDArray[np.float64] = time * (1.0 + detune) + sway * np.sin(2.0 * np.pi * speed_hz * time) + scoop
    return place


def _sing_vowel(raw: Audio, formants_hz: tuple[float, float]) -> Audio:
    """Raise a vowel's two formants by up to 12 dB."""
    spectrum = np.fft.rfft(raw)
    frequency = np.fft.rfftfreq(raw.size, 1.0 / SAMPLE_RATE_HZ)
    shape = sum(np.exp(-(((frequency - formant) / (80.0 + 0.09 * formant)) ** 2)) for formant in formants_hz)
    return np.fft.irfft(spectrum * (1.0 + 3.0 * shape), raw.size).astype(np.float32)


def _with_consonant(tone: Audio, rng: np.random.Generator) -> tuple[Audio, int]:
    """Put a hiss or a click of the tongue before a sung tone. Returns the tone and the added samples."""
    seconds = CONSONANT_SECONDS * rng.uniform(0.3, 1.3)
    lead = round(seconds * SAMPLE_RATE_HZ)
    overlap = min(lead // 2, tone.size)
    hiss = _air(SIBILANT_LOW_HZ, lead + overlap, rng) * np.hanning(lead + overlap) ** 0.7
    sung = np.pad(tone, (lead, 0))
    sung[: lead + overlap] += hiss * rng.uniform(0.05, 0.14)
    return sung.astype(np.float32), lead


@lru_cache(maxsize=4)
def _noise(low_hz: float) -> Audio:
    """Return a loop of noise above a frequency, falling gently towards 20 kHz, with an RMS of 1."""
    samples = 8 * SAMPLE_RATE_HZ
    frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(round(low_hz)).standard_normal(samples))
    rise = 1.0 / (1.0 + (low_hz / np.maximum(frequency, 1.0)) ** 6)
    fall = np.maximum(frequency / low_hz, 1.0) ** -0.7 / (1.0 + (frequency / 20000.0) ** 24)
    noise = np.fft.irfft(spectrum * rise * fall, samples)
    normalized: Audio = (noise / noise.std()).astype(np.float32)
    return normalized


def _air(low_hz: float, samples: int, rng: np.random.Generator) -> Audio:
    noise = _noise(low_hz)
    offset = int(rng.integers(noise.size))
    return np.take(noise, np.arange(offset, offset + samples), mode="wrap")


@lru_cache(maxsize=128)
def _piece(pitch: int) -> DrumPiece:
    return next(piece for piece in DRUM_PIECES.values() if piece.pitch == pitch)
