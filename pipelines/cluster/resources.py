"""Resources of training workers: configuration, checks against the cluster, waiting for nodes."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cluster.placement import max_resources, node_shapes
from pipelines.errors import UsageError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LOG_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """The processes that train.

    Args:
        count: Number of workers.
        least: Minimum number to start with while fewer than `count` are available; more join as nodes come,
            and the run resumes from its last checkpoint each time. Unset waits for `count`.
        gpu: Whether each worker has a GPU (and NCCL between them), or only CPUs (and gloo).
        cpus: CPUs of each worker: one computes, the others decode.
        wait_minutes: Longest wait for nodes.
        may_grow: The cluster has an autoscaler whose limits cannot be read here: wait instead of refusing
            more resources than there are now.
        max_failures: Number of worker failures after which the run is given up.
    """

    count: int = 8
    least: int | None = None
    gpu: bool = True
    cpus: float = 4.0
    wait_minutes: float = 30.0
    may_grow: bool = False
    max_failures: int = 10

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"workers.count is {self.count}: give 1 or more")
        if self.least is not None and not 1 <= self.least <= self.count:
            raise ValueError(f"workers.least is {self.least}: give 1 to workers.count, which is {self.count}")
        if self.cpus > 1 and self.cpus % 1:
            raise ValueError(f"workers.cpus is {self.cpus}: give a fraction below 1, or a whole number")
        if not self.cpus > 0 or self.wait_minutes < 0 or self.max_failures < 0:
            raise ValueError(
                "workers.cpus must be above 0, workers.wait_minutes and workers.max_failures 0 or more"
            )

    @property
    def resources(self) -> dict[str, float]:
        """Resources of each worker."""
        return {"CPU": self.cpus, **({"GPU": 1.0} if self.gpu else {})}

    @property
    def min_count(self) -> int:
        """Number of workers without which nothing starts."""
        return self.count if self.least is None else self.least


def check_resources(config: WorkersConfig, *, more_cpus: float = 0.0) -> None:
    """Check that the cluster, its autoscaler included, can ever have what the workers need.

    Args:
        config: The workers.
        more_cpus: CPUs needed beside them.

    Raises:
        UsageError: with what is needed and what there can be.
    """
    most, shapes = max_resources(), node_shapes()
    advice = "Give fewer --workers.count or --workers.cpus, or --workers.gpu false, or a larger cluster"
    if config.may_grow:
        return
    for name, each in config.resources.items():
        needed = each * config.min_count + (more_cpus if name == "CPU" else 0.0)
        if needed > most.get(name, 0):
            beside = f" and {more_cpus:g} beside them" if more_cpus and name == "CPU" else ""
            raise UsageError(
                f"{config.min_count} workers of {each:g} {name}s{beside} need {needed:g} {name}s; this "
                f"cluster has {most.get(name, 0):g} at most. {advice} (--workers.may_grow true if its "
                "autoscaler may bring more)"
            )
    if not any(all(node.get(name, 0) >= each for name, each in config.resources.items()) for node in shapes):
        needed_each = " and ".join(f"{each:g} {name}s" for name, each in config.resources.items())
        raise UsageError(f"a worker needs {needed_each} on one node, and no node has that. {advice}")


@contextmanager
def reserve_resources(config: WorkersConfig) -> Iterator[None]:
    """Wait for the workers' resources, and request them from the autoscaler until the block ends.

    Raises:
        RuntimeError: they are not up after `wait_minutes`; another time they may be.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    deadline = time.monotonic() + 60 * config.wait_minutes
    logged, requested = -_LOG_SECONDS, False
    try:
        while missing := _missing(config, ray.cluster_resources()):
            if not requested:
                request_resources(bundles=[config.resources] * config.min_count)
                requested = True
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"waited {config.wait_minutes:g} minutes for {missing}. Start nodes, or increase "
                    "--workers.wait_minutes"
                )
            if time.monotonic() - logged >= _LOG_SECONDS:
                left = (deadline - time.monotonic()) / 60
                logger.info(f"waiting for {missing}, {left:.1f} minutes at most")
                logged = time.monotonic()
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        if requested:  # or the autoscaler would keep the nodes forever
            request_resources(bundles=[])


def _missing(config: WorkersConfig, up: dict[str, float]) -> str:
    """Describe the resources that are not up yet; empty if all are."""
    needs = {name: each * config.min_count for name, each in config.resources.items()}
    return " and ".join(
        f"{need - up.get(name, 0):g} more {name}s of {need:g}"
        for name, need in needs.items()
        if up.get(name, 0) < need
    )
