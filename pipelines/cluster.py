"""Joining the Ray cluster that is there, or starting one on this machine."""

import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.errors import UsageError

_RETRIES = 20


@dataclass(frozen=True)
class Cluster:
    """What a run may use.

    Args:
        cpus: Logical CPUs up now.
        nodes: Nodes up now.
        joined: Whether the cluster was there before.
    """

    cpus: int
    nodes: int
    joined: bool


def connect() -> Cluster:
    """Join the cluster of RAY_ADDRESS or of this machine; start a local one where there is none."""
    import ray

    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come as exceptions too
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(int(ray.cluster_resources().get("CPU", 0)), len(nodes), _joined())


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
) -> Iterator[dict[str, Any]]:
    """Send every item to one of a pool of actors and yield what they return, as they finish.

    Items are retried on another actor when theirs dies, so what a worker does must be safe to do twice.

    Args:
        items: Rows; each is one unit of work.
        worker: Class whose instances are called with a row and return a row.
        arguments: Of its constructor.
        actors: Most actors; unset takes one per CPU.
        cluster: Where.

    Raises:
        UsageError: there is no CPU, and nothing says that there may be some.
    """
    import ray

    if not items:
        return
    if not cluster.cpus and actors is None:
        raise UsageError(
            "the cluster has no CPU up. With an autoscaler, say for how many actors it may bring up nodes: "
            "--actors 64"
        )
    most = min(len(items), actors or max(cluster.cpus, 1))
    least = min(most, max(cluster.cpus, 1))  # more than there are CPUs only once an autoscaler brings them
    with warnings.catch_warnings():  # there is no named parameter yet for what 2.64 will not take unnamed
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            worker,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=1,
            max_task_retries=_RETRIES,  # Ray Data's own is endless: what kills its actor would never end
        )
    yield from dataset.iter_rows()
