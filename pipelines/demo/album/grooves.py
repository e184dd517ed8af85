"""Rhythms as strings, one character for each sixteenth note: drum grooves, fills and the rhythms of melodies.

`X` accented, `x` plain, `o` soft, `-` goes on sounding, `.` rests. A bar has 16 steps (4/4) or 12 (3/4, 6/8).
"""

# One bar for each piece of the kit.
GROOVES: dict[str, dict[str, str]] = {
    "pop": {"kick": "X.....x.X.......", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o."},
    "pop chorus": {
        "kick": "X.x...x.X.x...x.",
        "snare": "....X.......X..o",
        "open": "x...x...x...x...",
        "hat": "..x...x...x...x.",
    },
    "funk": {
        "kick": "X..x..x...x..o..",
        "snare": "....X..o.o..X..o",
        "hat": "XoxoXoxoXoxoXo.o",
        "open": "..............x.",
    },
    "swing": {
        "kick": "o...o...o...o...",
        "hat": "....x.......x...",
        "ride": "X...x.x.X...x.x.",
        "snare": "......o.......o.",
    },
    "bossa": {"kick": "X.....x.X.....x.", "rim": "x..x..x...x..x..", "hat": "oooooooooooooooo"},
    "rock": {"kick": "X.....x.X.x.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
    "rock chorus": {
        "kick": "X.x...x.X.x...x.",
        "snare": "....X.......X...",
        "crash": "X...............",
        "ride": "X.x.X.x.X.x.X.x.",
    },
    "house": {
        "kick": "X...X...X...X...",
        "clap": "....X.......X...",
        "hat": "oox.oox.oox.ooxo",
        "open": "..x...x...x...x.",
    },
    "folk jig": {"kick": "X.....x.....", "snare": "....o.....x.", "hat": "x.o.x.x.o.x."},
    "soul": {
        "kick": "X......xX.x.....",
        "snare": "....X.......X..o",
        "hat": "x.x.x.x.x.x.x.xo",
        "open": "..............o.",
    },
    "one drop": {"kick": "........X.......", "rim": "........x.......", "hat": "x.o.x.o.x.o.x.oo"},
    "synthwave": {"kick": "X...x...X...x.x.", "snare": "....X.......X...", "hat": "xoxoxoxoxoxoxoxo"},
    "waltz": {"kick": "X...........", "snare": "....x...x...", "hat": "....o...o.o.", "ride": "x...o.x.o..."},
    "shaker": {"shaker": "xoxoxoxoxoxoxoxo", "tambourine": "....x.......x..."},
    "congas": {
        "low_conga": "......x.......xx",
        "high_conga": "x..x..o.x..x....",
        "cowbell": "x...x...x...x...",
    },
    "bossa percussion": {
        "claves": "x..x..x...x..x..",
        "shaker": "XoooXoooXoooXooo",
        "bongo": "x..o..x.x..o..xo",
    },
    "triangle": {"triangle": "x.....o.....", "shaker": "x.o.o.x.o.o.", "tambourine": "......x....."},
}

FILLS: dict[int, dict[str, str]] = {
    16: {
        "kick": "X...X...X.......",
        "snare": "....X...xxxx....",
        "high_tom": "............xX..",
        "low_tom": "..............xX",
    },
    12: {"kick": "X.....x.....", "snare": "....x.xxx...", "low_tom": ".........xxX"},
}

# A phrase is four bars: a motif, its answer, a contrast, a cadence.
MELODY_RHYTHMS: dict[int, tuple[str, ...]] = {
    16: (
        "x---x-x---x-x---",
        "x-x---x-x---....",
        "..x-x-x---x-x-x-",
        "x-----x-x---x-x-",
        "x--x--x-x--x--x-",
        "x-xxx---x-x-x---",
    ),
    12: ("x---x-x---x-", "x-----x-x-x-", "x---x---x-x-", "x-x-x-x-----", "..x-x-x---x-"),
}
SLOW_RHYTHMS: dict[int, tuple[str, ...]] = {
    16: ("x-------x-------", "x-----------x---", "x---------------"),
    12: ("x-----x-----", "x-------x---", "x-----------"),
}
CADENCE_RHYTHMS: dict[int, str] = {16: "x-x-x-------....", 12: "x-x-x-----.."}
