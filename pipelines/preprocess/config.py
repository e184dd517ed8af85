"""Configuration of preprocess."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.audio.codec import CodecConfig
from pipelines.dataset.shards import ShardsConfig
from pipelines.errors import UsageError
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.sources import SourcesConfig
from pipelines.preprocess.splits import SplitsConfig
from pipelines.preprocess.verification import CHECKSUM, WAYS
from pipelines.runtime.run import absolute_location


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Configuration of preprocess.

    Args:
        data: Folders or URIs with MUSDB18-HQ, MoisesDB, folders of stems, or songs; the layout is detected.
        output: Folder or URI for the shards. A run on an unfinished output continues it.
        seed: Seed of the recipes.
        recipes: Number and composition of the examples.
        codec: Degradations.
        sources: Which sources may be clean targets.
        splits: Assignment of songs to splits.
        shards: Size of the shards.
        actors: Maximum number of actors, one CPU each; unset uses all CPUs.
        max_reject_share: Largest share of rejected sources or recipes; above it the exit code is 3.
        verify: How finished shards are compared with their commits: `checksum` (size, and the store's ETag or
            a disk's time of modification; where that differs, SHA-256), `content` (SHA-256 of all, by actors)
            or `size`.
        retry_rejects: Render shards with rejected recipes again.
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
    verify: str = CHECKSUM
    retry_rejects: bool = False

    def __post_init__(self) -> None:
        if not self.data or not self.output:
            raise UsageError("--data and --output are required")
        object.__setattr__(self, "data", [absolute_location(folder, "--data") for folder in self.data])
        object.__setattr__(self, "output", absolute_location(self.output, "--output"))
        if self.verify not in WAYS:
            raise UsageError(f"verify is {self.verify!r}: choose {', '.join(WAYS)}")
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}: it must be at least 1, or unset")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share is {self.max_reject_share}: it must be from 0 to 1")

    def fingerprint_fields(self) -> dict[str, Any]:
        """Return the fields that decide the content of the output, as plain values."""
        plain = asdict(self)
        parts = {
            name: plain[name] for name in ("data", "seed", "recipes", "codec", "sources", "splits", "shards")
        }
        for name in ("cache", "cache_gb"):
            del parts["sources"][name]
        return parts | {"codec": self.codec.to_dict()}
