"""Joining the Ray cluster that is there, or starting one on this machine."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.placement import cpu_share, nodes_up, pool_cpus
from pipelines.errors import UsageError
from pipelines.runtime.environment import environment

_RETRIES = 20
_FREE_CPU_SECONDS = 60.0
_LONGEST_ITEM_SECONDS = 48 * 3600.0


@dataclass(frozen=True)
class Cluster:
    """What a run may use.

    Args:
        cpus: Logical CPUs up now.
        nodes: Nodes up now.
        joined: Whether the cluster was there before.
        gpus: GPUs up now.
        pool_cpus: CPUs up now that pools of actors may take: `pipelines.cluster.placement`.
    """

    cpus: int
    nodes: int
    joined: bool
    gpus: int
    pool_cpus: int


@dataclass(frozen=True)
class Shared:
    """A large value that lies in the cluster's memory, once on each node that asks for it.

    Args:
        reference: Ray's.
    """

    reference: Any

    def get(self) -> Any:
        """Give the value, its arrays read-only."""
        import ray

        return ray.get(self.reference)


def share(value: Any) -> Shared:
    """Put a value of plain types and arrays where every actor can get it; it stays as long as its driver."""
    import ray

    return Shared(ray.put(value))


def connect() -> Cluster:
    """Join the cluster of RAY_ADDRESS or of this machine; start a local one where there is none."""
    import ray

    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if not ray.is_initialized():
        settings = {"logging_level": logging.WARNING, "log_to_driver": False}
        if _is_there():
            ray.init(**settings)
        else:
            _hide_token()
            with _on_loopback():
                ray.init(address="local", include_dashboard=False, **settings)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come as exceptions too
    up = ray.cluster_resources()
    return Cluster(int(up.get("CPU", 0)), len(nodes_up()), _joined(), int(up.get("GPU", 0)), pool_cpus())


def _is_there() -> bool:
    """Tell whether there is a cluster to join: RAY_ADDRESS's, or what `ray start` began on this machine."""
    from ray._private.services import get_ray_address_from_environment

    return get_ray_address_from_environment(None, None) not in (None, "local")


def _hide_token() -> None:
    """Keep the folder of Ray's token from other users: Ray writes it as readable as any file."""
    folder = Path.home() / ".ray"
    with suppress(OSError):  # where there is no home, Ray says what it cannot do
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray, and gloo in its workers, listen on loopback alone; Ray does so by itself on macOS and Windows.

    On Linux it takes the machine's own address otherwise, and turns a loopback address that it is given into
    that one. Its token keeps strangers out of either; what cannot be reached need not be guarded.
    """
    from ray._private import ray_constants

    settings = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # read when it was imported, which may be long ago
    try:
        with environment(settings):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


def _joined() -> bool:
    import ray

    node = ray._private.worker._global_node
    return node is None or not node.is_head()


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
    """Send every item to one of a pool of actors and yield what they return, as they finish.

    Actors go to CPU nodes, or where GPUs are: `pipelines.cluster.placement`. Items are retried on another
    actor when theirs dies, so what a worker does must be safe to do twice.

    Args:
        items: Rows; each is one unit of work.
        worker: Class whose instances are called with a row and return a row.
        arguments: Of its constructor.
        actors: Most actors; unset takes one per CPU, or per GPU.
        cluster: Where.
        on_gpu: Whether each has a GPU of its own beside its CPU.
        long_items: Whether an item may take minutes or hours: none then waits behind a slow one while other
            actors idle, and half an hour without a result is no failure.

    Raises:
        UsageError: there is no CPU or no GPU, and nothing says that there may be some.
    """
    if not items:
        return
    kind, up = ("GPU", min(cluster.gpus, cluster.cpus)) if on_gpu else ("CPU", cluster.pool_cpus)
    if not up and actors is None:
        raise UsageError(
            f"the cluster has no {kind} up. With an autoscaler, say for how many actors it may bring up "
            "nodes: --actors 64"
        )
    most = min(len(items), actors or max(up, 1))
    least = min(most, max(up, 1))  # more than are up only once an autoscaler brings them
    held = 1 if long_items else None
    dataset = _map(
        items,
        worker,
        arguments,
        blocks=len(items),
        least=least,
        most=most,
        num_gpus=1 if on_gpu else None,
        resources={} if on_gpu else cpu_share(),
        held=held,
    )
    if long_items:
        dataset.context.execution_no_progress_timeout_s = _LONGEST_ITEM_SECONDS
    yield from dataset.iter_rows()


def stream_actors(
    items: list[dict[str, Any]],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    actors: int,
    block_rows: int,
) -> Generator[dict[str, Any], None, None]:
    """Do as `run_actors` does, but yield the results in the items' order, while a consumer works with them.

    Actors work ahead until Ray Data's share of the object store is full, take one CPU each and no GPU, of
    any node, those of the consumers included, and end with the iterator.

    Args:
        items: Rows; each is one unit of work.
        worker: Class whose instances are called with a row and return a row.
        arguments: Of its constructor.
        actors: Most actors.
        block_rows: Items that go to an actor at a time.

    Raises:
        UsageError: every CPU is held, so that the first actor would wait for ever.
    """
    if not items:
        return
    connect()
    _wait_for_free_cpu()
    blocks = -(-len(items) // block_rows)
    dataset = _map(items, worker, arguments, blocks=blocks, least=1, most=min(blocks, actors))
    dataset.context.execution_options.preserve_order = True
    yield from dataset.iter_rows()


def _wait_for_free_cpu() -> None:
    import ray

    deadline = time.monotonic() + _FREE_CPU_SECONDS  # actors of the iterator before may just be ending
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > deadline:
            held = int(ray.cluster_resources().get("CPU", 0))
            raise UsageError(
                f"all {held} CPUs of the cluster are held, so nothing is left to make examples with: give "
                "the training workers or the actors fewer, or bring up more nodes first"
            )
        time.sleep(0.2)


def _map(
    items: list[dict[str, Any]],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    blocks: int,
    least: int,
    most: int,
    num_gpus: int | None = None,
    resources: dict[str, float] | None = None,
    held: int | None = None,
) -> Any:
    import ray

    with warnings.catch_warnings():  # there is no named parameter yet for what 2.64 will not take unnamed
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return ray.data.from_items(items, override_num_blocks=blocks).map(
            worker,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(
                min_size=least, max_size=most, max_tasks_in_flight_per_actor=held
            ),
            num_cpus=1,
            num_gpus=num_gpus,
            resources=resources or None,
            max_task_retries=_RETRIES,  # Ray Data's own is endless: what kills its actor would never end
        )


def worker_device() -> Any:
    """Give the torch device that Ray Train chose for this worker."""
    import ray.train.torch

    return ray.train.torch.get_device()
