"""Pools of actors on Ray Data: every item goes to an actor, results come back as they finish or in order."""

import time
import warnings
from collections.abc import Generator, Iterator
from typing import Any

from pipelines.cluster.connection import Cluster, connect
from pipelines.cluster.placement import cpu_node_resource
from pipelines.errors import UsageError
from pipelines.runtime import logs

_RETRIES = 20
_FREE_CPU_SECONDS = 60.0
_MAX_ITEM_SECONDS = 48 * 3600.0


def run_actors(
    items: list[dict[str, Any]],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    actors: int | None,
    cluster: Cluster,
    on_gpu: bool = False,
    long_items: bool = False,
) -> Iterator[dict[str, Any]]:
    """Map items over a pool of actors and yield the results as they finish.

    Actors are placed on CPU nodes, or where GPUs are: `pipelines.cluster.placement`. An item whose actor dies
    is retried on another one, so a worker must be idempotent.

    Args:
        items: Rows; each is one unit of work.
        worker: Class whose instances are called with a row and return a row.
        arguments: Of its constructor.
        actors: Maximum number of actors; by default one per CPU, or per GPU.
        cluster: The connected cluster.
        on_gpu: Whether each actor has a GPU beside its CPU.
        long_items: Whether an item may take minutes or hours: items are then sent one at a time, and half an
            hour without a result is not an error.

    Raises:
        UsageError: the cluster has no CPU or no GPU, and `actors` is not given.
    """
    if not items:
        return
    kind, up = ("GPU", min(cluster.gpus, cluster.cpus)) if on_gpu else ("CPU", cluster.pool_cpus)
    if not up and actors is None:
        raise UsageError(
            f"the cluster has no {kind} up. With an autoscaler, give the number of actors that it may start "
            "nodes for: --actors 64"
        )
    max_actors = min(len(items), actors or max(up, 1))
    dataset = _map(
        items,
        worker,
        arguments,
        blocks=len(items),
        min_actors=min(max_actors, max(up, 1)),  # more than are up only once an autoscaler brings them
        max_actors=max_actors,
        num_gpus=1 if on_gpu else None,
        resources={} if on_gpu else cpu_node_resource(),
        tasks_in_flight=1 if long_items else None,
    )
    if long_items:
        dataset.context.execution_no_progress_timeout_s = _MAX_ITEM_SECONDS
    yield from dataset.iter_rows()


def stream_actors(
    items: list[dict[str, Any]],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    actors: int,
    block_rows: int,
) -> Generator[dict[str, Any], None, None]:
    """Map items over a pool of actors and yield the results in the items' order, as they are consumed.

    Actors run ahead until Ray Data's share of the object store is full. Each has one CPU of any node and no
    GPU. They end with the iterator.

    Args:
        items: Rows; each is one unit of work.
        worker: Class whose instances are called with a row and return a row.
        arguments: Of its constructor.
        actors: Maximum number of actors.
        block_rows: Items that are sent to an actor at a time.

    Raises:
        UsageError: no CPU is free, so the first actor would wait forever.
    """
    if not items:
        return
    connect()
    _wait_for_free_cpu()
    blocks = -(-len(items) // block_rows)
    dataset = _map(items, worker, arguments, blocks=blocks, min_actors=1, max_actors=min(blocks, actors))
    dataset.context.execution_options.preserve_order = True
    yield from dataset.iter_rows()


def _wait_for_free_cpu() -> None:
    import ray

    deadline = time.monotonic() + _FREE_CPU_SECONDS  # actors of the previous iterator may just be ending
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > deadline:
            cpus = int(ray.cluster_resources().get("CPU", 0))
            raise UsageError(
                f"all {cpus} CPUs of the cluster are in use, so no actor can make examples: give the "
                "training workers or the actors fewer, or start more nodes first"
            )
        time.sleep(0.2)


def _with_logging(worker: type) -> type:
    """Return a subclass whose instances log as jobs do, for the driver to see their warnings."""

    def __init__(self: Any, *arguments: Any) -> None:
        logs.configure()
        worker.__init__(self, *arguments)  # type: ignore[misc]

    return type(worker.__name__, (worker,), {"__init__": __init__, "__module__": worker.__module__})


def _map(
    items: list[dict[str, Any]],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    blocks: int,
    min_actors: int,
    max_actors: int,
    num_gpus: int | None = None,
    resources: dict[str, float] | None = None,
    tasks_in_flight: int | None = None,
) -> Any:
    import ray

    with warnings.catch_warnings():  # Ray 2.60 has no named parameter for it yet
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return ray.data.from_items(items, override_num_blocks=blocks).map(
            _with_logging(worker),
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(
                min_size=min_actors, max_size=max_actors, max_tasks_in_flight_per_actor=tasks_in_flight
            ),
            num_cpus=1,
            num_gpus=num_gpus,
            resources=resources or None,
            max_task_retries=_RETRIES,  # by default unlimited: an item that kills its actor would never end
        )
