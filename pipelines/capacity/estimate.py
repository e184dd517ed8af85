"""Estimate a run's core-hours, GPU-hours, disk, network, memory and cost: measured rates times amounts.

Assumptions and limits: docs/scaling.md.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Literal

from pipelines.dataset.plan import count_shards
from pipelines.errors import UsageError
from pipelines.schema import CHANNELS, EXCERPT_SECONDS, SAMPLE_RATE

_PCM_BYTES = 2 * CHANNELS * SAMPLE_RATE  # a second of 16-bit stereo
_MAY_BE_ZERO = {"gpus", "parameters", "score_items", "models", "months"}


def _check(name: str, value: object, zero: bool) -> None:
    if isinstance(value, (int, float)) and not (0 < value < math.inf or (zero and value == 0)):
        raise UsageError(
            f"{name} is {value}: expected a finite number {'of 0 or more' if zero else 'above 0'}"
        )


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices in any currency; the default is 0.

    Args:
        core_hour: Price of a CPU core for an hour.
        gpu_hour: Price of a GPU for an hour.
        gb_month: Price of a GB of disk for a month.
    """

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    gb_month: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check(f"prices.{name}", value, zero=True)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of data, cluster and training; the defaults are those of the Apollo paper where it gives them.

    Args:
        songs: Number of songs to scan.
        recipes: Number of recipes in all splits together.
        song_seconds: Mean length of a song.
        tracks: Files per song: its stems and, where there is one, its mixture.
        shard_rows: Recipes per shard.
        row_group_rows: Recipes per Parquet row group.
        components: Mean number of sources per recipe: half are one song, half a mix of 1 to 8.
        cores: CPU cores in all.
        cores_per_node: CPU cores per node.
        gpus: GPUs for training; 0 leaves training out.
        gpus_per_node: GPUs per node.
        gpu_step_seconds: Duration of a training step on your GPU: `python -m benchmarks.gan_step`. Without
            it the hours of training are unknown.
        micro_batch: Examples per GPU and step.
        source: Whether training reads `shards` or mixes `live`.
        epochs: Number of training epochs.
        epoch_examples: Examples per epoch.
        parameters: Parameters of generator and discriminator, whose gradients are exchanged between nodes.
        score_items: Items to score, each at every bitrate.
        models: Models to score beside the degraded input; they run on CPUs.
        months: How long sources and shards are stored.
        prices: Prices.
    """

    songs: int
    recipes: int
    song_seconds: float = 240.0
    tracks: float = 5.0
    shard_rows: int = 64
    row_group_rows: int = 8
    components: float = 2.75
    cores: int = 64
    cores_per_node: int = 64
    gpus: int = 0
    gpus_per_node: int = 8
    gpu_step_seconds: float | None = None
    micro_batch: int = 1
    source: Literal["shards", "live"] = "shards"
    epochs: int = 500
    epoch_examples: int = 40_000
    parameters: int = 19_310_811
    score_items: int = 0
    models: int = 1
    months: float = 1.0
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check(name, value, zero=name in _MAY_BE_ZERO)
        if self.source not in ("shards", "live"):
            raise UsageError(f"source is {self.source!r}: expected shards or live")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured by `benchmarks.rates`: CPU seconds on one core, child processes included, and bytes."""

    machine: str  # CPU, date and music of the measurement
    degradations: int  # bitrates per recipe
    scan_seconds: float  # scan a second of a track
    render_seconds: float  # render a recipe with all bitrates and write its part of the shard
    start_seconds: float  # start and end an actor
    plan_song_seconds: float  # a song in the driver, from its scan to the plan
    plan_seconds: float  # draw and write a recipe in the driver
    shard_seconds: float  # schedule, read, check and finalize a shard in the driver
    load_seconds: float  # load a training example from a shard
    mix_seconds: float  # mix a training example live, in addition to loading it
    score_seconds: float  # all metrics of an item at one bitrate
    restore_seconds: float  # restore a second of stereo: released size, float32, CPU
    clean_bytes: float  # FLAC of a recipe
    recipe_bytes: float  # a recipe in its shard
    driver_bytes: float  # memory of the preprocess driver at its start
    driver_song_bytes: float  # peak memory per song of four minutes and five tracks
    driver_recipe_bytes: float  # peak memory per planned recipe
    driver_shard_bytes: float  # peak memory per shard

    @classmethod
    def from_json(cls, text: str | bytes) -> "Rates":
        """Read a rates file; raise UsageError if a rate is missing, unknown, negative or non-finite."""
        try:
            rates = cls(**json.loads(text))
            for name, value in vars(rates).items():
                if name != "machine":
                    _check(name, float(value), zero=True)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"not a rates file ({error}): write one with `python -m benchmarks.rates FILE`"
            ) from error
        return rates


