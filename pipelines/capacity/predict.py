"""The road on paper: from rates and a plan to cores, hours, disk, network, memory and money.

Pure arithmetic, linear in everything: what it takes for granted, and where that ends, is in docs/scaling.md.
"""

import math
from dataclasses import dataclass

from pipelines.capacity.plan import Plan
from pipelines.capacity.rates import Rates
from pipelines.schema import CHANNELS, EXCERPT_SECONDS, SAMPLE_RATE

_TRACK_BYTES = 2 * CHANNELS * SAMPLE_RATE  # a second of 16-bit stereo
_GRADIENT_BYTES = 4


@dataclass(frozen=True)
class Part:
    """A part of the road.

    Args:
        name: Which.
        core_hours: Processor time.
        hours: By the clock, with the plan's cores and GPUs; None where a rate is missing.
        gpu_hours: All GPUs together.
        node_bytes: What goes in and out of one of its nodes in a second.
    """

    name: str
    core_hours: float
    hours: float | None
    gpu_hours: float = 0.0
    node_bytes: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What a plan costs.

    Args:
        parts: One after the other.
        source_gb: Disk of the sources, as 16-bit WAV.
        shard_gb: Disk of the shards.
        driver_gb: Peak memory of the driver of preprocess.
        examples_per_core: Training examples that a core makes ready in a second.
        feeding_cores: Cores that keep all GPUs fed; None where their step time is not given.
        money: By the prices.
        remarks: What limits, and what is not known.
    """

    parts: tuple[Part, ...]
    source_gb: float
    shard_gb: float
    driver_gb: float
    examples_per_core: float
    feeding_cores: int | None
    money: float
    remarks: tuple[str, ...]

    @property
    def core_hours(self) -> float:
        """Of all parts."""
        return sum(part.core_hours for part in self.parts)

    @property
    def gpu_hours(self) -> float:
        """Of all parts."""
        return sum(part.gpu_hours for part in self.parts)

    def __str__(self) -> str:
        lines = [f"{'':8s}{'core-hours':>12s}{'GPU-hours':>12s}{'hours':>10s}{'MB/s a node':>14s}"]
        for part in self.parts:
            hours = "?" if part.hours is None else f"{part.hours:,.3f}"
            gpu_hours = "?" if part.hours is None else f"{part.gpu_hours:,.1f}"
            network = f"{part.node_bytes / 1e6:,.1f}"
            lines.append(f"{part.name:8s}{part.core_hours:12,.3f}{gpu_hours:>12s}{hours:>10s}{network:>14s}")
        money = f"{self.money:,.2f} by the prices given" if self.money else "unknown: no prices given"
        lines += [
            f"all     {self.core_hours:12,.3f}{self.gpu_hours:12,.1f}",
            f"disk    {self.source_gb + self.shard_gb:,.1f} GB: sources {self.source_gb:,.1f}, shards "
            f"{self.shard_gb:,.1f}",
            f"driver  {self.driver_gb:,.2f} GB of memory at most",
            f"money   {money}",
            *self.remarks,
        ]
        return "\n".join(lines)


def predict(plan: Plan, rates: Rates) -> Costs:
    """Reckon what a plan costs at these rates."""
    parts = [*_preprocess(plan, rates)]
    per_example = rates.load_seconds + (rates.mix_seconds if plan.source == "live" else 0.0)
    feeding, remarks = None, []
    if plan.gpus:
        parts.append(_train(plan, rates, per_example))
        if plan.gpu_step_seconds is None:
            remarks.append("training takes an unknown time: give --gpu_step_seconds of your GPU")
        else:
            wanted = plan.gpus * plan.micro_batch / plan.gpu_step_seconds
            feeding = math.ceil(wanted * per_example)
            remarks.append(_limit(plan, wanted, feeding, 1 / per_example))
    if plan.score_items:
        parts.append(_score(plan, rates))
    source_gb = plan.songs * plan.song_seconds * plan.tracks * _TRACK_BYTES / 1e9
    shard_gb = plan.recipes * rates.recipe_bytes / 1e9
    driver = rates.driver_bytes + plan.songs * rates.driver_song_bytes
    driver += plan.recipes * rates.driver_recipe_bytes + plan.shards * rates.driver_shard_bytes
    prices = plan.prices
    money = sum(p.core_hours * prices.core_hour + p.gpu_hours * prices.gpu_hour for p in parts)
    return Costs(
        tuple(parts),
        source_gb,
        shard_gb,
        driver / 1e9,
        1 / per_example,
        feeding,
        money + prices.gb_month * plan.months * (source_gb + shard_gb),
        tuple(remarks),
    )


def _limit(plan: Plan, wanted: float, feeding: int, per_core: float) -> str:
    """Say whether cores or GPUs are what training waits for."""
    what = f"{plan.gpus} GPUs take {wanted:,.0f} examples/s: {feeding} cores feed them, {per_core:.0f} each"
    if feeding > plan.cores:
        return f"{what}; there are {plan.cores}, so the GPUs wait {1 - plan.cores * per_core / wanted:.0%}"
    return f"{what}; the GPUs limit"


def _preprocess(plan: Plan, rates: Rates) -> list[Part]:
    nearby = min(plan.cores, plan.cores_per_node)
    song = plan.song_seconds * plan.tracks * rates.scan_seconds
    shard = plan.shard_rows * rates.render_seconds
    read = plan.components * EXCERPT_SECONDS * _TRACK_BYTES + rates.recipe_bytes
    planning = (plan.songs * rates.plan_song_seconds + plan.recipes * rates.plan_seconds) / 3600
    closing = plan.shards * rates.shard_seconds / 3600
    return [
        _pool("scan", plan.songs, song, plan, rates, nearby * _TRACK_BYTES / rates.scan_seconds),
        Part("plan", planning, planning),
        _pool(
            "render",
            plan.shards,
            shard * plan.recipes / (plan.shards * plan.shard_rows),
            plan,
            rates,
            nearby * read / rates.render_seconds,
        ),
        Part("close", closing, closing),
    ]


def _pool(name: str, items: int, seconds: float, plan: Plan, rates: Rates, node_bytes: float) -> Part:
    """Reckon what a pool of actors costs that does an item at a time."""
    actors = min(plan.cores, items)
    rounds = -(-items // actors)
    return Part(
        name,
        (items * seconds + actors * rates.start_seconds) / 3600,
        (rounds * seconds + rates.start_seconds) / 3600,
        node_bytes=node_bytes,
    )


def _train(plan: Plan, rates: Rates, per_example: float) -> Part:
    examples = plan.epochs * plan.epoch_examples
    feeding = examples * per_example / 3600
    if plan.gpu_step_seconds is None:
        return Part("train", feeding, None)
    steps = math.ceil(examples / (plan.gpus * plan.micro_batch))
    hours = max(steps * plan.gpu_step_seconds / 3600, feeding / plan.cores)
    nearby = min(plan.gpus, plan.gpus_per_node)
    nodes = -(-plan.gpus // plan.gpus_per_node)
    gradients = 2 * (nodes - 1) / nodes * plan.parameters * _GRADIENT_BYTES * steps  # a ring over the nodes
    fetched = bytes_per_example(plan, rates) * examples * nearby / plan.gpus
    return Part("train", feeding, hours, hours * plan.gpus, (gradients + fetched) / (hours * 3600))


def bytes_per_example(plan: Plan, rates: Rates) -> float:
    """Reckon what a training example fetches: whole row groups, of which a worker of many wants few rows.

    Its rows are a random share of a window's, so that a group of r rows is read by 1 - (1 - share)^r.
    """
    one_stream = (rates.recipe_bytes - rates.clean_bytes) / rates.degradations
    if plan.source == "live":
        return rates.clean_bytes + one_stream
    rows = plan.row_group_rows
    share = 1 / max(plan.gpus, 1)
    wanted = rows * share / (1 - math.pow(1 - share, rows))  # of a group that is read
    streams = rates.degradations * (1 - math.pow(1 - 1 / rates.degradations, wanted))  # different ones
    return rows * (rates.clean_bytes + streams * one_stream) / wanted


def _score(plan: Plan, rates: Rates) -> Part:
    items = plan.score_items * rates.degradations
    restoring = plan.models * EXCERPT_SECONDS * rates.restore_seconds
    seconds = items * ((1 + plan.models) * rates.score_seconds + restoring)
    actors = min(plan.cores, items)
    return Part(
        "score",
        (seconds + actors * rates.start_seconds) / 3600,
        (seconds / actors + rates.start_seconds) / 3600,
    )
