"""The composer: turns a style and a seed into a song, bar by bar, with sections, tunes and a human hand."""

from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np

from pipelines.demo.album.grooves import CADENCE_RHYTHMS, FILLS, GROOVES, MELODY_RHYTHMS, SLOW_RHYTHMS
from pipelines.demo.album.instruments import DRUM_PIECES, KITS
from pipelines.demo.album.styles import COUNTER, SOLO, THIRD, TUNE, Sheet, Style
from pipelines.demo.album.theory import TONES_PER_OCTAVE, Key

STEPS_PER_BEAT = 4
VELOCITIES = {"X": 112, "o": 58}
PLAIN_VELOCITY = 88
TIMING_SECONDS = 0.006  # standard deviation of a player's timing
VELOCITY_SPREAD = 6.0
STRUM_SECONDS = 0.009  # between neighbouring strings
TUNE_REACH = 9  # semitones to either side of a tune's centre
ENDING_SECONDS = 1.5  # how long the last chord rings


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note: start and duration in seconds, pitch as MIDI number, velocity 1 to 127."""

    start_seconds: float
    duration_seconds: float
    pitch: int
    velocity: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """The notes of one track of a song."""

    sheet: Sheet
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


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of the form: its section, its chord and the next bar's, and where it lies in the section."""

    section: str
    chord: int
    next_chord: int
    start_seconds: float
    index_in_section: int
    ends_section: bool
    ends_song: bool


@dataclass(frozen=True)
class Onset:
    """One event of a figure: first step, length in steps, and the character that says what sounds."""

    step: int
    length: int
    symbol: str


def compose(style: Style, *, seed: tuple[int, ...], title: str, seconds: float) -> Song:
    """Compose a song of about the given length; the same arguments give the same song."""
    rng = np.random.default_rng(seed)
    tempo_bpm = rng.uniform(*style.tempo_bpm)
    step_seconds = 60.0 / tempo_bpm / STEPS_PER_BEAT
    key = Key(tonic=int(rng.integers(12)), mode=str(rng.choice(style.modes)))
    num_bars = max(4, round((seconds - ENDING_SECONDS) / (style.steps_per_bar * step_seconds)))
    form = _form(style, num_bars=num_bars, bar_seconds=style.steps_per_bar * step_seconds, rng=rng)
    performance = _Performance(style=style, key=key, form=form, step_seconds=step_seconds, seed=seed)
    parts = (Part(sheet=sheet, notes=performance.notes(index)) for index, sheet in enumerate(style.sheets))
    return Song(
        uuid=uuid5(NAMESPACE_URL, f"album/{'/'.join(map(str, seed))}/{style.artist}/{title}"),
        artist=style.artist,
        title=title,
        genre=style.genre,
        seed=seed,
        parts=tuple(part for part in parts if part.notes),
    )


