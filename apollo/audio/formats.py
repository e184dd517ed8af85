"""Output formats and options of restoring songs. Free of torch, so that `apollo --help` answers at once."""

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
_FIELDS = ("stem", "name", "parent")


@dataclass(frozen=True, kw_only=True)
class SongsConfig:
    """How songs are restored.

    Args:
        output: Folder for the results.
        format: `float`, `wav24`, `wav16`, `flac24` or `flac16`.
        clip: What happens to samples beyond full scale: `rescale` turns the file down, `clamp` cuts them,
            `none` keeps them, which only `float` can.
        filename: Name of a result without extension; {stem} is the input's without its extension, {name} with
            it, {parent} its folder's name. "/" makes folders.
        overwrite: Whether results that are there are made again; otherwise they are skipped.
        picture: Whether a picture of before and after lies beside every result.
        batch: Chunks of 5 seconds that are computed at a time. Memory grows with it, the result stays the
            same; a GPU is busier with more.
    """

    output: str = "restored"
    format: str = "float"
    clip: str = "rescale"
    filename: str = "{stem}"
    overwrite: bool = False
    picture: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: a field is out of its range.
        """
        for name, allowed in (("format", tuple(FORMATS)), ("clip", CLIP_MODES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(allowed)}")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: it must be at least 1")
        try:
            parts = list(string.Formatter().parse(self.filename))
        except ValueError as error:
            raise ValueError(f"filename {self.filename!r} is no template: {error}") from error
        fields = [name for _, name, _, _ in parts if name is not None]
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError(
                f"filename {self.filename!r}: {{stem}}, {{name}}, {{parent}} stand alone in braces"
            )
        if self.filename.endswith("/"):
            raise ValueError(f"filename {self.filename!r} ends in a folder: use {{stem}} after it")
        if unknown := [name for name in fields if name not in _FIELDS]:
            raise ValueError(f"filename knows {{stem}}, {{name}} and {{parent}}, not {{{unknown[0]}}}")
        if not fields:
            raise ValueError(f"filename {self.filename!r} gives all results one name: use {{stem}} in it")
