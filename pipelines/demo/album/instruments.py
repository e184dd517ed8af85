"""Instruments: a General MIDI program each, and how its tone starts, rings, trembles and breathes.

A SoundFont gives raw recordings and loops; what makes a note of them is stated here.
"""

from dataclasses import dataclass

SILENT_DB = -120.0


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One playable sound.

    Args:
        program: General MIDI program, 0 to 127 (for a drum kit, the kit's program).
        decay_seconds: time constant of a struck or plucked tone at middle C; 0 for a sustained tone.
        attack_seconds: rise of the tone.
        release_seconds: fall after the note's end.
        vibrato_cents: depth of the vibrato, which sets in late.
        air_db: noise above 4 kHz that follows the tone (breath, bow, cymbal wash), relative to the tone.
        pick_db: short noise at the onset (plectrum, hammer, finger), relative to the tone's peak.
        spread: how far single notes lie from the track's place, 0 to 1.
        sings: whether notes get vowels and consonants.
    """

    program: int
    decay_seconds: float = 0.0
    attack_seconds: float = 0.003
    release_seconds: float = 0.09
    vibrato_cents: float = 0.0
    air_db: float = SILENT_DB
    pick_db: float = SILENT_DB
    spread: float = 0.1
    sings: bool = False


def _struck(program: int, decay_seconds: float, pick_db: float = -22.0, spread: float = 0.15) -> Instrument:
    return Instrument(program=program, decay_seconds=decay_seconds, pick_db=pick_db, spread=spread)


def _bowed(program: int, vibrato_cents: float, spread: float = 0.1) -> Instrument:
    return Instrument(
        program=program,
        attack_seconds=0.07,
        release_seconds=0.14,
        vibrato_cents=vibrato_cents,
        air_db=-27.0,
        spread=spread,
    )


def _blown(program: int, vibrato_cents: float, air_db: float) -> Instrument:
    return Instrument(program=program, attack_seconds=0.035, vibrato_cents=vibrato_cents, air_db=air_db)


def _sung(program: int, vibrato_cents: float, spread: float = 0.05) -> Instrument:
    return Instrument(
        program=program,
        attack_seconds=0.04,
        release_seconds=0.12,
        vibrato_cents=vibrato_cents,
        air_db=-25.0,
        spread=spread,
        sings=True,
    )


INSTRUMENTS = {
    "solo voice": _sung(85, 32.0),
    "voice": _sung(52, 26.0),
    "choir": _sung(52, 18.0, spread=0.7),
    "oohs": _sung(53, 14.0, spread=0.6),
    "fingered bass": _struck(33, 1.1, -26.0, 0.0),
    "picked bass": _struck(34, 0.9, -20.0, 0.0),
    "slap bass": _struck(36, 0.6, -14.0, 0.0),
    "double bass": _struck(32, 0.8, -24.0, 0.0),
    "synth bass": Instrument(program=38, decay_seconds=0.8, spread=0.0),
    "nylon guitar": _struck(24, 0.9, -20.0),
    "steel guitar": _struck(25, 1.2, -18.0),
    "jazz guitar": _struck(26, 0.9, -24.0),
    "clean guitar": _struck(27, 1.1, -20.0),
    "muted guitar": _struck(28, 0.16, -16.0),
    "distorted guitar": Instrument(program=30, decay_seconds=5.0, vibrato_cents=5.0, pick_db=-20.0),
    "grand piano": _struck(0, 1.3, -30.0, 0.4),
    "electric piano": _struck(4, 1.0, -28.0, 0.4),
    "organ": Instrument(
        program=17, attack_seconds=0.01, vibrato_cents=7.0, air_db=-38.0, pick_db=-30.0, spread=0.3
    ),
    "clavinet": _struck(7, 0.4, -20.0),
    "harpsichord": _struck(6, 0.7, -20.0, 0.3),
    "warm pad": Instrument(
        program=89, attack_seconds=0.3, release_seconds=0.5, vibrato_cents=6.0, spread=0.8
    ),
    "saw lead": Instrument(program=81, attack_seconds=0.01, vibrato_cents=14.0),
    "plucks": _struck(80, 0.25, -30.0, 0.5),
    "halo": Instrument(program=94, attack_seconds=0.5, release_seconds=0.6, air_db=-30.0, spread=0.9),
    "crystal": _struck(98, 0.8, -30.0, 0.9),
    "reverse cymbal": Instrument(
        program=119, attack_seconds=0.4, release_seconds=0.02, air_db=-12.0, spread=0.0
    ),
    "banjo": _struck(105, 0.45, -16.0),
    "harp": _struck(46, 1.2, -26.0, 0.5),
    "dulcimer": _struck(15, 0.7, -18.0, 0.4),
    "koto": _struck(107, 0.6, -20.0, 0.4),
    "pizzicato": _struck(45, 0.25, -22.0, 0.4),
    "violin": _bowed(40, 24.0),
    "viola": _bowed(41, 22.0),
    "cello": _bowed(42, 18.0),
    "strings": _bowed(48, 5.0, spread=0.9),
    "flute": _blown(73, 16.0, -18.0),
    "clarinet": _blown(71, 6.0, -26.0),
    "oboe": _blown(68, 14.0, -28.0),
    "trumpet": _blown(56, 10.0, -28.0),
    "tenor sax": _blown(66, 16.0, -20.0),
    "brass": _blown(61, 6.0, -30.0),
    "vibraphone": _struck(11, 1.4, -28.0, 0.5),
    "marimba": _struck(12, 0.35, -22.0, 0.6),
    "glockenspiel": _struck(9, 0.8, -26.0, 0.6),
}

KITS = {
    "standard kit": 0,
    "room kit": 8,
    "power kit": 16,
    "electronic kit": 24,
    "808 kit": 25,
    "brush kit": 40,
}


@dataclass(frozen=True, kw_only=True)
class DrumPiece:
    """One piece of a kit.

    Args:
        pitch: its General MIDI drum note.
        decay_seconds: time constant of its sound.
        gain_db: its level within the kit.
        pan: its place, -1 (left) to 1 (right).
        air_db: noise above 4 kHz that follows it; several cymbals of common SoundFonts end at 11 kHz.
    """

    pitch: int
    decay_seconds: float
    gain_db: float = 0.0
    pan: float = 0.0
    air_db: float = SILENT_DB


DRUM_PIECES = {
    "kick": DrumPiece(pitch=36, decay_seconds=0.18, gain_db=3.0),
    "snare": DrumPiece(pitch=38, decay_seconds=0.16, gain_db=1.0, pan=0.08, air_db=-18.0),
    "rim": DrumPiece(pitch=37, decay_seconds=0.08, gain_db=-3.0, pan=0.1),
    "clap": DrumPiece(pitch=39, decay_seconds=0.12, gain_db=-3.0, air_db=-16.0),
    "hat": DrumPiece(pitch=42, decay_seconds=0.05, gain_db=-7.0, pan=0.35, air_db=-10.0),
    "open": DrumPiece(pitch=46, decay_seconds=0.22, gain_db=-4.0, pan=0.35, air_db=-6.0),
    "ride": DrumPiece(pitch=51, decay_seconds=0.5, gain_db=-7.0, pan=-0.4, air_db=-12.0),
    "crash": DrumPiece(pitch=49, decay_seconds=0.8, gain_db=-1.0, pan=-0.3, air_db=-6.0),
    "high_tom": DrumPiece(pitch=50, decay_seconds=0.25, pan=0.4),
    "low_tom": DrumPiece(pitch=43, decay_seconds=0.3, pan=-0.4),
    "shaker": DrumPiece(pitch=70, decay_seconds=0.06, gain_db=-4.0, pan=-0.3, air_db=-6.0),
    "tambourine": DrumPiece(pitch=54, decay_seconds=0.12, gain_db=-2.0, pan=0.3, air_db=-8.0),
    "low_conga": DrumPiece(pitch=64, decay_seconds=0.2, pan=-0.3),
    "high_conga": DrumPiece(pitch=63, decay_seconds=0.16, pan=0.2),
    "bongo": DrumPiece(pitch=60, decay_seconds=0.12, gain_db=-2.0, pan=0.4),
    "claves": DrumPiece(pitch=75, decay_seconds=0.08, gain_db=-6.0, pan=0.5),
    "cowbell": DrumPiece(pitch=56, decay_seconds=0.12, gain_db=-6.0, pan=-0.5),
    "triangle": DrumPiece(pitch=81, decay_seconds=0.6, gain_db=-8.0, pan=0.6, air_db=-14.0),
}
