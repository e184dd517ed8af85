"""Training examples that are mixed and encoded during training: new recipes in every epoch, as in the paper.

The sources, their windows and the codecs are those of an output of preprocess; its shards are not read.
Actors on the cluster's free CPUs mix and encode, and stream the results to the workers in order, as FLAC and
one bitstream. The examples are a pure function of (seed, epoch, position), for any number of workers and
actors; a resumed run makes the unfinished ones again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from apollo import rng
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.rejects import RejectError, RejectKind
from apollo.training.data import Example
from pipelines.audio.codec import CodecConfig, CodecError, Encoder
from pipelines.audio.reading import SourceReader
from pipelines.cluster.actor_pool import stream_actors
from pipelines.dataset.bad_rows import BadRowLog, CorruptDataError, Reject
from pipelines.dataset.shard_reader import CorruptRowError, EncodedRow
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.loading.examples import make_training_example
from pipelines.loading.prefetch import check_increasing, submit_ahead
from pipelines.loading.source_bitrates import lowest_bitrate, read_source_bitrates, usable_degradations
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.mixing import mix, read_sources
from pipelines.preprocess.recipes import RecipesConfig, draw_recipes
from pipelines.preprocess.render import to_16_bit, to_flac
from pipelines.runtime.run import FINGERPRINT
from pipelines.runtime.versions import check_versions, software_versions
from pipelines.storage import parquet
from pipelines.storage.folder import Folder, join

_SPLIT = "train"
_BLOCK_ROWS = 4  # about 1.3 MB made before any of it is sent
_MAX_TRIES = 100


@dataclass(frozen=True)
class MixTask:
    """Configuration of a mixer, in plain values that Ray can send.

    Args:
        output: Path or URI of the output of preprocess.
        cache: Path or URI of its decoded sources.
        codec: Available degradations.
        versions: Versions of the reading process; a node with others would make different examples.
    """

    output: str
    cache: str
    codec: CodecConfig
    versions: dict[str, str]


class ExampleMixer:
    """Actor that makes one example at a time, with one degradation."""

    def __init__(self, task: MixTask) -> None:
        check_versions(task.versions, task.codec.ffmpeg)
        self._sources = read_sources(Folder(task.output))
        self._reader = SourceReader(task.cache)
        self._encoders = {
            name: Encoder(replace(task.codec, degradations=(name,))) for name in task.codec.columns
        }

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the example of a row: number, recipe_id, degradation, components as JSON."""
        made = {name: row[name] for name in ("number", "recipe_id", "degradation")}
        try:
            made |= {"reason": "", "kind": ""}
            return made | self._make(json.loads(row["components"]), row["degradation"])
        except RejectError as error:
            made |= {"reason": str(error), "kind": error.kind.value}
            return made | {"clean": b"", "degraded": b"", "gain": 0.0, "frames": 0, "bandwidth_hz": 0.0}

    def _make(self, components: list[dict[str, Any]], degradation: str) -> dict[str, Any]:
        mixed = mix(components, self._sources, self._reader)
        clean, _ = to_16_bit(mixed.samples)
        try:
            encoded = self._encoders[degradation].encode(clean)[degradation]
        except (CodecError, FfmpegError) as error:
            raise RejectError(str(error), RejectKind.ENCODER) from error
        return {
            "clean": to_flac(clean),
            "degraded": encoded.stream,
            "gain": encoded.gain,
            "frames": len(clean),
            "bandwidth_hz": mixed.bandwidth_hz,
        }


