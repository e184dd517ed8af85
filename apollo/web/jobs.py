"""Names of the jobs of a song: `parts`, or a format and a strength such as `flac24-0.750`."""

import re
from dataclasses import dataclass

from apollo.audio.formats import SongsConfig

PARTS = "parts"  # what is listened to
_RESULT = re.compile(r"([a-z0-9]+)-(\d\.\d{3}|default)")


@dataclass(frozen=True)
class ResultJob:
    """A file to download.

    Args:
        format: One of FORMATS.
        strength: Of the noise; None takes the model's.
    """

    format: str
    strength: float | None

    @classmethod
    def choose(cls, format: str, strength: float | None) -> "ResultJob":
        """Return the job of a format, which may be short as `flac`, and a strength.

        Raises:
            ValueError: there is no such format, or the strength is out of its range or too fine for a name.
        """
        config = SongsConfig(format=format, strength=strength)
        if strength is not None and strength != round(strength, 3):
            raise ValueError(f"strength is {strength}: it must have at most three decimals")
        return cls(config.format, strength)

    @classmethod
    def parse(cls, name: str) -> "ResultJob":
        """Return the job of a name.

        Raises:
            ValueError: it is none.
        """
        match = _RESULT.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no result")
        return cls.choose(match[1], None if match[2] == "default" else float(match[2]))

    @property
    def name(self) -> str:
        """Its name, which is part of file names."""
        return f"{self.format}-" + ("default" if self.strength is None else f"{self.strength:.3f}")
