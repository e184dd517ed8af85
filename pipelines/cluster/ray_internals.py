"""Private APIs of Ray that have no public counterpart; every one has a test, and Ray is pinned to 2.60."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.runtime.environment import environment

_PRINT_HANDLER = "ray_print_logs"


def find_cluster() -> str | None:
    """Return the address of the cluster to join: RAY_ADDRESS's, or what `ray start` began on this machine."""
    from ray._private.services import get_ray_address_from_environment

    address: str | None = get_ray_address_from_environment(None, None)
    return None if address == "local" else address


def resolve_loopback(address: str) -> str:
    """Return the HOST:PORT that ray.init connects to: loopback becomes the address of this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address(address) or address


def is_external_cluster() -> bool:
    """Return whether this process joined a cluster that another one started."""
    from ray._private import worker

    node = worker._global_node
    return node is None or not node.is_head()


def max_autoscaled_resources() -> dict[str, float]:
    """Return the most resources that the cluster's autoscaler may bring up; empty where it is not known."""
    from ray._private.state import state

    return dict(state.get_max_resources_from_cluster_config() or {})


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a local Ray, and gloo in its workers, listen on loopback only; Ray's default on macOS and Windows.

    On Linux, Ray otherwise listens on the machine's address, and replaces a given loopback address by it.
    """
    from ray._private import ray_constants

    settings: dict[str, str | None] = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # read from the environment when Ray was imported
    try:
        with environment(settings):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


def torch_backend() -> type:
    """Return the class whose hooks Ray Train calls around a torch.distributed worker function."""
    from ray.train.torch.config import _TorchBackend

    backend: type = _TorchBackend
    return backend


def handle_worker_output(handle: Callable[[dict[str, Any]], None]) -> None:
    """Pass the output of all processes to a function in place of printing it; needs `log_to_driver`.

    Ray's messages about the cluster (a worker that died and is started again, one that was killed for memory,
    a node that is lost) come from the process `raylet`. Ray prints them on stdout.

    Args:
        handle: Called in a thread with `lines`, `pid`, `ip`, `localhost`, `actor_name` and `task_name`.
    """
    from ray._private import worker
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    dispatcher.remove_handler(_PRINT_HANDLER)
    dispatcher.add_handler(_PRINT_HANDLER, handle)  # under Ray's name: ray.shutdown removes it
    worker.print_to_stdstream = lambda message, ignore_prefix=False: handle(message)
