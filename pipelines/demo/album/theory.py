"""Keys, scale degrees and chords: the little harmony that the composer needs.

A *scale index* counts scale tones upwards from the tonic in octave 0: 0 is the tonic, 7 the next tonic.
A chord is written as a scale degree, 1 to 7; its tones are stacked thirds of the scale.
"""

from dataclasses import dataclass

TONES_PER_OCTAVE = 7
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
}
DOMINANT = 5
LEADING_TONE = 6


@dataclass(frozen=True, kw_only=True)
class Key:
    """A tonic and a mode.

    Args:
        tonic: pitch class, 0 (C) to 11 (B).
        mode: a key of SCALES.
    """

    tonic: int
    mode: str

    def pitch(self, index: int, *, chord: int) -> int:
        """Return the MIDI pitch of a scale index; a minor key's dominant raises the leading tone."""
        octave, tone = divmod(index, TONES_PER_OCTAVE)
        raised = self.mode == "minor" and chord == DOMINANT and tone == LEADING_TONE
        return self.tonic + 12 * octave + SCALES[self.mode][tone] + int(raised)

    def nearest_index(self, degree: int, *, centre: int) -> int:
        """Return the index of a scale degree (any integer from 1) in the octave around a MIDI pitch."""
        tone = (degree - 1) % TONES_PER_OCTAVE
        candidates = range(tone, 11 * TONES_PER_OCTAVE, TONES_PER_OCTAVE)
        return min(candidates, key=lambda index: abs(self.pitch(index, chord=1) - centre))

    def voicing(self, chord: int, tones: str, *, centre: int) -> tuple[int, ...]:
        """Return the chord's tones in the octave around the centre, so that chords move by small steps."""
        indices = (self.nearest_index(chord + int(tone) - 1, centre=centre) for tone in tones)
        return tuple(sorted(self.pitch(index, chord=chord) for index in indices))

    def nearest_chord_index(self, index: int, *, chord: int) -> int:
        """Return the index of the triad tone that is nearest to a scale index."""
        triad = {(chord - 1 + third) % TONES_PER_OCTAVE for third in (0, 2, 4)}
        around = (index + offset for offset in (0, 1, -1, 2, -2))
        return next(candidate for candidate in around if candidate % TONES_PER_OCTAVE in triad)
