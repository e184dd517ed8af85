"""The grid of trials on Ray Tune: one per model and degradation, over one shared pool of scoring actors.

A trial reserves no CPU: it submits items to the pool and writes the scores, so that two CPUs suffice. With
GPUs it reserves one, restores there, and the pool scores the results. Tune's own state is never read, since
`Tuner.restore` unpickles: a trial is finished when its score file is complete.
"""

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.cluster.placement import alive_nodes, cpu_node_resource, pool_cpus
from pipelines.errors import UsageError, root_cause
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import ItemSource
from pipelines.evaluation.models import EvaluatedModel
from pipelines.evaluation.score_files import Trial, read_lags, read_scores, write_scores
from pipelines.evaluation.scorer import ItemRestorer, Samples, Scorer, restore_items
from pipelines.runtime import prometheus
from pipelines.runtime.run import FINGERPRINT
from pipelines.schema import UNREADABLE
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

_CHUNK_ITEMS = 8  # a row group of the shards
_CONCURRENT_TRIALS = 2  # one starts while the other's last items are scored
_RETRIES = 3
_TRIAL_BYTES = 200 << 20  # memory of a trial's process; Tune needs some resource request
_START_SECONDS = 90.0  # time for scoring actors to start
_NODE_SECONDS = 1800.0  # time for an autoscaler to start nodes for them
_IDLE_SECONDS = 60.0  # time that a measurement waits for an idle node


@dataclass(frozen=True)
class TrialContext:
    """Shared by all trials.

    Args:
        item_source: Ray object reference to the items.
        models: Ray object references to the weights, by name; to None for a model that is not run.
        scorers: Handles of the scoring actors.
        output: Output of the evaluation.
        precision: Of the models' linear layers.
        gpu: Whether a trial has a GPU.
    """

    item_source: Any
    models: dict[str, Any]
    scorers: list[Any]
    output: Folder
    precision: str
    gpu: bool


@contextmanager
def scoring_pool(
    config: EvaluateConfig,
    item_source: ItemSource,
    models: Sequence[EvaluatedModel],
    cutoffs_hz: dict[str, float],
) -> Iterator[TrialContext]:
    """Start one scoring actor per CPU; they end with the context.

    Args:
        config: Of the evaluation.
        item_source: The items.
        models: The models.
        cutoffs_hz: Low-pass cutoff by degradation.

    Raises:
        UsageError: the cluster has no CPU and `scorers` is not set.
    """
    import ray

    cpus = pool_cpus()
    if not cpus and config.scorers is None:
        raise UsageError(
            "the cluster has no CPU. With an autoscaler, set how many scoring actors it may start nodes for: "
            "--scorers 64"
        )
    items = ray.put(item_source)
    # an actor that dies is restarted and its task repeated: scoring is deterministic
    actor = ray.remote(num_cpus=1, max_restarts=_RETRIES, max_task_retries=_RETRIES)(Scorer)
    actor = actor.options(scheduling_strategy="SPREAD", resources=cpu_node_resource())
    wanted = range(config.scorers or cpus)
    scorers = _wait_for_actors(
        [actor.remote(items, cutoffs_hz, config.precision, config.data) for _ in wanted]
    )
    references = {one.name: ray.put(one.bundle) for one in models}
    has_gpu = config.gpu and ray.cluster_resources().get("GPU", 0) > 0
    try:
        yield TrialContext(items, references, scorers, Folder(config.output), config.precision, has_gpu)
    finally:
        for scorer in scorers:
            ray.kill(scorer)


def _wait_for_actors(started: list[Any]) -> list[Any]:
    """Return the actors that have started; those that wait for a CPU are killed: their tasks would wait.

    Raises:
        RuntimeError: no actor has started in time.
    """
    import ray

    waiting = {actor.__ray_ready__.remote(): actor for actor in started}
    if not pool_cpus():
        logger.info(
            f"waiting up to {_NODE_SECONDS / 60:.0f} minutes for nodes for {len(started)} scoring actors"
        )
        ray.wait(list(waiting), num_returns=len(waiting), timeout=_NODE_SECONDS)
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=_START_SECONDS)
    for reference in late:
        ray.kill(waiting[reference])
    if not ready:
        raise RuntimeError(
            f"none of {len(started)} scoring actors got a CPU within {_START_SECONDS:.0f} s: all CPUs are in "
            "use. Wait for other jobs, or start more nodes"
        )
    if late:
        logger.warning(f"{len(ready)} of {len(started)} scoring actors got a CPU, continuing with these")
    ray.get(ready)  # raises the error of an actor that failed to start
    return [waiting[reference] for reference in ready]


def run_trials(context: TrialContext, trials: Sequence[Trial]) -> str | None:
    """Run trials.

    Returns:
        The first error as text; None if all trials finished.
    """
    import ray
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    class ProgressCallback(tune.Callback):  # type: ignore[misc]
        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
        ) -> None:
            if "summary" in result:
                logger.info(result["summary"])
                _count_items(result["statuses"])

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # pipelines.runtime.run handles signals
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}  # and logs are ours
    callbacks = [ProgressCallback(), JsonLoggerCallback()]  # Tune misses its own results without a logger
    gpus = int(ray.cluster_resources().get("GPU", 0))
    resources = {"memory": _TRIAL_BYTES} | ({"gpu": 1} if context.gpu else cpu_node_resource())
    scratch = tempfile.mkdtemp(prefix="apollo-trials-")
    try:
        tuner = tune.Tuner(
            tune.with_resources(_bind(context, trials), resources),
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max(gpus, 1) if context.gpu else _CONCURRENT_TRIALS, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=scratch, name="trials", verbose=0, callbacks=callbacks),
        )
        results = tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return root_cause(results.errors[0]) if results.errors else None


