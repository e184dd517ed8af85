"""Styles of the songs in MoisesDB's layout: eight bands that between them play all eleven stems."""

from pipelines.demo.album.styles import (
    ACOUSTIC,
    BACKING,
    BASS,
    CLEAN,
    CONTRABASS,
    COUNTER,
    DISTORTED,
    DRUM_KIT,
    EFFECTS,
    ELECTRIC_PIANO,
    FLUTES,
    LEAD,
    MALLETS,
    MOOG,
    ORGAN,
    OTHER_KEYS,
    PERCUSSION,
    PLUCKED,
    REEDS,
    SOLO,
    STRINGS,
    THIRD,
    TUNE,
    Sheet,
    Style,
)

POP = Style(
    genre="pop",
    artist="Paper Lantern Society",
    titles=("Windows Left Open", "Every Second Summer", "Postcards to Nobody"),
    tempo_bpm=(100, 114),
    progressions=("1564", "6415", "1645", "4156"),
    sheets=(
        Sheet("vocals", "lead female singer", "solo voice", TUNE, centre=67, sections="VC", level_db=4.0),
        Sheet("vocals", BACKING, "choir", THIRD, centre=67, sections="C", level_db=-5.0),
        Sheet("bass", BASS, "fingered bass", "1--.1.1-5--.1.1-", "1-1-1-1-1-5-8-5-", 36, "VCO", mono=True),
        Sheet("drums", DRUM_KIT, "room kit", "pop", "pop chorus", sections="VCO", level_db=2.0),
        Sheet("guitar", ACOUSTIC, "steel guitar", "X-x-o-x-x-o-x-o-", "X-xxx-xxX-xxx-xx", 60, pan=-0.5),
        Sheet("guitar", CLEAN, "clean guitar", "1-5-8-9-8-5-3-5-", "", 64, "C", 0.55, -3.0),
        Sheet("piano", "grand piano", "grand piano", "x-------x---x---", "X---x-x-X---x-x-", 62, pan=0.2),
        Sheet("percussion", PERCUSSION, "standard kit", "shaker", sections="C", level_db=-5.0),
        Sheet("other", EFFECTS, "reverse cymbal", "........1-------", "", 60, "I", 0.0, -8.0),
    ),
)

FUNK = Style(
    genre="funk",
    artist="Copper Avenue",
    titles=("Second Helping", "Loose Change", "Tall Shoes"),
    tempo_bpm=(98, 110),
    modes=("dorian", "mixolydian"),
    progressions=("1144", "1414", "1174"),
    voicing="3579",
    sheets=(
        Sheet("vocals", "lead male singer", "voice", TUNE, centre=60, sections="VC", level_db=3.0),
        Sheet("bass", BASS, "slap bass", "1..1..8.1...7.8.", "1.11..8.7.5.3.5a", 36, level_db=1.0, mono=True),
        Sheet("drums", "kick drum", "standard kit", "funk/kick", level_db=2.0, mono=True),
        Sheet("drums", "snare drum", "standard kit", "funk/snare", level_db=1.0, mono=True),
        Sheet("drums", "cymbals", "standard kit", "funk/hat open crash", level_db=-4.0),
        Sheet("guitar", CLEAN, "muted guitar", "..xo..xo.xo...xo", "X.xo.oxo.xo.X.xo", 64, pan=0.6),
        Sheet("other_keys", OTHER_KEYS, "clavinet", "x..x..x..x..x.x.", "", 60, "VC", -0.5, -2.0),
        Sheet("wind", "brass", "brass", "............x.x-", "x.x-....x.x---..", 65, "C", 0.1, 1.0),
        Sheet("wind", REEDS, "tenor sax", SOLO, "", 62, "IO", -0.15, 1.0),
        Sheet("percussion", PERCUSSION, "standard kit", "congas", sections="VC", level_db=-4.0),
    ),
)

