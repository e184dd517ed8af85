"""Styles of the songs in MUSDB18-HQ's layout: each has vocals, drums, bass and something other."""

from pipelines.demo.album.styles import (
    ACOUSTIC,
    BACKING,
    BASS,
    CLEAN,
    COUNTER,
    DRUM_KIT,
    FLUTES,
    LEAD,
    MOOG,
    ORGAN,
    PERCUSSION,
    REEDS,
    SOLO,
    STRINGS,
    THIRD,
    TUNE,
    Sheet,
    Style,
)

SOUL = Style(
    genre="soul",
    artist="Delphine Carraway",
    titles=("Kinder Weather", "Sunday Telephone"),
    tempo_bpm=(78, 92),
    modes=("major", "mixolydian"),
    progressions=("1425", "1364", "2514"),
    voicing="1357",
    swing=0.25,
    sheets=(
        Sheet("vocals", "lead female singer", "solo voice", TUNE, centre=68, sections="VCO", level_db=4.0),
        Sheet("vocals", BACKING, "choir", "....x-x---------", THIRD, 66, "C", level_db=-4.0),
        Sheet("bass", BASS, "fingered bass", "1--.1.3.5--.7.8.", "1..11.8.5...3.5a", 36, "VCO"),
        Sheet("drums", DRUM_KIT, "standard kit", "soul", level_db=2.0),
        Sheet("other_keys", ORGAN, "organ", "x---------------", "", 62, "IVC", 0.3, -5.0),
        Sheet("guitar", CLEAN, "clean guitar", "....x.......x..o", "", 64, "VC", -0.5, -2.0),
        Sheet("wind", "brass", "brass", "x.x---..........", "", 65, "C", 0.1, -1.0),
    ),
)

SYNTHWAVE = Style(
    genre="electronic",
    artist="Vesper Arcade",
    titles=("Chrome Horizon", "Afterimage Drive"),
    tempo_bpm=(104, 118),
    modes=("minor",),
    progressions=("1673", "6745", "1467"),
    sheets=(
        Sheet("vocals", "lead male singer", "voice", TUNE, centre=61, sections="VC", level_db=3.0),
        Sheet("bass", MOOG, "synth bass", "1.1.1.1.1.1.1.1.", "1.8.1.8.1.8.1.8.", 36),
        Sheet("drums", "drum machine", "electronic kit", "synthwave", sections="VCO", level_db=3.0),
        Sheet("other_keys", "synth pad", "warm pad", "x---------------", "", 62, "IVCO", 0.0, -3.0),
        Sheet("other_keys", LEAD, "saw lead", COUNTER, "", 76, "IC", 0.2, -4.0),
        Sheet("other_keys", LEAD, "plucks", "1.3.5.8.5.3.5.8.", "", 69, "IC", -0.5, -5.0),
    ),
)

REGGAE = Style(
    genre="reggae",
    artist="Harbour Steps",
    titles=("Mango Season", "Little Lighthouse"),
    tempo_bpm=(72, 84),
    modes=("major", "dorian"),
    progressions=("1414", "1245", "1165"),
    swing=0.2,
    sheets=(
        Sheet("vocals", "lead male singer", "voice", TUNE, centre=60, sections="VC", level_db=3.0),
        Sheet("vocals", BACKING, "oohs", "..x-....x-......", "", 64, "C", 0.0, -4.0),
        Sheet("bass", BASS, "fingered bass", "1--.3.5-..1-....", "1-1-..3-5-5-8-..", 36, level_db=2.0),
        Sheet("drums", DRUM_KIT, "room kit", "one drop", level_db=1.0),
        Sheet("guitar", CLEAN, "muted guitar", "....X.......X...", "", 64, "IVCO", -0.5),
        Sheet("other_keys", ORGAN, "organ", "..x...xx..x...xx", "", 60, "VC", 0.5, -3.0),
        Sheet("percussion", PERCUSSION, "standard kit", "congas", sections="C", level_db=-5.0),
        Sheet("wind", REEDS, "tenor sax", SOLO, "", 64, "I", 0.1),
    ),
)

WALTZ = Style(
    genre="singer-songwriter",
    artist="Anselm & the Orchard",
    titles=("Waltz for the Last Bus", "Apples in a Coat"),
    tempo_bpm=(96, 112),
    steps_per_bar=12,
    progressions=("1645", "1346", "4165"),
    sheets=(
        Sheet("vocals", "lead male singer", "solo voice", TUNE, centre=62, sections="VC", level_db=4.0),
        Sheet("bass", BASS, "double bass", "1.......5...", "1...5...3...", 38, "VCO"),
        Sheet("drums", DRUM_KIT, "brush kit", "waltz", sections="VCO"),
        Sheet("guitar", ACOUSTIC, "nylon guitar", "1-5-8-5-9-5-", "X---x-o-x-o-", 57, pan=-0.4),
        Sheet("piano", "grand piano", "grand piano", "....x---x---", "x---x---x---", 64, "VCO", 0.3, -1.0),
        Sheet("bowed_strings", STRINGS, "strings", "x-----------", "", 66, "C", 0.0, -5.0),
        Sheet("wind", FLUTES, "flute", COUNTER, "", 78, "IO", 0.2, -2.0),
    ),
)

MUSDB_STYLES: tuple[Style, ...] = (SOUL, SYNTHWAVE, REGGAE, WALTZ)