def _bind(context: TrialContext, trials: Sequence[Trial]) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        from ray import tune

        trial = trials[config["trial"]]
        if not context.output.exists(FINGERPRINT):
            raise RuntimeError(
                f"node {os.uname().nodename} cannot access {context.output.location}: use an output "
                "that every node can write, or a URI"
            )
        rows = _score_trial(context, trial)
        write_scores(context.output, trial, rows, "cuda" if context.gpu else "cpu")
        statuses = dict(Counter(row["status"] for row in rows))
        tune.report({"items": len(rows), "statuses": statuses, "summary": _summarize(trial, rows)})

    return run


def _summarize(trial: Trial, rows: Sequence[dict[str, Any]]) -> str:
    parts = []
    for name in ("sdr", "si_snr", "visqol"):
        values = [row[name] for row in rows if row.get(name) is not None]
        parts.append(f"{name} {sum(values) / len(values):.2f}" if values else f"{name} -")
    late = sum(bool(row.get("lag")) for row in rows)
    parts += [f"{late} of them are not aligned with the clean audio"] if late else []
    return f"{trial.model} at {trial.degradation}: {len(rows)} items, {', '.join(parts)}"


def _score_trial(context: TrialContext, trial: Trial) -> list[dict[str, Any]]:
    """Score a trial's items in the pool and return the rows in the items' order.

    Of a trial that was scored before, only the items that could not be read are scored again.
    """
    import ray
    from ray.util import ActorPool

    item_source: ItemSource = ray.get(context.item_source)
    numbers = item_source.indices(trial.degradation)
    order = {item_source.items[number].name: number for number in numbers}
    found = _scored_before(context.output, trial)
    before = {row["item"] for row in found}
    numbers = [number for name, number in order.items() if name not in before]
    chunks = [numbers[first : first + _CHUNK_ITEMS] for first in range(0, len(numbers), _CHUNK_ITEMS)]
    bundle = context.models[trial.model]
    model = ray.get(bundle) if context.gpu else None
    restorer = ItemRestorer(context.precision) if model is not None else None

    def restore_chunk(chunk: list[int]) -> tuple[list[int], list[Samples | None] | None]:
        if restorer is None or model is None:
            return chunk, None
        return chunk, restore_items(restorer, item_source, chunk, trial.degradation, model)

    def submit(actor: Any, value: tuple[list[int], list[Samples | None] | None]) -> Any:
        chunk, restored = value
        return actor.score.remote(chunk, trial.degradation, trial.model, bundle, restored)

    pool = ActorPool(context.scorers)
    waiting = 0
    for chunk in chunks:
        pool.submit(submit, restore_chunk(chunk))
        waiting += 1
        if waiting > 2 * len(context.scorers):  # bounds the results of the GPU in memory
            found += pool.get_next_unordered()
            waiting -= 1
    for _ in range(waiting):
        found += pool.get_next_unordered()
    return sorted(found, key=lambda row: order[row["item"]])


def _scored_before(output: Folder, trial: Trial) -> list[dict[str, Any]]:
    """Return the rows of an earlier run, without the items that could not be read."""
    table = read_scores(output, trial)
    lags = read_lags(output, trial)
    rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
    return [row | {"lag": lags.get(row["item"], 0)} for row in rows if row["status"] != UNREADABLE]


def render_listening_examples(
    context: TrialContext, wanted: Sequence[tuple[int, str]], names: Sequence[str]
) -> list[dict[str, Samples]]:
    """Return items at degradations in every model's version.

    Args:
        context: The pool and the models.
        wanted: Index and degradation of each item.
        names: Names of the models.
    """
    import ray
    from ray.util import ActorPool

    models = {name: ray.get(context.models[name]) for name in names}
    together = ray.put(models)

    def submit(actor: Any, value: tuple[int, str]) -> Any:
        return actor.render.remote(*value, together)

    return list(ActorPool(context.scorers).map(submit, list(wanted)))


class _FunctionRunner:
    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def run_on_idle_node(function: Callable[..., Any], *arguments: Any, gpu: bool) -> Any:
    """Run a function on a node whose CPUs are all reserved; None if no node is idle within a minute."""
    import ray

    required = {"GPU": 1.0} if gpu else cpu_node_resource()
    candidates = [node["Resources"] for node in alive_nodes() if required.keys() <= node["Resources"].keys()]
    most_cpus = max((int(resources.get("CPU", 0)) for resources in candidates), default=0)
    if not most_cpus:
        return None  # no such node is up yet
    actor = ray.remote(num_cpus=most_cpus, num_gpus=required.pop("GPU", 0), resources=required)
    runner = actor(_FunctionRunner).remote()
    try:
        ready, _ = ray.wait([runner.__ray_ready__.remote()], timeout=_IDLE_SECONDS)
        return ray.get(runner.run.remote(function, *arguments)) if ready else None
    finally:
        ray.kill(runner)


def _count_items(counts: Mapping[str, int]) -> None:
    """Count the items of a trial by status."""
    for status, number in counts.items():
        prometheus.record("apollo_items_scored_total", number, status=status)
