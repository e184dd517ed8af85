"""The synthesizer: tones as sums of harmonics, strokes and breath as shaped noise.

Shapes: a tone is [samples], a track [2, samples], float32.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from pipelines.demo.album.composer import Note, Part

Audio = NDArray[np.float32]

SAMPLE_RATE_HZ = 44100
TRACK_LEVEL_DB = -22.0  # RMS of a track while it plays, before the song is scaled as a whole
REVERB_SECONDS, REVERB_DB = 1.0, -13.0
_HIGHEST_HZ = 19_000.0


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One sound.

    Args:
        harmonics: How many.
        rolloff: Harmonic k has the amplitude k ** -rolloff.
        decay_seconds: Time constant of a struck or plucked tone; 0 for a sustained one.
        attack_seconds: Rise of the tone.
        release_seconds: Fall after the note's end.
        vibrato_cents: Depth of the vibrato.
        noise_db: Noise above 4 kHz that follows the tone (breath, bow, plectrum), relative to it.
        formants_hz: Frequencies that a vowel raises.
    """

    harmonics: int = 24
    rolloff: float = 1.0
    decay_seconds: float = 0.0
    attack_seconds: float = 0.004
    release_seconds: float = 0.08
    vibrato_cents: float = 0.0
    noise_db: float = -40.0
    formants_hz: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of a drum kit: a falling tone and noise above a frequency, both decaying."""

    decay_seconds: float
    tone_hz: float = 0.0
    noise_low_hz: float = 0.0
    pan: float = 0.0
    gain: float = 1.0


INSTRUMENTS = {
    "voice": Instrument(
        attack_seconds=0.04, vibrato_cents=25.0, noise_db=-22.0, formants_hz=(700.0, 1200.0, 2800.0)
    ),
    "bass": Instrument(harmonics=12, rolloff=1.3, decay_seconds=0.7, noise_db=-34.0),
    "plucked": Instrument(rolloff=0.9, decay_seconds=0.6, noise_db=-26.0),
    "piano": Instrument(rolloff=1.4, decay_seconds=1.1, noise_db=-32.0),
    "strings": Instrument(attack_seconds=0.12, release_seconds=0.25, vibrato_cents=8.0, noise_db=-26.0),
    "wind": Instrument(rolloff=1.2, attack_seconds=0.03, vibrato_cents=12.0, noise_db=-20.0),
    "sweep": Instrument(harmonics=1, attack_seconds=0.6, release_seconds=0.05, noise_db=6.0),
}
PIECES = {
    "kick": Piece(decay_seconds=0.15, tone_hz=55.0, noise_low_hz=2000.0, gain=1.6),
    "snare": Piece(decay_seconds=0.14, tone_hz=190.0, noise_low_hz=1500.0, pan=0.08),
    "clap": Piece(decay_seconds=0.1, noise_low_hz=1200.0, gain=0.7),
    "hat": Piece(decay_seconds=0.05, noise_low_hz=7000.0, pan=0.35, gain=0.45),
    "ride": Piece(decay_seconds=0.4, noise_low_hz=6000.0, pan=-0.4, gain=0.35),
    "shaker": Piece(decay_seconds=0.05, noise_low_hz=5000.0, pan=-0.3, gain=0.5),
}


def play(part: Part, rng: np.random.Generator) -> Audio:
    """Play a part, dry, at the level that its track asks for. Returns [2, samples]."""
    tones = []
    for note in part.notes:
        if note.piece:
            tone, pan = _stroke(note, PIECES[note.piece], rng), PIECES[note.piece].pan
        else:
            tone, pan = _tone(note, INSTRUMENTS[part.track.instrument], rng), 0.0
        tones.append((round(note.start_seconds * SAMPLE_RATE_HZ), tone, part.track.pan + pan))
    track = np.zeros((2, max(start + tone.size for start, tone, _ in tones)), np.float32)
    for start, tone, pan in tones:
        angle = (float(np.clip(pan, -1.0, 1.0)) + 1.0) * np.pi / 4.0
        track[0, start : start + tone.size] += np.float32(np.cos(angle)) * tone
        track[1, start : start + tone.size] += np.float32(np.sin(angle)) * tone
    return track * np.float32(_gain(TRACK_LEVEL_DB + part.track.level_db) / _active_rms(track))


def add_reverb(track: Audio, rng: np.random.Generator) -> Audio:
    """Add decaying stereo noise as the reverberation of a small room. Returns [2, samples], longer."""
    size = round(REVERB_SECONDS * SAMPLE_RATE_HZ)
    decay = np.exp(-np.arange(size) * 6.9 / size)
    impulse = rng.standard_normal((2, size)) * decay / np.sqrt((decay**2).sum())
    wet = oaconvolve(track.mean(axis=0, keepdims=True), impulse.astype(np.float32), axes=1)
    wet *= np.float32(_gain(REVERB_DB))
    wet[:, : track.shape[1]] += track
    return np.asarray(wet, np.float32)


def _tone(note: Note, instrument: Instrument, rng: np.random.Generator) -> Audio:
    seconds = note.duration_seconds + 4.0 * instrument.release_seconds
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    frequency = 440.0 * 2.0 ** ((note.pitch - 69) / 12.0)
    depth = 2.0 ** (instrument.vibrato_cents / 1200.0) - 1.0
    sway = depth / (2.0 * np.pi * 5.3) * np.sin(2.0 * np.pi * 5.3 * time + rng.uniform(0.0, 6.0))
    turn = np.exp(2j * np.pi * frequency * (time + sway)).astype(np.complex64)  # its powers are the harmonics
    wave, power = np.zeros(time.size), np.ones(time.size, np.complex64)
    for harmonic in range(1, min(instrument.harmonics, int(_HIGHEST_HZ / frequency)) + 1):
        power *= turn
        level = harmonic**-instrument.rolloff
        level *= 1.0 + sum(
            4.0 * np.exp(-(((harmonic * frequency - formant) / 250.0) ** 2))
            for formant in instrument.formants_hz
        )
        fade = np.exp(-time * harmonic**0.5 / instrument.decay_seconds) if instrument.decay_seconds else 1.0
        wave += level * fade * power.imag
    wave /= max(float(np.abs(wave).max()), 1e-9)
    envelope = np.minimum(1.0, time / instrument.attack_seconds)
    envelope *= np.exp(-np.maximum(0.0, time - note.duration_seconds) / instrument.release_seconds)
    envelope *= np.minimum(1.0, (time[-1] - time) / 0.01)
    follow = np.exp(-time / (instrument.decay_seconds or 0.05))  # of the noise: sung consonants come first
    if not instrument.decay_seconds:
        follow = 1.0 + 1.5 * follow * bool(instrument.formants_hz)
    wave += _gain(instrument.noise_db) * follow * _noise(4000.0, time.size, rng)
    return (wave * envelope * note.velocity).astype(np.float32)


def _stroke(note: Note, piece: Piece, rng: np.random.Generator) -> Audio:
    time = np.arange(round(7.0 * piece.decay_seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    wave = 0.5 * _noise(piece.noise_low_hz, time.size, rng) * (0.2 if piece.tone_hz else 1.0)
    if piece.tone_hz:
        wave = wave + np.sin(2.0 * np.pi * piece.tone_hz * (time + 0.06 * (1.0 - np.exp(-time / 0.02))))
    fade = np.exp(-time / piece.decay_seconds) * np.minimum(1.0, (time[-1] - time) / 0.005)
    return np.asarray(wave * fade * piece.gain * note.velocity**1.5, np.float32)


def _gain(level_db: float) -> float:
    return float(10.0 ** (level_db / 20.0))


def _active_rms(track: Audio) -> float:
    """Return the RMS over the 50 ms frames that are within 30 dB of the loudest."""
    frame = SAMPLE_RATE_HZ // 20
    padded = np.pad(track, ((0, 0), (0, -track.shape[1] % frame)))
    power = (padded.reshape(2, -1, frame) ** 2).mean(axis=(0, 2))  # [frames]
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))


@lru_cache(maxsize=8)
def _noise_loop(low_hz: float) -> Audio:
    """Return 4 s of noise above a frequency, up to 20 kHz, with an RMS of 1."""
    samples = 4 * SAMPLE_RATE_HZ
    frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(round(low_hz)).standard_normal(samples))
    shape = 1.0 / (1.0 + (low_hz / np.maximum(frequency, 1.0)) ** 6) / (1.0 + (frequency / 20000.0) ** 24)
    noise = np.fft.irfft(spectrum * shape, samples)
    return np.asarray(noise / noise.std(), np.float32)


def _noise(low_hz: float, samples: int, rng: np.random.Generator) -> Audio:
    loop = _noise_loop(low_hz)
    start = int(rng.integers(loop.size))
    return np.take(loop, np.arange(start, start + samples), mode="wrap")
