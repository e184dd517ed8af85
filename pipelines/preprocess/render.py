"""Render recipes to rows of a shard: mix, limit to full scale, encode, verify, measure.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import errno
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.rejects import RejectError, RejectKind
from pipelines.audio.codec import CodecConfig, CodecError, Encoder
from pipelines.audio.reading import SourceReader
from pipelines.dataset.plan import RECIPES, read_recipes
from pipelines.dataset.shards import ShardCommit, ShardsConfig, commit_shard, encode_shard, sha256_hex
from pipelines.preprocess.mixing import mix, read_sources
from pipelines.runtime import prometheus
from pipelines.runtime.versions import check_versions
from pipelines.schema import SAMPLE_RATE
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

_FULL_SCALE = 32_767 / 32_768
_ENCODER_ATTEMPTS = 2
_FULL_DISK = os.strerror(errno.ENOSPC)


@dataclass(frozen=True)
class RenderTask:
    """Configuration of a renderer, in plain values that Ray can send.

    Args:
        output: Path or URI of the output.
        cache: Path or URI of the decoded sources.
        codec: Degradations.
        shards: Size of the shards.
        versions: Versions of the run; a node with others must not render.
    """

    output: str
    cache: str
    codec: CodecConfig
    shards: ShardsConfig
    versions: dict[str, str]


def to_16_bit(samples: NDArray[np.float32]) -> tuple[NDArray[np.int16], float]:
    """Round samples to 16 bits, scaled down if they exceed full scale.

    Returns:
        The samples, and the gain in dB (at most 0).
    """
    scale = min(1.0, _FULL_SCALE / float(np.abs(samples).max(initial=0.0) or _FULL_SCALE))
    return np.rint(samples * np.float32(scale * 32_768)).clip(-32_768, 32_767).astype(np.int16), 20 * float(
        np.log10(scale)
    )


def to_flac(samples: NDArray[np.int16]) -> bytes:
    """Encode samples as 16-bit FLAC."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


class ShardRenderer:
    """Actor that renders and commits one shard at a time."""

    def __init__(self, task: RenderTask) -> None:
        self._task = task
        self._output = Folder(task.output)
        check_versions(task.versions, task.codec.ffmpeg)
        self._encoder = Encoder(task.codec)
        self._encode_seconds: list[float] = []
        self._reader = SourceReader(task.cache)
        self._sources = read_sources(self._output)
        self._plan = parquet.open_file(self._output.open(RECIPES))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the shard of a row (split, shard, first: its first row in the plan, rows).

        Returns:
            `rows`; as JSON, `commit` and `encode_seconds`: what each call of the encoder took.
        """
        self._encode_seconds.clear()
        commit = self.render(row["split"], row["shard"], self.recipes(row))
        return {
            "rows": commit.rows,
            "commit": json.dumps(asdict(commit)),
            "encode_seconds": json.dumps(self._encode_seconds),
        }

    def recipes(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the recipes of a shard from the plan."""
        return read_recipes(self._plan, row["first"], row["rows"], shard_rows=self._task.shards.rows)

    def render(self, split: str, shard: int, recipes: list[dict[str, Any]]) -> ShardCommit:
        """Render and commit one shard; the commit lists rejected recipes."""
        before = cpu_seconds()
        rows, rejected = [], []
        for recipe in recipes:
            try:
                rows.append(self.render_recipe(recipe))
            except RejectError as error:
                rejected.append({"recipe_id": recipe["recipe_id"], "reason": str(error), "kind": error.kind})
        degradations = self._task.codec.columns
        content = encode_shard(rows, degradations, self._task.shards.row_group_rows) if rows else b""
        commit = ShardCommit(
            split=split,
            shard=shard,
            rows=len(rows),
            bytes=len(content),
            sha256=sha256_hex(content),
            rejected=rejected,
            bitrates_bps={
                name: sorted({row[f"{name}_bitrate_bps"] for row in rows} - {None}) for name in degradations
            },
            cpu_seconds=round(cpu_seconds() - before, 3),
        )
        commit_shard(self._output, content, commit)
        return commit

    def render_recipe(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Render the row of one recipe.

        Raises:
            RejectError: a source or the encoder failed.
        """
        mixed = mix(recipe["components"], self._sources, self._reader)
        clean, mix_gain_db = to_16_bit(mixed.samples)
        encoded = self._encode(clean)
        row = {
            name: recipe[name] for name in ("recipe_id", "split", "category", "components", "songs_repeat")
        }
        row |= {
            "stems": [component["stem"] for component in recipe["components"]],
            "mix_gain_db": mix_gain_db,
            "bandwidth_hz": mixed.stored_bandwidth_hz,
            "sample_rate": SAMPLE_RATE,
            "frames": len(clean),
            "clean": to_flac(clean),
        }
        for name, result in encoded.items():
            row |= {
                name: result.stream,
                f"{name}_gain": result.gain,
                f"{name}_bitrate_bps": result.bitrate_bps,
            }
        return row

    def _encode(self, clean: NDArray[np.int16]) -> Any:
        reason = ""
        for _ in range(_ENCODER_ATTEMPTS):
            start = time.perf_counter()
            try:
                return self._encoder.encode(clean)
            except (FfmpegError, CodecError) as error:
                reason = str(error)
            finally:
                self._encode_seconds.append(round(time.perf_counter() - start, 4))
        if _FULL_DISK in reason:  # not an error of the excerpt
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
        raise RejectError(f"encoder: {reason}", RejectKind.ENCODER)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its ended children, in seconds."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def count_shard(commit: ShardCommit, encode_seconds: Iterable[float]) -> None:
    """Record a shard and its recipes as metrics.

    Args:
        commit: Commit of the shard.
        encode_seconds: Duration of each call of the encoder.
    """
    prometheus.record("apollo_shards_committed_total", split=commit.split)
    prometheus.record("apollo_shard_bytes_total", commit.bytes)
    prometheus.record("apollo_recipes_committed_total", commit.rows, split=commit.split)
    prometheus.record("apollo_render_cpu_seconds_total", commit.cpu_seconds)
    prometheus.count_rejects("apollo_recipes_rejected_total", commit.rejected)
    for seconds in encode_seconds:
        prometheus.record("apollo_encode_seconds", seconds)
