"""Styles: who plays what, as score sheets that the composer turns into notes.

A figure is one bar's rhythm (see `grooves`) whose onsets say what sounds: `1 3 5 7 8 9` a tone of the chord
counted from its root, `x X o` the whole chord (plain, accented, soft), `a` a semitone below the next bar's
root. Sections: I intro, V verse, C chorus, O outro.
"""

from dataclasses import dataclass

# Words in a figure's place: the song's tune, a third below it, a slow counter-melody, an improvised line.
TUNE, THIRD, COUNTER, SOLO = "tune", "third", "counter", "solo"


@dataclass(frozen=True)
class Sheet:
    """What one track plays.

    Args:
        stem: MoisesDB stem name.
        track_type: MoisesDB track type.
        instrument: a key of INSTRUMENTS or KITS.
        figure: a figure, one of TUNE, THIRD, COUNTER, SOLO, or for a kit "groove" or "groove/piece piece".
        chorus: what the chorus plays instead; empty for the same.
        centre: MIDI pitch around which it plays.
        sections: the sections in which it plays.
        pan: -1 (left) to 1 (right).
        level_db: loudness while it plays, relative to the other tracks.
        mono: whether its file has one channel.
    """

    stem: str
    track_type: str
    instrument: str
    figure: str
    chorus: str = ""
    centre: int = 60
    sections: str = "IVCO"
    pan: float = 0.0
    level_db: float = 0.0
    mono: bool = False


@dataclass(frozen=True, kw_only=True)
class Style:
    """A band and its way of playing.

    Args:
        genre: MoisesDB genre.
        artist: an invented name.
        titles: invented titles, one for each song in this style.
        tempo_bpm: lowest and highest tempo.
        steps_per_bar: 16 or 12 sixteenth notes.
        modes: scales to choose from.
        progressions: chords as scale degrees, one for each bar.
        voicing: the tones of a whole chord.
        swing: delay of the off-beats in steps.
        sheets: the tracks.
    """

    genre: str
    artist: str
    titles: tuple[str, ...]
    tempo_bpm: tuple[int, int]
    steps_per_bar: int = 16
    modes: tuple[str, ...] = ("major",)
    progressions: tuple[str, ...]
    voicing: str = "135"
    swing: float = 0.0
    sheets: tuple[Sheet, ...]


# MoisesDB track types.
ACOUSTIC = "acoustic guitar"
BACKING = "background vocals"
BASS = "bass guitar"
CLEAN = "clean electric guitar"
DISTORTED = "distorted electric guitar"
DRUM_KIT = "full acoustic drumkit"
ORGAN = "organ, electric organ"
STRINGS = "string section"
ELECTRIC_PIANO = "electric piano (rhodes, wurlitzer, piano sound alike)"
PERCUSSION = "a-tonal percussion (claps, shakers, congas, cowbell etc)"
MALLETS = "pitched percussion (mallets, glockenspiel, ...)"
PLUCKED = "banjo, mandolin, ukulele, harp etc"
EFFECTS = "fx/processed sound, scratches, gun shots, explosions etc"
FLUTES = "flutes (piccolo, bamboo flute, panpipes, flutes etc)"
REEDS = "reeds (saxophone, clarinets, oboe, english horn, bagpipe)"
CONTRABASS = "contrabass/double bass (bass of instrings)"
LEAD = "synth lead"
MOOG = "bass synthesizer (moog etc)"
OTHER_KEYS = "other sounds (hapischord, melotron etc)"
