"""The grid on Ray Tune: one trial a model and degradation, over one pool of scoring actors that all share.

A trial holds no CPU: it hands items to the pool and writes what comes back, so that two CPUs suffice. With
GPUs it holds one, and restores there what the pool then scores. What Tune itself keeps is never read again:
`Tuner.restore` unpickles. A trial is done when its file of scores is there and whole.
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

from pipelines.cluster.placement import cpu_share, nodes_up, pool_cpus
from pipelines.errors import UsageError, root_cause
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import ItemSource
from pipelines.evaluation.models import EvaluatedModel
from pipelines.evaluation.score_files import Trial, write_scores
from pipelines.evaluation.scorer import ItemRestorer, Samples, Scorer, restore_items
from pipelines.runtime import prometheus
from pipelines.runtime.run import FINGERPRINT
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

_CHUNK_ITEMS = 8  # items: a row group of shards
_CONCURRENT_TRIALS = 2  # trials: one begins while the other's last items are scored
_RETRIES = 3
_TRIAL_BYTES = 200 << 20  # what a trial's process takes; Tune must be asked for something
_START_SECONDS = 90.0  # how long scoring actors may take to begin
_NODE_SECONDS = 1800.0  # how long an autoscaler may take to bring nodes for them
_IDLE_SECONDS = 60.0  # how long a measurement waits for a machine of its own


@dataclass(frozen=True)
class TrialContext:
    """What all trials share; object references and actor handles in it are Ray's.

    Args:
        item_source: Reference to the items.
        models: Reference to the weights, by the models' names; those that run nothing have None.
        scorers: The pool.
        output: Where scores go.
        precision: Of models.
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
    """Start one scoring actor a CPU; they end with the context.

    Args:
        config: Of the evaluation.
        item_source: The items.
        models: The models.
        cutoffs_hz: Low-pass edge by degradation.

    Raises:
        UsageError: there is no CPU, and nothing says that there may be some.
    """
    import ray

    cpus = pool_cpus()
    if not cpus and config.scorers is None:
        raise UsageError(
            "the cluster has no CPU up. With an autoscaler, say for how many scoring actors it may bring up "
            "nodes: --scorers 64"
        )
    items = ray.put(item_source)
    # an actor that dies is started again, and what it was at is done again: scoring twice gives the same
    actor = ray.remote(num_cpus=1, max_restarts=_RETRIES, max_task_retries=_RETRIES)(Scorer)
    actor = actor.options(scheduling_strategy="SPREAD", resources=cpu_share())
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
    """Keep the actors that have begun: what is sent to one that waits for a CPU would wait with it.

    Raises:
        RuntimeError: none has begun within the time; another time one may.
    """
    import ray

    waiting = {actor.__ray_ready__.remote(): actor for actor in started}
    if not pool_cpus():
        logger.info(
            f"waiting for nodes for {len(started)} scoring actors, {_NODE_SECONDS / 60:.0f} minutes at most"
        )
        ray.wait(list(waiting), num_returns=len(waiting), timeout=_NODE_SECONDS)
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=_START_SECONDS)
    for reference in late:
        ray.kill(waiting[reference])
    if not ready:
        raise RuntimeError(
            f"none of {len(started)} scoring actors got a CPU within {_START_SECONDS:.0f} s: others hold "
            "them. Wait for them, or bring up more nodes"
        )
    if late:
        logger.warning(f"{len(ready)} of {len(started)} scoring actors got a CPU; going on with these")
    ray.get(ready)  # an actor that could not begin says why
    return [waiting[reference] for reference in ready]


def run_trials(context: TrialContext, trials: Sequence[Trial]) -> str | None:
    """Run trials to their end.

    Returns:
        What went wrong first, in words; None when all are done.
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

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # signals are ours: pipelines.runtime.run
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}  # and so are words
    callbacks = [ProgressCallback(), JsonLoggerCallback()]  # without a logger Tune misses its own results
    gpus = int(ray.cluster_resources().get("GPU", 0))
    resources = {"memory": _TRIAL_BYTES} | ({"gpu": 1} if context.gpu else cpu_share())
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
                f"node {os.uname().nodename} does not see {context.output.location}: give an output that "
                "every node sees, or a URI"
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
    return f"{trial.model} at {trial.degradation}: {len(rows)} items, {', '.join(parts)}"


def _score_trial(context: TrialContext, trial: Trial) -> list[dict[str, Any]]:
    """Hand out a trial's items, and put what comes back in their order."""
    import ray
    from ray.util import ActorPool

    item_source: ItemSource = ray.get(context.item_source)
    numbers = item_source.indices(trial.degradation)
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
    found: list[dict[str, Any]] = []
    waiting = 0
    for chunk in chunks:
        pool.submit(submit, restore_chunk(chunk))
        waiting += 1
        if waiting > 2 * len(context.scorers):  # what a GPU restored must not pile up
            found += pool.get_next_unordered()
            waiting -= 1
    for _ in range(waiting):
        found += pool.get_next_unordered()
    order = {item_source.items[number].name: number for number in numbers}
    return sorted(found, key=lambda row: order[row["item"]])


def render_listening_examples(
    context: TrialContext, wanted: Sequence[tuple[int, str]], names: Sequence[str]
) -> list[dict[str, Samples]]:
    """Give items at degradations with what every model makes of them."""
    import ray
    from ray.util import ActorPool

    models = {name: ray.get(context.models[name]) for name in names}
    together = ray.put(models)

    def submit(actor: Any, value: tuple[int, str]) -> Any:
        return actor.render.remote(*value, together)

    return list(ActorPool(context.scorers).map(submit, list(wanted)))


class _Idle:
    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def run_on_idle_node(function: Callable[..., Any], *arguments: Any, gpu: bool) -> Any:
    """Run a function with all CPUs of a machine to itself; None where none was free in a minute, or is up."""
    import ray

    share = {"GPU": 1.0} if gpu else cpu_share()
    able = [node["Resources"] for node in nodes_up() if share.keys() <= node["Resources"].keys()]
    largest = max((int(node.get("CPU", 0)) for node in able), default=0)
    if not largest:
        return None  # an autoscaler has yet to bring such a machine
    alone = ray.remote(num_cpus=largest, num_gpus=share.pop("GPU", 0), resources=share)(_Idle).remote()
    try:
        ready, _ = ray.wait([alone.__ray_ready__.remote()], timeout=_IDLE_SECONDS)
        return ray.get(alone.run.remote(function, *arguments)) if ready else None
    finally:
        ray.kill(alone)


def _count_items(counts: Mapping[str, int]) -> None:
    """Count the items of a trial, by status."""
    for status, number in counts.items():
        prometheus.record("apollo_items_scored_total", number, status=status)
