"""Estimate the size and cost of a run (`--dry-run`)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from apollo.audio.rejects import AudioError
from pipelines import schema
from pipelines.audio import reading
from pipelines.audio.codec import CodecConfig, Encoder
from pipelines.audio.degradations import parse, requested_bitrate
from pipelines.dataset.plan import count_shards
from pipelines.dataset.shards import ShardsConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import cpu_seconds, to_flac
from pipelines.preprocess.songs import DiscoveryResult
from pipelines.storage.folder import Entry

_PROBING_THREADS = 16
_TRIALS = 4
_NO_STEMS = 1
_FLAC_SHARE = 0.65  # of 16-bit PCM; measured on the recordings described in docs/data.md
_VBR_BPS, _VBR_STEP_BPS = 245_000, 20_000  # of LAME at quality 0, and less for each further quality
_OTHER_WORK = 1.15  # reading, mixing and writing, relative to encoding; docs/benchmarks.md


@dataclass(frozen=True)
class Estimate:
    """Result of a dry run."""

    songs: int
    tracks: int
    hours: float
    unknown: int
    unreadable: int
    recipes: dict[str, int]
    shards: int
    gigabytes: float
    core_hours: float

    def __str__(self) -> str:
        unknown = f", {self.unknown} more to be decoded first" if self.unknown else ""
        unreadable = f"; {self.unreadable} cannot be read" if self.unreadable else ""
        listed = ", ".join(f"{split} {number:,}" for split, number in self.recipes.items())
        return "\n".join(
            [
                f"songs    {self.songs:,} with {self.tracks:,} tracks{unreadable}",
                f"hours    {self.hours:.2f} of tracks{unknown}",
                f"recipes  {sum(self.recipes.values()):,} at most ({listed})",
                f"shards   {self.shards:,}, about {self.gigabytes:.2f} GB",
                f"cost     about {self.core_hours:.2f} core-hours of rendering, measured on {_TRIALS} "
                "excerpts on this machine",
            ]
        )


def make_estimate(
    discovered: DiscoveryResult, recipes: RecipesConfig, codec: CodecConfig, shards: ShardsConfig
) -> Estimate:
    """Read the headers of all files and encode a few excerpts of noise on this machine."""
    files = [entry for song in discovered.songs for entries in song.sources.values() for entry in entries]
    with ThreadPoolExecutor(_PROBING_THREADS) as pool:
        seconds = list(pool.map(_seconds, files))
    has_stems = any(set(song.sources) - {schema.MIXTURE} for song in discovered.songs)
    categories = len(schema.CATEGORIES) - 1 if has_stems else _NO_STEMS
    planned = {"train": recipes.train, "valid": recipes.valid, "test": recipes.test_per_category * categories}
    bytes_each = _FLAC_SHARE * schema.EXCERPT_FRAMES * schema.CHANNELS * 2
    bytes_each += sum(map(_estimate_bytes, codec.columns))
    total = sum(planned.values())
    return Estimate(
        songs=len(discovered.songs),
        tracks=len(files),
        hours=sum(value for value in seconds if value) / 3600,
        unknown=sum(value is None for value in seconds),
        unreadable=sum(value == 0 for value in seconds) + len(discovered.rejects),
        recipes=planned,
        shards=count_shards(planned.values(), shards.rows),
        gigabytes=total * bytes_each / 1e9,
        core_hours=total * _seconds_per_recipe(codec) / 3600,
    )


def _estimate_bytes(degradation: str) -> float:
    """Estimate the bytes of an excerpt by the bitrate that is asked for; of FLAC where there is none."""
    bitrate = requested_bitrate(degradation)
    if bitrate is None and (quality := parse(degradation)[-1]).variable:
        bitrate = _VBR_BPS - quality.value * _VBR_STEP_BPS
    if bitrate is None:
        return _FLAC_SHARE * schema.EXCERPT_FRAMES * schema.CHANNELS * 2
    return max(bitrate, 32_000) / 8 * schema.EXCERPT_SECONDS


def _seconds(entry: Entry) -> float | None:
    """Return a file's duration; None if it must be decoded first, 0 if it cannot be read."""
    try:
        known = reading.probe(entry.name)
    except AudioError:
        return 0.0
    return known.frames / known.sample_rate if known and known.frames else None


def _seconds_per_recipe(codec: CodecConfig) -> float:
    encoder = Encoder(codec)
    noise = np.random.default_rng(0).normal(0, 3_000, (schema.EXCERPT_FRAMES, schema.CHANNELS))
    excerpt = np.cumsum(noise, axis=0, dtype=np.float64)
    excerpt = (excerpt / np.abs(excerpt).max() * 20_000 + noise).clip(-32_768, 32_767).astype(np.int16)
    encoder.encode(excerpt)
    before = cpu_seconds()
    for _ in range(_TRIALS):
        encoder.encode(excerpt)
        to_flac(excerpt)
    return (cpu_seconds() - before) / _TRIALS * _OTHER_WORK