class LiveSource:
    """Training examples without shards: every epoch has recipes of its own.

    Every epoch is planned as preprocess would, with a hash of seed and epoch as its seed. Degradation, piece
    and levels are drawn as in ShardSource. The reading process decodes. A resumed run reads the positions
    that it still needs, with new actors.

    Args:
        output: Path or URI of a planned output of preprocess, whose source files have not moved.
        config: Degradations, levels, pieces, decoding, and policy for recipes that cannot be made.
        epoch_examples: Examples of an epoch, of all workers together.
        seed: Another seed gives other recipes and other draws.
        actors: Maximum number of actors for this process. All processes together must leave one free CPU for
            each of them: otherwise the last waits, and the others wait for it.
        cache: Path or URI of the decoded sources, if preprocess was run with one.
        ffmpeg: Executable on every node; unset uses the bundled one.
        on_reject: Called once with each skipped recipe.

    Raises:
        UsageError: the output is not planned, has no training sources, or lacks a degradation.
    """

    def __init__(
        self,
        output: str,
        config: LoaderConfig | None = None,
        *,
        epoch_examples: int,
        seed: int = 0,
        actors: int = 1,
        cache: str = "",
        ffmpeg: str | None = None,
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        if epoch_examples < 1:
            raise ValueError(f"epoch_examples is {epoch_examples}: it must be at least 1")
        if actors < 1:
            raise ValueError(f"actors is {actors}: it must be at least 1")
        self.config = config or LoaderConfig()
        self._epoch_examples, self._seed, self._actors = epoch_examples, seed, actors
        planned = _read_config(Folder(output))
        codec = {
            **planned["codec"],
            **{name: tuple(planned["codec"].get(name, ())) for name in ("bitrates_bps", "degradations")},
            "ffmpeg": ffmpeg,
        }
        self._task = MixTask(
            output, cache or join(output, "cache"), CodecConfig(**codec), software_versions(ffmpeg)
        )
        self._recipes_config = RecipesConfig(**planned["recipes"])
        self.degradations = self.config.degradations or self._task.codec.columns
        if unknown := [name for name in self.degradations if name not in self._task.codec.columns]:
            raise UsageError(
                f"{output} has no degradation {', '.join(unknown)}; available: "
                f"{', '.join(self._task.codec.columns)}"
            )
        self._choice = self.config.choose_degradations(self.degradations, seed)
        self._catalog = _read_catalog(Folder(output))
        limited = self.config.below_source_bitrate
        self._bitrates = read_source_bitrates(Folder(output)) if limited else {}
        self._on_reject, self._output = on_reject, output
        self._rejects, self._epoch = self._new_log(), -1
        self._mixer: ExampleMixer | None = None

    def _new_log(self) -> BadRowLog:
        """Return a new log: every epoch has recipes of its own, and a share of its own."""
        return BadRowLog(
            self._output,
            self._epoch_examples,
            corrupt=self.config.corrupt,
            max_corrupt_share=self.config.max_corrupt_share,
            on_reject=self._on_reject,
        )

    @property
    def rejects(self) -> list[Reject]:
        """Recipes that this process has skipped in this epoch, each once."""
        return self._rejects.rejects

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at these positions of an epoch; see `apollo.training.data.ExampleSource`.

        Actors and threads end with the iterator.
        """
        if epoch != self._epoch:
            self._rejects, self._epoch = self._new_log(), epoch
        tasks = list(self._tasks(epoch, check_increasing(positions)))
        made = stream_actors(tasks, ExampleMixer, (self._task,), actors=self._actors, block_rows=_BLOCK_ROWS)
        pool = ThreadPoolExecutor(self.config.decode_threads, "decode")
        try:
            with closing(made):
                for row, example in submit_ahead(made, self._decode_result, pool, self.config.look_ahead):
                    yield self._result_or_replacement(epoch, row["number"], example)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _recipes_seed(self, epoch: int) -> int:
        return rng.stream_seed(self._seed, "live recipes", epoch)

    def _tasks(self, epoch: int, positions: Iterator[int]) -> Iterator[dict[str, Any]]:
        """Plan the recipes at these positions."""
        wanted = list(positions)
        if not wanted:
            return
        config = replace(self._recipes_config, train=wanted[-1] + 1)
        first, place = 0, 0
        for batch in draw_recipes(
            _SPLIT, self._catalog, config, seed=self._recipes_seed(epoch), shard_rows=1
        ):
            inside = []
            while place < len(wanted) and wanted[place] < first + len(batch):
                inside.append(wanted[place] - first)
                place += 1
            chosen = batch.select(["recipe_id", "components"]).take(pa.array(inside, pa.int64()))
            for offset, row in zip(inside, chosen.to_pylist(), strict=True):
                number = epoch * self._epoch_examples + first + offset
                lowest = lowest_bitrate(row["components"], self._bitrates)
                usable = usable_degradations(self.degradations, lowest)
                yield {
                    "number": number,
                    "recipe_id": row["recipe_id"],
                    "degradation": self._choice.draw(usable, number),
                    "components": json.dumps(row["components"]),
                }
            first += len(batch)

    def _decode_result(self, row: dict[str, Any]) -> Example:
        """Decode the result of an actor.

        Raises:
            CorruptRowError: the recipe could not be made.
        """
        if row["reason"]:
            raise CorruptRowError(row["recipe_id"], row["reason"], RejectKind(row["kind"]))
        columns = ("recipe_id", "degradation", "clean", "degraded", "gain", "frames", "bandwidth_hz")
        stored = EncodedRow(**{name: row[name] for name in columns}, shard="none: live")
        return make_training_example(
            stored,
            self.config.levels,
            piece_samples=self.config.piece_samples,
            seed=self._seed,
            index=row["number"],
        )

    def _result_or_replacement(self, epoch: int, number: int, made: Future[Example]) -> Example:
        try:
            return made.result()
        except CorruptRowError as error:
            self._rejects.add(error)
        return self._replacement(epoch, number - epoch * self._epoch_examples)

    def _replacement(self, epoch: int, position: int) -> Example:
        """Make the next valid example of the epoch in this process: the same one on every worker."""
        self._mixer = self._mixer or ExampleMixer(self._task)
        later = iter(range(position + 1, position + 1 + _MAX_TRIES))
        for task in self._tasks(epoch, later):
            try:
                return self._decode_result(self._mixer(task))
            except CorruptRowError as error:
                self._rejects.add(error)
        raise CorruptDataError(
            f"{_MAX_TRIES} recipes in a row cannot be made: have the source files of {self._task.output} "
            "been moved?"
        )


def _read_table(output: Folder, name: str, columns: list[str]) -> list[dict[str, Any]]:
    with output.open(name) as file:
        rows: list[dict[str, Any]] = parquet.read_table(file, columns).to_pylist()
    return rows


def _read_config(output: Folder) -> dict[str, Any]:
    if not output.exists("plan.json"):
        raise UsageError(
            f"{output.location} has no plan.json: choose an output of preprocess that is planned; its "
            "shards are not needed"
        )
    config: dict[str, Any] = json.loads(output.read(FINGERPRINT))["config"]
    return config


def _read_catalog(output: Folder) -> Catalog:
    columns = ["source_id", "stem", "group_id", "split", "left_out"]
    sources = [
        row
        for row in _read_table(output, "sources.parquet", columns)
        if row["split"] == _SPLIT and row["left_out"] is None
    ]
    if not sources:
        raise UsageError(f"{output.location} has no source for training")
    windows: dict[str, list[Any]] = {row["source_id"]: [] for row in sources}
    columns = ["source_id", "start", "frames", "rms_db", "active_starts"]
    for row in _read_table(output, "segments.parquet", columns):
        if row["source_id"] in windows:
            windows[row["source_id"]].append([row[name] for name in columns[1:]])
    return Catalog.of(sources, windows)
