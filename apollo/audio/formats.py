"""Output formats and options for restoring songs; no torch import, to keep `apollo --help` fast."""

import string
from dataclasses import dataclass

FORMATS = {  # by name: container, sample format, extension
    "float": ("WAV", "FLOAT", "wav"),
    "wav24": ("WAV", "PCM_24", "wav"),
    "wav16": ("WAV", "PCM_16", "wav"),
    "flac24": ("FLAC", "PCM_24", "flac"),
    "flac16": ("FLAC", "PCM_16", "flac"),
}
CLIP_MODES = ("rescale", "clamp", "none")
CHUNK_SECONDS = 5.0
MAX_STRENGTH = 1.5
_FIELDS = ("stem", "name", "parent")


@dataclass(frozen=True, kw_only=True)
class SongsConfig:
    """Options for restoring songs.

    Args:
        output: Output folder.
        format: `float`, `wav24`, `wav16`, `flac24` or `flac16`.
        clip: Handling of samples beyond full scale: `rescale` scales the whole file down, `clamp` clips them,
            `none` keeps them, which only `float` can.
        filename: Output name without extension; {stem} is the input's name without its extension, {name}
            with it, {parent} the name of its folder. "/" makes folders.
        overwrite: Whether existing outputs are replaced; otherwise they are skipped.
        picture: Whether to write a PNG with the spectrograms before and after, beside the output.
        batch: Length of the chunks, in 5 seconds, whatever memory is free; None chooses it by free memory.
            The output does not depend on it: on a CPU to the byte, elsewhere to float rounding.
        strength: Strength of the noise that replaces what the codec removed, 0 to 1.5; None takes the
            generator's default.
        seed: Seed of the noise; the same seed gives the same output.
    """

    output: str = "restored"
    format: str = "float"
    clip: str = "rescale"
    filename: str = "{stem}"
    overwrite: bool = False
    picture: bool = False
    batch: int | None = None
    strength: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ValueError: a field is out of its range.
        """
        for name, allowed in (("format", tuple(FORMATS)), ("clip", CLIP_MODES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(allowed)}")
        if self.strength is not None and not 0 <= self.strength <= MAX_STRENGTH:
            raise ValueError(f"strength is {self.strength}: it must be from 0 to {MAX_STRENGTH}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}: it must be at least 1")
        try:
            parts = list(string.Formatter().parse(self.filename))
        except ValueError as error:
            raise ValueError(f"filename {self.filename!r} is not a valid template: {error}") from error
        fields = [name for _, name, _, _ in parts if name is not None]
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError(
                f"filename {self.filename!r}: {{stem}}, {{name}}, {{parent}} take no format specification"
            )
        if self.filename.endswith("/"):
            raise ValueError(f"filename {self.filename!r} ends with /: add {{stem}} after it")
        if unknown := [name for name in fields if name not in _FIELDS]:
            raise ValueError(f"filename takes {{stem}}, {{name}} and {{parent}}, not {{{unknown[0]}}}")
        if not fields:
            raise ValueError(f"filename {self.filename!r} is the same for all outputs: add {{stem}}")
