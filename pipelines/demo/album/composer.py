"""The composer: turns a style and a seed into the notes of a song."""

from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np

from pipelines.demo.album.styles import Style, Track

STEPS_PER_BAR, STEPS_PER_BEAT = 16, 4
VELOCITIES = {"X": 1.0, "o": 0.35}
PLAIN_VELOCITY = 0.7
TIMING_SECONDS = 0.005  # standard deviation of a player's timing
ENDING_SECONDS = 1.5  # how long the last notes ring


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note: start and duration in seconds, velocity 0 to 1, and a MIDI pitch or the piece of a drum kit."""

    start_seconds: float
    duration_seconds: float
    velocity: float
    pitch: int = 0
    piece: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The notes of one track of a song."""

    track: Track
    notes: tuple[Note, ...]


@dataclass(frozen=True, kw_only=True)
class Song:
    """A composed song; its seed also decides how it is performed."""

    uuid: UUID
    artist: str
    title: str
    genre: str
    seed: tuple[int, ...]
    parts: tuple[Part, ...]


def compose(style: Style, seed: tuple[int, ...], artist: str, title: str, *, seconds: float) -> Song:
    """Compose a song of about the given length; the same arguments give the same song."""
    rng = np.random.default_rng(seed)
    step_seconds = 60.0 / rng.uniform(*style.tempo_bpm) / STEPS_PER_BEAT
    num_bars = max(6, round((seconds - ENDING_SECONDS) / (STEPS_PER_BAR * step_seconds)))
    tonic = int(rng.integers(12))
    verse, chorus = rng.choice(style.progressions, size=2, replace=False)
    form = _form(num_bars)
    chords = [int((chorus if section == "C" else verse)[bar % 4]) for bar, section in enumerate(form)]
    chords[-1] = 1
    melody = np.cumsum(rng.choice((-2, -1, -1, 1, 1, 2), size=STEPS_PER_BAR * 4)) % 9 - 4  # scale steps
    parts = []
    for number, track in enumerate(style.tracks):
        player = np.random.default_rng((*seed, number))
        notes = [
            note
            for bar, section in enumerate(form)
            if section in track.sections
            for note in _bar(style, track, bar, chords[bar], tonic, melody, step_seconds, player)
        ]
        parts.append(Part(track=track, notes=tuple(sorted(notes, key=lambda note: note.start_seconds))))
    uuid = uuid5(NAMESPACE_URL, f"album/{'/'.join(map(str, seed))}/{artist}/{title}")
    return Song(uuid=uuid, artist=artist, title=title, genre=style.genre, seed=seed, parts=tuple(parts))


def _form(num_bars: int) -> str:
    """Return the section of every bar: intro, verses and choruses of up to four bars by turns, outro."""
    edge = max(1, num_bars // 6)
    body = num_bars - 2 * edge
    blocks = 2 * max(1, round(body / 8))
    return "I" * edge + "".join("VC"[bar * blocks // body % 2] for bar in range(body)) + "O" * edge


def read_figure(figure: str) -> list[tuple[int, int, str]]:
    """Return the onsets of one bar: first step, length in steps, character."""
    onsets = [step for step, symbol in enumerate(figure) if symbol not in ".-"]
    return [
        (step, 1 + len(figure[step + 1 :]) - len(figure[step + 1 :].lstrip("-")), figure[step])
        for step in onsets
    ]


def read_kit(instrument: str) -> dict[str, str]:
    """Return the rows of a drum kit by piece; empty for other instruments."""
    rows = (row.partition(":") for row in instrument.split() if ":" in row)
    return {piece: row for piece, _, row in rows}


def _bar(
    style: Style,
    track: Track,
    bar: int,
    chord: int,
    tonic: int,
    melody: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    step_seconds: float,
    rng: np.random.Generator,
) -> list[Note]:
    """Return the notes of one track in one bar."""
    notes = []
    for piece, row in (read_kit(track.instrument) or {"": track.figure}).items():
        for step, length, symbol in read_figure(row):
            late = style.swing if step % STEPS_PER_BEAT >= STEPS_PER_BEAT // 2 else 0.0
            start = (bar * STEPS_PER_BAR + step + late) * step_seconds + rng.normal(0.0, TIMING_SECONDS)
            velocity = VELOCITIES.get(symbol, PLAIN_VELOCITY) * rng.uniform(0.85, 1.0)
            if piece:
                degrees = [0]
            elif symbol == "m":
                degrees = [chord + int(melody[(bar % 4) * STEPS_PER_BAR + step])]
            else:
                degrees = [chord + int(tone) - 1 for tone in ("135" if symbol == "x" else symbol)]
            notes += [
                Note(
                    start_seconds=max(0.0, start),
                    duration_seconds=0.95 * length * step_seconds,
                    velocity=velocity,
                    pitch=0 if piece else _pitch(degree, style.scale, tonic, track.centre),
                    piece=piece,
                )
                for degree in degrees
            ]
    return notes


def _pitch(degree: int, scale: tuple[int, ...], tonic: int, centre: int) -> int:
    """Return the MIDI pitch of a scale degree (1 is the tonic) in the octaves around a centre."""
    octave, tone = divmod(degree - 1, len(scale))
    base = centre - (centre - tonic + 6) % 12 + 6  # the tonic within six semitones of the centre
    return base + 12 * octave + scale[tone]
