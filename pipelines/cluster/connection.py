"""Connect to the Ray cluster that is there, or start one on this machine."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster import placement
from pipelines.cluster.address import check_reachable, explain_ray_errors
from pipelines.cluster.worker_output import WorkerOutput


@dataclass(frozen=True)
class Cluster:
    """Resources of the connected cluster.

    Args:
        cpus: Logical CPUs up now.
        nodes: Nodes up now.
        joined: Whether another process started the cluster.
        gpus: GPUs up now.
        pool_cpus: CPUs up now that actor pools may use: `pipelines.cluster.placement`.
    """

    cpus: int
    nodes: int
    joined: bool
    gpus: int
    pool_cpus: int


@dataclass(frozen=True)
class Shared:
    """A large value in Ray's object store, fetched once by each node that uses it.

    Args:
        reference: Ray's object reference.
    """

    reference: Any

    def get(self) -> Any:
        """Return the value; its arrays are read-only."""
        import ray

        return ray.get(self.reference)


def share(value: Any) -> Shared:
    """Put a value of plain types and arrays into the object store; it stays as long as this process."""
    import ray

    return Shared(ray.put(value))


def check_cluster() -> None:
    """Check that the cluster to join answers, if there is one; jobs do it before they look at their data.

    Raises:
        UsageError: RAY_ADDRESS, or the address that `ray start` left, is not that of a cluster that answers.
    """
    import ray

    if not ray.is_initialized():
        _find_cluster()


def _find_cluster() -> str | None:
    """Return the address of the cluster to join, None if there is none.

    Raises:
        UsageError: no cluster answers there.
    """
    from pipelines.cluster.ray_internals import find_cluster

    with explain_ray_errors(os.environ.get("RAY_ADDRESS") or None):
        address = find_cluster()
    with explain_ray_errors(address):
        if address is not None:
            check_reachable(address)
    return address


def connect() -> Cluster:
    """Join the cluster of RAY_ADDRESS or of this machine; start a local one where there is none.

    Raises:
        UsageError: RAY_ADDRESS, or the address that `ray start` left, is not that of a cluster that answers.
        RuntimeError: Ray does not start on this machine.
    """
    import ray

    from pipelines.cluster.ray_internals import handle_worker_output, is_external_cluster, on_loopback

    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if not ray.is_initialized():
        settings = {"logging_level": logging.WARNING, "log_to_driver": True}
        address = _find_cluster()
        with explain_ray_errors(address):
            if address is not None:
                ray.init(**settings)
            else:
                _protect_token()
                with on_loopback():
                    ray.init(address="local", include_dashboard=False, **settings)
        handle_worker_output(WorkerOutput())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "Progress bars disabled"
    up = ray.cluster_resources()
    return Cluster(
        cpus=int(up.get("CPU", 0)),
        nodes=len(placement.alive_nodes()),
        joined=is_external_cluster(),
        gpus=int(up.get("GPU", 0)),
        pool_cpus=placement.pool_cpus(),
    )


def _protect_token() -> None:
    """Keep other users out of the folder of Ray's token: Ray writes it world-readable."""
    folder = Path.home() / ".ray"
    with suppress(OSError):  # without a home, Ray reports what it cannot do
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def worker_device() -> Any:
    """Return the torch device that Ray Train chose for this worker."""
    import ray.train.torch

    return ray.train.torch.get_device()