def _form(style: Style, *, num_bars: int, bar_seconds: float, rng: np.random.Generator) -> tuple[Bar, ...]:
    """Lay out intro, verses and choruses in turn (at most 8 bars each) and outro over the bars."""
    edge = min(4, max(1, num_bars // 6))
    body = num_bars - 2 * edge
    num_blocks = 2 * max(1, round(body / 16))
    blocks = [body * (block + 1) // num_blocks - body * block // num_blocks for block in range(num_blocks)]
    lengths = [("I", edge), *(("VC"[block % 2], length) for block, length in enumerate(blocks)), ("O", edge)]
    verse, chorus = rng.choice(style.progressions, size=2, replace=False)
    places = [(section, bar, length) for section, length in lengths for bar in range(length)]
    chords = [int((chorus if section == "C" else verse)[bar % 4]) for section, bar, _ in places]
    chords[-1] = 1
    return tuple(
        Bar(
            section=section,
            chord=chords[index],
            next_chord=chords[min(index + 1, num_bars - 1)],
            start_seconds=index * bar_seconds,
            index_in_section=bar,
            ends_section=bar == length - 1,
            ends_song=index == num_bars - 1,
        )
        for index, (section, bar, length) in enumerate(places)
    )


def read_figure(figure: str) -> tuple[Onset, ...]:
    """Read the onsets of one bar: any character but a rest or a hold starts a sound, holds lengthen it."""
    starts = [step for step, symbol in enumerate(figure) if symbol not in ".-"]
    lengths = [len(figure[step + 1 :]) - len(figure[step + 1 :].lstrip("-")) + 1 for step in starts]
    return tuple(Onset(step, length, figure[step]) for step, length in zip(starts, lengths, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Performance:
    """Everything that the players of one song agree on."""

    style: Style
    key: Key
    form: tuple[Bar, ...]
    step_seconds: float
    seed: tuple[int, ...]

    def notes(self, sheet_index: int) -> tuple[Note, ...]:
        """Play one sheet through the form."""
        sheet = self.style.sheets[sheet_index]
        rng = np.random.default_rng((*self.seed, 1, sheet_index))
        tunes = {section: self._tune(sheet, section) for section in "IVCO"}
        notes: list[Note] = []
        for bar in self.form:
            figure = sheet.chorus if bar.section == "C" and sheet.chorus else sheet.figure
            if bar.section not in sheet.sections:
                continue
            if sheet.instrument in KITS:
                notes += self._drum_bar(bar, figure, rng)
            elif figure in (TUNE, THIRD, COUNTER, SOLO):
                notes += self._tune_bar(bar, tunes[bar.section], figure, rng)
            else:
                notes += self._figure_bar(bar, sheet, figure, rng)
        return tuple(sorted(notes, key=lambda note: (note.start_seconds, note.pitch)))

    def _note(self, bar: Bar, onset: Onset, pitch: int, velocity: float, rng: np.random.Generator) -> Note:
        delay = self.style.swing if onset.step % STEPS_PER_BEAT >= STEPS_PER_BEAT // 2 else 0.0
        start = bar.start_seconds + (onset.step + delay) * self.step_seconds + rng.normal(0.0, TIMING_SECONDS)
        metre = 4.0 if onset.step % STEPS_PER_BEAT == 0 else -3.0
        length = 0.95 * onset.length * self.step_seconds + (ENDING_SECONDS / 2 if bar.ends_song else 0.0)
        return Note(
            start_seconds=max(0.0, start),
            duration_seconds=length,
            pitch=pitch,
            velocity=int(np.clip(velocity + metre + rng.normal(0.0, VELOCITY_SPREAD), 20, 127)),
        )

    def _drum_bar(self, bar: Bar, figure: str, rng: np.random.Generator) -> list[Note]:
        """Play a groove, a fill at a section's end, a crash at its start, one stroke at the song's end."""
        name, _, wanted = figure.partition("/")
        lanes = dict(GROOVES[name])
        if "kick" in lanes and bar.index_in_section == 0:
            lanes["crash"] = "X"
        if "kick" in lanes and bar.ends_section and bar.index_in_section > 0:
            lanes = {lane: row for lane, row in lanes.items() if lane == "hat"} | FILLS[
                self.style.steps_per_bar
            ]
        if bar.ends_song:
            lanes = {"kick": "X", "crash": "X"} if "kick" in lanes else dict.fromkeys(lanes, "x")
        return [
            self._note(bar, onset, DRUM_PIECES[lane].pitch, VELOCITIES.get(onset.symbol, PLAIN_VELOCITY), rng)
            for lane, row in lanes.items()
            if not wanted or lane in wanted.split()
            for onset in read_figure(row)
        ]

    def _figure_bar(self, bar: Bar, sheet: Sheet, figure: str, rng: np.random.Generator) -> list[Note]:
        """Play one bar of a figure over its chord; the song's last bar holds the figure's first sound."""
        steps = self.style.steps_per_bar
        if bar.ends_song:
            first = figure.lstrip(".-")[0]
            figure = (first if first != "a" else "1").ljust(steps, "-")
        notes = []
        for onset in read_figure(figure):
            pitches = self._pitches(bar, sheet, onset.symbol)
            velocity = VELOCITIES.get(onset.symbol, PLAIN_VELOCITY)
            for string, pitch in enumerate(pitches):
                note = self._note(bar, onset, pitch, velocity, rng)
                strum = string * STRUM_SECONDS if sheet.stem in ("guitar", "other_plucked") else 0.0
                notes.append(
                    Note(
                        start_seconds=note.start_seconds + strum,
                        duration_seconds=note.duration_seconds,
                        pitch=note.pitch,
                        velocity=note.velocity,
                    )
                )
        return notes

    def _pitches(self, bar: Bar, sheet: Sheet, symbol: str) -> tuple[int, ...]:
        if symbol in "xXo":
            return self.key.voicing(bar.chord, self.style.voicing, centre=sheet.centre)
        if symbol == "a":
            return (self.key.pitch(self.key.nearest_index(bar.next_chord, centre=sheet.centre), chord=1) - 1,)
        root = self.key.nearest_index(bar.chord, centre=sheet.centre)
        return (self.key.pitch(root + int(symbol) - 1, chord=bar.chord),)

    def _tune(self, sheet: Sheet, section: str) -> list[tuple[Onset, int]]:
        """Invent a section's tune: onsets (steps from the section's start) and scale indices.

        Four-bar phrases: a motif, the motif again over the next chord, a contrast, a cadence. Strong steps
        take chord tones, the others follow the motif's contour. Second voices find the same tune.
        """
        figure = sheet.chorus if section == "C" and sheet.chorus else sheet.figure
        kind = (TUNE, THIRD, COUNTER, SOLO).index(figure) if figure in (TUNE, THIRD, COUNTER, SOLO) else 0
        rng = np.random.default_rng((*self.seed, 2, max(1, kind), "IVCO".index(section)))
        steps = self.style.steps_per_bar
        rhythms = (SLOW_RHYTHMS if figure == COUNTER else MELODY_RHYTHMS)[steps]
        motif, contrast = rng.choice(rhythms, size=2, replace=False)
        contour = rng.choice((-2, -1, -1, 1, 1, 2), size=(2, steps))
        centre = self.key.nearest_index(1, centre=sheet.centre)
        index = centre + int(rng.integers(0, 5))
        tune = []
        for number, bar in enumerate(bar for bar in self.form if bar.section == section):
            phrase_bar = 3 if bar.ends_section else bar.index_in_section % 4
            rhythm = (motif, motif, contrast, CADENCE_RHYTHMS[steps])[phrase_bar]
            onsets = read_figure(str(rhythm)) if not bar.ends_song else (Onset(0, steps, "x"),)
            for count, onset in enumerate(onsets):
                index += int(contour[phrase_bar // 2, onset.step])
                if abs(index - centre - 2) > TUNE_REACH * TONES_PER_OCTAVE // 12:
                    index += 3 if index < centre else -3
                if count == 0 or onset.step % 8 == 0 or onset is onsets[-1]:
                    index = self.key.nearest_chord_index(index, chord=bar.chord)
                tune.append((Onset(number * steps + onset.step, onset.length, "x"), index))
        return tune

    def _tune_bar(
        self, bar: Bar, tune: list[tuple[Onset, int]], figure: str, rng: np.random.Generator
    ) -> list[Note]:
        """Play one bar of a tune, two scale steps lower for the second voice."""
        steps = self.style.steps_per_bar
        same_section = [other for other in self.form if other.section == bar.section]
        first = same_section.index(bar) * steps
        drop = 2 if figure == THIRD else 0
        return [
            self._note(
                bar,
                Onset(onset.step - first, onset.length, onset.symbol),
                self.key.pitch(index - drop, chord=bar.chord),
                PLAIN_VELOCITY + 6 * np.sin(np.pi * (onset.step - first) / steps),
                rng,
            )
            for onset, index in tune
            if first <= onset.step < first + steps
        ]