JAZZ = Style(
    genre="jazz",
    artist="Ilse Moreau Quintet",
    titles=("Blue Umbrella", "Twelve Steps Down", "The Late Tram"),
    tempo_bpm=(132, 156),
    modes=("major", "dorian"),
    progressions=("2516", "1625", "3625"),
    voicing="3579",
    swing=0.6,
    sheets=(
        Sheet("wind", REEDS, "tenor sax", TUNE, SOLO, 62, "VC", 0.1, 3.0),
        Sheet("wind", "brass", "trumpet", COUNTER, THIRD, 67, "CO", -0.25),
        Sheet("piano", "grand piano", "grand piano", "...x--.....x--..", "x-....x--..x--x-", 63, pan=-0.3),
        Sheet("bass", CONTRABASS, "double bass", "1---3---5---a---", "1---5---7---a---", 38, level_db=1.0),
        Sheet("drums", DRUM_KIT, "brush kit", "swing", sections="VCO", level_db=-1.0),
        Sheet("percussion", MALLETS, "vibraphone", SOLO, "", 70, "IO", 0.5, 0.0),
    ),
)

CHAMBER = Style(
    genre="classical",
    artist="Mirador Chamber Players",
    titles=("Suite for a Grey Morning", "Three Small Doors", "Garden in Rain"),
    tempo_bpm=(84, 100),
    steps_per_bar=12,
    modes=("minor", "major"),
    progressions=("1451", "1645", "1465"),
    sheets=(
        Sheet(
            "bowed_strings", "violin (solo)", "violin", TUNE, centre=74, sections="VC", pan=-0.4, level_db=2.0
        ),
        Sheet("bowed_strings", "viola (solo)", "viola", "..3-5-..3-5-", THIRD, 62, "VCO", 0.15, -2.0),
        Sheet(
            "bowed_strings", "cello (solo)", "cello", "1-------5---", "1---8---5---", 45, pan=0.4, mono=True
        ),
        Sheet("wind", FLUTES, "flute", COUNTER, TUNE, 79, "CO", -0.15),
        Sheet("wind", REEDS, "clarinet", "..5-..3-..5-", "1-3-5-8-5-3-", 64, "VC", 0.25, -4.0),
        Sheet("other_plucked", PLUCKED, "harp", "1-3-5-8-5-3-", "1-5-8-9-8-5-", 60, pan=0.6),
        Sheet("bass", CONTRABASS, "pizzicato", "1.......1...", "1...1...5...", 40, "VC", 0.3, -3.0),
        Sheet("percussion", MALLETS, "glockenspiel", "8.....5.....", "", 88, "C", -0.5, -9.0),
    ),
)

BOSSA = Style(
    genre="bossa nova",
    artist="Tomaz e a Maré",
    titles=("Varanda", "Sal e Limão", "Domingo Devagar"),
    tempo_bpm=(120, 136),
    progressions=("1251", "1625", "4251"),
    voicing="3579",
    swing=0.1,
    sheets=(
        Sheet("vocals", "lead female singer", "voice", TUNE, centre=64, sections="VC", level_db=3.0),
        Sheet("guitar", ACOUSTIC, "nylon guitar", "x..x..x...x..x..", "x..x..x.x..x..x.", 60, pan=-0.35),
        Sheet("bass", BASS, "double bass", "1-----5-5-----1-", "", 38, "VCO"),
        Sheet("drums", DRUM_KIT, "brush kit", "bossa", sections="VCO", level_db=-1.0),
        Sheet("percussion", PERCUSSION, "standard kit", "bossa percussion", sections="ICO", level_db=-5.0),
        Sheet("piano", ELECTRIC_PIANO, "electric piano", "x-------....x---", "", 64, "C", 0.4, -2.0),
        Sheet("wind", FLUTES, "flute", SOLO, COUNTER, 76, "IC", 0.3),
        Sheet("bowed_strings", STRINGS, "strings", "x---------------", "", 67, "C", 0.0, -6.0),
    ),
)

