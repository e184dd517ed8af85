"""Styles: who plays what, as one-bar figures of 16 sixteenth notes.

In a figure every character is a step: `.` is silent, `-` holds the note before, a digit starts a tone of the
chord counted from its root (1, 3, 5, 7, 8), `x` starts the whole chord, `m` a note of the song's melody. In a
drum row `X`, `x` and `o` are loud, medium and soft strokes. Sections: I intro, V verse, C chorus, O outro.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Track:
    """What one track plays.

    Args:
        stem: MoisesDB stem name.
        track_type: MoisesDB track type.
        instrument: A key of INSTRUMENTS; for drums the rows of a kit, `piece:row` separated by spaces.
        figure: One bar; empty for drums.
        centre: MIDI pitch around which it plays.
        sections: Sections in which it plays.
        pan: -1 (left) to 1 (right).
        level_db: Level while it plays, relative to the other tracks.
        mono: Whether its file has one channel.
    """

    stem: str
    track_type: str
    instrument: str
    figure: str = ""
    centre: int = 60
    sections: str = "IVCO"
    pan: float = 0.0
    level_db: float = 0.0
    mono: bool = False


@dataclass(frozen=True, kw_only=True)
class Style:
    """A way of playing.

    Args:
        genre: MoisesDB genre.
        artists: Invented artists, each with the title of a song.
        tempo_bpm: Lowest and highest tempo.
        scale: Semitones of the scale above the tonic.
        progressions: Chords as scale degrees, one a bar.
        swing: Delay of the off-beats in steps.
        tracks: The tracks.
    """

    genre: str
    artists: tuple[tuple[str, str], ...]
    tempo_bpm: tuple[int, int]
    scale: tuple[int, ...] = (0, 2, 4, 5, 7, 9, 11)
    progressions: tuple[str, ...]
    swing: float = 0.0
    tracks: tuple[Track, ...]


_BASS, _KIT = "bass guitar", "full acoustic drumkit"
_FLUTES = "flutes (piccolo, bamboo flute, panpipes, flutes etc)"
_PERCUSSION = "a-tonal percussion (claps, shakers, congas, cowbell etc)"
_BEAT = "kick:X.....x.X.......  snare:....X.......X...  hat:x.o.x.o.x.o.x.o."

STYLES = (
    Style(
        genre="pop",
        artists=(
            ("Paper Lantern Society", "Windows Left Open"),
            ("Copper Avenue", "Second Helping"),
            ("Delphine Carraway", "Kinder Weather"),
        ),
        tempo_bpm=(100, 114),
        progressions=("1564", "6415", "1645"),
        tracks=(
            Track("vocals", "lead female singer", "voice", "m---m-m---m-m---", 67, "VC", level_db=4.0),
            Track("bass", _BASS, "bass", "1--.1.1-5--.1.1-", 36, "VCO", mono=True),
            Track("drums", _KIT, _BEAT, level_db=3.0),
            Track("guitar", "clean electric guitar", "plucked", "x-x-..x-x-..x-x-", 60, pan=-0.5),
            Track("guitar", "acoustic guitar", "plucked", "1-5-8-5-3-5-8-5-", 64, "C", 0.5, -3.0),
            Track("piano", "grand piano", "piano", "x-------x---x---", 62, pan=0.2),
            Track("percussion", _PERCUSSION, "shaker:xoxoxoxoxoxoxoxo", sections="C", level_db=-5.0),
        ),
    ),
    Style(
        genre="jazz",
        artists=(
            ("Ilse Moreau Quintet", "Blue Umbrella"),
            ("Harbour Steps", "Mango Season"),
            ("The Late Tram", "Twelve Steps Down"),
        ),
        tempo_bpm=(96, 126),
        scale=(0, 2, 3, 5, 7, 9, 10),
        progressions=("2514", "1625", "3625"),
        swing=0.6,
        tracks=(
            Track("vocals", "lead male singer", "voice", "..m-m-m---m-m-m-", 62, "VC", level_db=3.0),
            Track("bass", "contrabass/double bass (bass of instrings)", "bass", "1---3---5---7---", 38),
            Track("drums", _KIT, "kick:o...o...o...o... hat:....x.......x... ride:X...x.x.X...x.x."),
            Track("piano", "grand piano", "piano", "..x---x-....x-..", 62, "VCO", 0.3, -1.0),
            Track("wind", "brass", "wind", "m-----m-m---m-m-", 65, "IC", -0.2, 1.0),
            Track("guitar", "clean electric guitar", "plucked", "x...x...x...x...", 58, "VC", -0.5, -4.0),
        ),
    ),
    Style(
        genre="electronic",
        artists=(
            ("Vesper Arcade", "Chrome Horizon"),
            ("Nine Kilohertz", "Afterimage Drive"),
            ("Soft Machinery", "Standby Light"),
        ),
        tempo_bpm=(112, 124),
        scale=(0, 2, 3, 5, 7, 8, 10),
        progressions=("1673", "6745", "1467"),
        tracks=(
            Track("vocals", "lead male singer", "voice", "m--m--m-m--m--m-", 60, "VC", level_db=3.0),
            Track("bass", "bass synthesizer (moog etc)", "bass", "1.1.8.1.1.1.8.1.", 36),
            Track(
                "drums",
                "drum machine",
                "kick:X...X...X...X... clap:....X.......X... hat:oox.oox.oox.ooxo",
                level_db=3.0,
            ),
            Track("other_keys", "synth pad", "strings", "x---------------", 62, "IVCO", 0.0, -3.0),
            Track("other_keys", "synth lead", "plucked", "1.3.5.8.5.3.5.8.", 69, "IC", -0.5, -5.0),
            Track("percussion", _PERCUSSION, "shaker:..x...x...x...x.", sections="VC", level_db=-4.0),
            Track(
                "other",
                "fx/processed sound, scratches, gun shots, explosions etc",
                "sweep",
                "........1-------",
                60,
                "IC",
                0.0,
                -6.0,
            ),
        ),
    ),
    Style(
        genre="folk",
        artists=(
            ("Anselm & the Orchard", "Waltz for the Last Bus"),
            ("Tall Shoes", "Apples in a Coat"),
            ("Marrow & Pine", "Little Lighthouse"),
        ),
        tempo_bpm=(84, 98),
        progressions=("1645", "1346", "4165"),
        tracks=(
            Track("vocals", "lead female singer", "voice", "m-m---m---m-m---", 66, "VC", level_db=4.0),
            Track("bass", _BASS, "bass", "1-------5-------", 38, "VCO"),
            Track("drums", _KIT, _BEAT, sections="VCO", level_db=-1.0),
            Track("guitar", "acoustic guitar", "plucked", "1-5-8-5-3-5-8-5-", 57, pan=-0.4),
            Track(
                "other_plucked",
                "banjo, mandolin, ukulele, harp etc",
                "plucked",
                "8.5.3.5.8.5.3.5.",
                69,
                "C",
                0.4,
            ),
            Track("bowed_strings", "string section", "strings", "x---------------", 66, "C", 0.0, -5.0),
            Track("wind", _FLUTES, "wind", "m-------m---m---", 76, "IO"),
        ),
    ),
)
