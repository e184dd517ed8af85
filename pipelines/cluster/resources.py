"""Room on the cluster for the processes that train: how many, of what, and waiting for it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.cluster.placement import largest_nodes, most_resources
from pipelines.errors import UsageError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LOG_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """The processes that train.

    Args:
        count: How many.
        least: With fewer than `count` at hand, so many will do, and more join as nodes come: the run goes on
            from its last checkpoint each time. Unset waits for all.
        gpu: Whether each has a GPU (and NCCL between them), or only CPUs (and gloo).
        cpus: Of each: one computes, the others decode.
        wait_minutes: Longest wait for nodes.
        may_grow: The cluster has an autoscaler whose limits cannot be read here: wait, and do not refuse what
            is more than there is now.
        max_failures: So often may workers die before the run is given up.
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
            raise ValueError(f"workers.cpus is {self.cpus}: give a part of one, or whole ones")
        if not self.cpus > 0 or self.wait_minutes < 0 or self.max_failures < 0:
            raise ValueError(
                "workers.cpus must be above 0, workers.wait_minutes and workers.max_failures 0 or more"
            )

    @property
    def resources(self) -> dict[str, float]:
        """What each worker takes."""
        return {"CPU": self.cpus, **({"GPU": 1.0} if self.gpu else {})}

    @property
    def needed(self) -> int:
        """Workers without which nothing starts."""
        return self.count if self.least is None else self.least


def check_room(config: WorkersConfig, *, more_cpus: float = 0.0) -> None:
    """Refuse at once what the cluster can never have, its autoscaler included.

    Args:
        config: The workers.
        more_cpus: What is needed beside them.

    Raises:
        UsageError: with what is asked for and what there can be.
    """
    most, largest = most_resources(), largest_nodes()
    advice = "Give fewer --workers.count or --workers.cpus, or --workers.gpu false, or a larger cluster"
    if config.may_grow:
        return
    for name, each in config.resources.items():
        asked = each * config.needed + (more_cpus if name == "CPU" else 0.0)
        if asked > most.get(name, 0):
            beside = f" and {more_cpus:g} beside them" if more_cpus and name == "CPU" else ""
            raise UsageError(
                f"{config.needed} workers of {each:g} {name}s{beside} need {asked:g} {name}s; this cluster "
                f"has {most.get(name, 0):g} at most. {advice} (--workers.may_grow true if its "
                "autoscaler may bring more)"
            )
    if not any(all(node.get(name, 0) >= each for name, each in config.resources.items()) for node in largest):
        asked_each = " and ".join(f"{each:g} {name}s" for name, each in config.resources.items())
        raise UsageError(f"a worker needs {asked_each} on one node, and no node has that. {advice}")


@contextmanager
def room_for(config: WorkersConfig) -> Iterator[None]:
    """Hold room for the workers: ask the autoscaler for it, where there is one, and wait for the nodes.

    Raises:
        RuntimeError: they are not up after `wait_minutes`; another time they may be.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    deadline = time.monotonic() + 60 * config.wait_minutes
    logged, asked = -_LOG_SECONDS, False
    try:
        while missing := _missing(config, ray.cluster_resources()):
            if not asked:
                request_resources(bundles=[config.resources] * config.needed)
                asked = True
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"waited {config.wait_minutes:g} minutes for {missing}; it did not come. Start nodes, or "
                    "let --workers.wait_minutes be more"
                )
            if time.monotonic() - logged >= _LOG_SECONDS:
                left = (deadline - time.monotonic()) / 60
                logger.info(f"waiting for {missing}, {left:.1f} minutes at most")
                logged = time.monotonic()
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        if asked:  # or the autoscaler would keep the nodes for ever
            request_resources(bundles=[])


def _missing(config: WorkersConfig, up: dict[str, float]) -> str:
    """Say what is not up yet; nothing if all is."""
    needs = {name: each * config.needed for name, each in config.resources.items()}
    return " and ".join(
        f"{need - up.get(name, 0):g} more {name}s of {need:g}"
        for name, need in needs.items()
        if up.get(name, 0) < need
    )