ROCK = Style(
    genre="rock",
    artist="Northbound Kites",
    titles=("Gravel Road Radio", "Slow Burning Town", "Hold the Line Open"),
    tempo_bpm=(122, 140),
    modes=("minor", "mixolydian"),
    progressions=("1674", "1736", "1647"),
    voicing="158",
    sheets=(
        Sheet("vocals", "lead male singer", "solo voice", TUNE, centre=60, sections="VC", level_db=3.0),
        Sheet("vocals", BACKING, "oohs", "x---------------", "", 64, "C", 0.0, -4.0),
        Sheet("guitar", DISTORTED, "distorted guitar", "x.x.x.x-x.x.x-x-", "X---x-x-X---x-x-", 50, pan=-0.75),
        Sheet("guitar", DISTORTED, "distorted guitar", "X-------x-x-----", "", 55, "CO", 0.75),
        Sheet("bass", BASS, "picked bass", "1.1.1.1.1.1.1.1.", "1.1.1.1.5.5.7.7.", 35, "VCO", mono=True),
        Sheet("drums", DRUM_KIT, "power kit", "rock", "rock chorus", level_db=3.0),
        Sheet("other_keys", ORGAN, "organ", "x---------------", "", 62, "C", 0.3, -5.0),
        Sheet("percussion", PERCUSSION, "standard kit", "shaker/tambourine", sections="C", level_db=-7.0),
    ),
)

ELECTRONIC = Style(
    genre="electronic",
    artist="Halo Static",
    titles=("Night Bus Telemetry", "Soft Machinery", "Glass Antenna"),
    tempo_bpm=(118, 128),
    modes=("minor", "dorian"),
    progressions=("1637", "1764", "6711"),
    voicing="1357",
    sheets=(
        Sheet("bass", MOOG, "synth bass", "..1...1...1...1.", "1.1.8.1.1.1.7.8.", 36, "VC", level_db=2.0),
        Sheet("drums", "drum machine", "808 kit", "house", sections="VCO", level_db=3.0),
        Sheet("other_keys", "synth pad", "warm pad", "x---------------", "", 60, "IVC", 0.0, -3.0),
        Sheet("other_keys", LEAD, "saw lead", TUNE, "", 72, "C", 0.15, -1.0),
        Sheet("other_keys", LEAD, "plucks", "1.5.8.1.9.8.5.3.", "158.158.158.5.8.", 64, "IVCO", -0.4, -4.0),
        Sheet("other", EFFECTS, "halo", "1---------------", "", 72, "IO", 0.0, -4.0),
        Sheet("other", EFFECTS, "crystal", "....8.......5...", "", 76, "V", 0.5, -6.0),
        Sheet(
            "vocals", "other (vocoder, beatboxing etc)", "oohs", "x-x-....x-------", "", 66, "C", 0.0, -2.0
        ),
    ),
)

FOLK = Style(
    genre="folk",
    artist="Paper Lantern Society",
    titles=("The Miller's Lantern", "Seven Bridges Home", "Oak and Ember"),
    tempo_bpm=(92, 108),
    steps_per_bar=12,
    modes=("dorian", "mixolydian", "major"),
    progressions=("1741", "1471", "1414"),
    sheets=(
        Sheet("vocals", "lead female singer", "voice", TUNE, centre=65, sections="VC", level_db=3.0),
        Sheet("vocals", "human choir", "choir", THIRD, centre=65, sections="C", level_db=-4.0),
        Sheet("other_plucked", PLUCKED, "banjo", "1-5-8-5-3-5-", "158.5.8.538.", 62, pan=0.5, level_db=-2.0),
        Sheet("other_plucked", PLUCKED, "dulcimer", COUNTER, "", 74, "IC", -0.6, -3.0),
        Sheet("guitar", ACOUSTIC, "steel guitar", "X-o-x-X-o-x-", "X-xxx-X-xxx-", 58, "VCO", -0.4),
        Sheet("bowed_strings", "violin (solo)", "violin", SOLO, TUNE, 74, "IC", 0.2),
        Sheet("bass", CONTRABASS, "double bass", "1-----5-----", "1---1-5---5-", 38, "VCO"),
        Sheet("percussion", PERCUSSION, "standard kit", "triangle", sections="VCO", level_db=-5.0),
        Sheet("drums", DRUM_KIT, "brush kit", "folk jig", sections="CO", level_db=-2.0),
    ),
)

MOISESDB_STYLES: tuple[Style, ...] = (POP, FUNK, JAZZ, CHAMBER, BOSSA, ROCK, ELECTRONIC, FOLK)