@dataclass(frozen=True)
class Part:
    """Estimate of one part of a run."""

    name: str
    core_hours: float
    hours: float | None  # wall time with the plan's cores and GPUs; None if unknown
    gpu_hours: float = 0.0
    node_bytes: float = 0.0  # network traffic of one node, bytes per second


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run whose parts run one after the other."""

    parts: tuple[Part, ...]
    source_gb: float  # disk for sources as 16-bit WAV
    shard_gb: float
    driver_gb: float  # peak memory of the preprocess driver
    examples_per_core: float  # training examples that a core loads per second
    feeding_cores: int | None  # cores that keep all GPUs busy; None if unknown
    core_hours: float
    gpu_hours: float
    money: float
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{'':8s}{'core-hours':>12s}{'GPU-hours':>12s}{'hours':>10s}{'MB/s a node':>14s}"]
        for part in self.parts:
            known = part.hours is not None
            gpu_hours, hours = (f"{part.gpu_hours:,.1f}", f"{part.hours:,.3f}") if known else "??"
            line = f"{part.name:8s}{part.core_hours:12,.3f}{gpu_hours:>12s}{hours:>10s}"
            lines.append(f"{line}{part.node_bytes / 1e6:14,.1f}")
        money = f"{self.money:,.2f} at the given prices" if self.money else "unknown: no prices given"
        lines += [
            f"all     {self.core_hours:12,.3f}{self.gpu_hours:12,.1f}",
            f"disk    {self.source_gb + self.shard_gb:,.1f} GB: sources {self.source_gb:,.1f}, shards "
            f"{self.shard_gb:,.1f}",
            f"driver  {self.driver_gb:,.2f} GB of memory at peak",
            f"money   {money}",
        ]
        return "\n".join([*lines, *self.remarks])


def estimate(plan: Plan, rates: Rates) -> Estimate:
    """Return the estimate of a plan at these rates."""
    load = rates.load_seconds + (rates.mix_seconds if plan.source == "live" else 0.0)
    parts, feeding, remarks = _preprocess(plan, rates), None, []
    if plan.gpus:
        parts.append(_train(plan, rates, load))
        if plan.gpu_step_seconds is None:
            remarks.append(
                "training time is unknown: set --gpu_step_seconds to a step's duration on your GPU"
            )
        else:
            needed = plan.gpus * plan.micro_batch / plan.gpu_step_seconds
            feeding = math.ceil(needed * load)
            limit = "the GPUs limit"
            if feeding > plan.cores:
                waiting = 1 - plan.cores / load / needed
                limit = f"there are {plan.cores}, so the GPUs wait {waiting:.0%} of the time"
            use = f"{plan.gpus} GPUs use {needed:,.0f} examples/s, which {feeding} cores load"
            remarks.append(f"{use} at {1 / load:.0f} each; {limit}")
    if plan.score_items:
        items = plan.score_items * rates.degradations
        restoring = plan.models * EXCERPT_SECONDS * rates.restore_seconds
        seconds = (1 + plan.models) * rates.score_seconds + restoring
        actors = min(plan.cores, items)
        parts.append(_pool("score", actors, items / actors * seconds, actors, rates))
    source_gb = plan.songs * plan.song_seconds * plan.tracks * _PCM_BYTES / 1e9
    shard_gb = plan.recipes * rates.recipe_bytes / 1e9
    driver = rates.driver_bytes + plan.songs * rates.driver_song_bytes
    driver += plan.recipes * rates.driver_recipe_bytes
    driver += count_shards([plan.recipes], plan.shard_rows) * rates.driver_shard_bytes
    core_hours, gpu_hours = sum(part.core_hours for part in parts), sum(part.gpu_hours for part in parts)
    prices = plan.prices
    money = core_hours * prices.core_hour + gpu_hours * prices.gpu_hour
    money += prices.gb_month * plan.months * (source_gb + shard_gb)
    return Estimate(
        tuple(parts),
        source_gb,
        shard_gb,
        driver / 1e9,
        1 / load,
        feeding,
        core_hours,
        gpu_hours,
        money,
        tuple(remarks),
    )


def _preprocess(plan: Plan, rates: Rates) -> list[Part]:
    shards = count_shards([plan.recipes], plan.shard_rows)
    node_cores = min(plan.cores, plan.cores_per_node)
    song = plan.song_seconds * plan.tracks * rates.scan_seconds
    shard = plan.recipes / shards * rates.render_seconds
    read = plan.components * EXCERPT_SECONDS * _PCM_BYTES + rates.recipe_bytes
    planning = (plan.songs * rates.plan_song_seconds + plan.recipes * rates.plan_seconds) / 3600
    closing = shards * rates.shard_seconds / 3600
    return [
        _pool("scan", plan.songs, song, plan.cores, rates, node_cores * _PCM_BYTES / rates.scan_seconds),
        Part("plan", planning, planning),
        _pool("render", shards, shard, plan.cores, rates, node_cores * read / rates.render_seconds),
        Part("close", closing, closing),
    ]


def _pool(name: str, items: int, seconds: float, cores: int, rates: Rates, node_bytes: float = 0.0) -> Part:
    """Return the estimate of actors that process one item at a time."""
    actors = min(cores, items)
    core_seconds = items * seconds + actors * rates.start_seconds
    wall_seconds = math.ceil(items / actors) * seconds + rates.start_seconds
    return Part(name, core_seconds / 3600, wall_seconds / 3600, node_bytes=node_bytes)


def _train(plan: Plan, rates: Rates, load: float) -> Part:
    examples = plan.epochs * plan.epoch_examples
    core_hours = examples * load / 3600
    if plan.gpu_step_seconds is None:
        return Part("train", core_hours, None)
    steps = math.ceil(examples / (plan.gpus * plan.micro_batch))
    hours = max(steps * plan.gpu_step_seconds / 3600, core_hours / plan.cores)
    nodes = math.ceil(plan.gpus / plan.gpus_per_node)
    gradients = 2 * (nodes - 1) / nodes * plan.parameters * 4 * steps  # float32, ring all-reduce over nodes
    fetched = bytes_per_example(plan, rates) * examples * min(1, plan.gpus_per_node / plan.gpus)
    return Part("train", core_hours, hours, hours * plan.gpus, (gradients + fetched) / (hours * 3600))


def bytes_per_example(plan: Plan, rates: Rates) -> float:
    """Return the bytes that a training worker fetches per example.

    It fetches whole row groups but uses a random share of a window's rows: it fetches a group of r rows with
    probability 1 - (1 - share)^r.
    """
    stream = (rates.recipe_bytes - rates.clean_bytes) / rates.degradations
    if plan.source == "live":
        return rates.clean_bytes + stream
    rows, share = plan.row_group_rows, 1 / max(plan.gpus, 1)
    used = rows * share / (1 - math.pow(1 - share, rows))  # rows used of a fetched group
    columns = rates.degradations * (1 - math.pow(1 - 1 / rates.degradations, used))  # distinct bitrates used
    return rows * (rates.clean_bytes + columns * stream) / used
