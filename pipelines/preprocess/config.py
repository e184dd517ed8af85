"""Configuration of preprocess."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.audio.codec import CodecConfig
from pipelines.dataset.shards import ShardsConfig
from pipelines.errors import UsageError
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.sources import SourcesConfig
from pipelines.preprocess.splits import SplitsConfig
from pipelines.runtime.run import resolve


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Everything that preprocess can be told.

    Args:
        data: Folders or URIs with MUSDB18-HQ, MoisesDB, folders of stems, or songs; what is there is found
            out.
        output: Folder or URI for the shards. A run on an output that was begun continues it.
        seed: Another seed draws other recipes.
        recipes: How many examples, and what of.
        codec: Degradations.
        sources: What may be a clean target.
        splits: How songs are divided.
        shards: How shards are cut.
        actors: Most actors, one CPU each; unset takes all CPUs.
        max_reject_share: Largest share of sources or of recipes that may be rejected for the run to count as
            done.
        verify: What to compare finished shards by when continuing: their whole content, or their size only.
        retry_rejects: Make shards with rejected recipes again.
    """

    data: list[str]
    output: str
    seed: int = 0
    recipes: RecipesConfig = field(default_factory=RecipesConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    actors: int | None = None
    max_reject_share: float = 0.01
    verify: str = "content"
    retry_rejects: bool = False

    def __post_init__(self) -> None:
        if not self.data or not self.output:
            raise UsageError("name at least one --data folder and an --output folder")
        object.__setattr__(self, "data", [resolve(folder, "--data") for folder in self.data])
        object.__setattr__(self, "output", resolve(self.output, "--output"))
        if self.verify not in ("content", "size"):
            raise UsageError(f"verify is {self.verify!r}: choose content or size")
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}: give 1 or more, or leave it unset")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share is {self.max_reject_share}: give a share from 0 to 1")

    def fingerprint_fields(self) -> dict[str, Any]:
        """Give the part that decides what the output holds, as plain values."""
        plain = asdict(self)
        parts = {
            name: plain[name] for name in ("data", "seed", "recipes", "codec", "sources", "splits", "shards")
        }
        for part, name in (
            ("codec", "ffmpeg"),
            ("codec", "timeout_seconds"),
            ("sources", "cache"),
            ("sources", "cache_gb"),
        ):
            del parts[part][name]
        return parts
