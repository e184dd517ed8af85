"""Training workers on Ray Train: room for them, starting them, and what passes between them and the driver.

Ray Train starts the processes, joins them by torch.distributed and starts them again when one dies. What is
kept is ours (`apollo.snapshots`): a started worker goes on from the newest whole checkpoint of the output, so
nothing that Ray writes is ever read again.
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import UsageError

_BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # what the cluster launcher leaves on the head node
_POLL_SECONDS = 0.5
_SAY_SECONDS = 30.0


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
        if self.cpus <= 0 or self.wait_minutes < 0 or self.max_failures < 0:
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


def check_room(config: WorkersConfig) -> None:
    """Refuse at once what the cluster can never have, its autoscaler included.

    Raises:
        UsageError: with what is asked for and what there can be.
    """
    most = _most_resources()
    for name, each in config.resources.items():
        asked = each * config.needed
        if asked > most.get(name, 0) and not config.may_grow:
            raise UsageError(
                f"{config.needed} workers of {each:g} {name}s need {asked:g} {name}s; this cluster has "
                f"{most.get(name, 0):g} at most. Give fewer --workers.count or --workers.cpus"
                + (", or --workers.gpu false" if name == "GPU" else "")
                + ", or a larger cluster (--workers.may_grow true if its autoscaler may bring more)"
            )


def _most_resources() -> dict[str, float]:
    """Give what the cluster can have at most: what is up, or what its autoscaler may bring up."""
    import ray

    up: dict[str, float] = ray.cluster_resources()
    found = ray._private.state.state.get_max_resources_from_cluster_config() or _launched_resources()
    return {name: max(up.get(name, 0), found.get(name, 0)) for name in {*up, *found}}


def _launched_resources() -> dict[str, float]:
    """Read what the cluster launcher may start, where this is the head node of such a cluster."""
    path = Path(_BOOTSTRAP).expanduser()
    if not path.is_file():
        return {}
    config = yaml.safe_load(path.read_text())
    total: dict[str, float] = {}
    for name, group in config.get("available_node_types", {}).items():
        nodes = 1 if name == config.get("head_node_type") else group.get("max_workers", 0)
        for resource, amount in group.get("resources", {}).items():
            total[resource] = total.get(resource, 0) + nodes * float(amount)
    return total


def wait_for_room(config: WorkersConfig, say: Callable[[str], None]) -> None:
    """Ask the autoscaler for room, where there is one, and wait until the nodes are up.

    Raises:
        UsageError: they are not, after `wait_minutes`.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    deadline = time.monotonic() + 60 * config.wait_minutes
    spoke, asked = -_SAY_SECONDS, False
    while missing := _missing(config, ray.cluster_resources()):
        if not asked:
            request_resources(bundles=[config.resources] * config.needed)
            asked = True
        if time.monotonic() > deadline:
            raise UsageError(
                f"waited {config.wait_minutes:g} minutes for {missing}; it did not come. Start nodes, or let "
                "--workers.wait_minutes be more"
            )
        if time.monotonic() - spoke >= _SAY_SECONDS:
            say(f"waiting for {missing}, {(deadline - time.monotonic()) / 60:.1f} minutes at most")
            spoke = time.monotonic()
        time.sleep(_POLL_SECONDS)


def _missing(config: WorkersConfig, up: dict[str, float]) -> str:
    """Say what is not up yet; nothing if all is."""
    needs = {name: each * config.needed for name, each in config.resources.items()}
    return " and ".join(
        f"{need - up.get(name, 0):g} more {name}s of {need:g}"
        for name, need in needs.items()
        if up.get(name, 0) < need
    )


class Desk:
    """Where workers and driver meet: words for people one way, the wish to stop the other way."""

    def __init__(self) -> None:
        self._stopping, self._words, self._failure = False, list[str](), ""

    def stop(self) -> None:
        """Ask the workers to end with a checkpoint."""
        self._stopping = True

    def is_stopping(self) -> bool:
        """Tell whether they were asked to."""
        return self._stopping

    def fail(self, text: str) -> None:
        """Leave word of an error that no new start would mend; the first one counts."""
        self._failure = self._failure or text

    def failure(self) -> str:
        """Give that word, if any."""
        return self._failure

    def say(self, text: str) -> None:
        """Leave a line for people."""
        self._words.append(text)

    def take(self) -> list[str]:
        """Take the lines that were left."""
        words, self._words = self._words, []
        return words


class DeskLine:
    """A worker's line to the desk."""

    def __init__(self, desk: Any) -> None:
        self._desk, self._asked, self._answer = desk, -1.0, None
        self._stopping = False

    def say(self, text: str) -> None:
        """Leave a line for people; does not wait."""
        self._desk.say.remote(text)

    def fail(self, text: str) -> None:
        """Leave word of an error that no new start would mend: raising it lets the others be ended too."""
        import ray

        ray.get(self._desk.fail.remote(text))

    def failure(self) -> str:
        """Give what made another worker, or this one before it was started again, fail for good."""
        import ray

        return str(ray.get(self._desk.failure.remote()))

    def is_stopping(self) -> bool:
        """Tell what the desk answered to the last question; it is asked now and then."""
        import ray

        now = time.monotonic()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping, self._answer = self._stopping or ray.get(self._answer), None
        if self._answer is None and now - self._asked >= _POLL_SECONDS:
            self._answer, self._asked = self._desk.is_stopping.remote(), now
        return self._stopping


class Aside:
    """A function that runs beside training, on any node, without a CPU of its own to wait for."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        import ray

        task = ray.remote(num_cpus=0, max_retries=2, scheduling_strategy="SPREAD")(function)
        self._result = task.remote(*arguments)

    def poll(self, timeout_seconds: float = 0.0) -> tuple[bool, Any]:
        """Tell whether it has ended, and give its result, or the error that it met."""
        import ray

        if not ray.wait([self._result], timeout=timeout_seconds)[0]:
            return False, None
        try:
            return True, ray.get(self._result)
        except Exception as error:  # whatever a task meets, training goes on
            return True, error


def run_workers(
    function: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    config: WorkersConfig,
    *,
    scratch: str,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> Any:
    """Run a function on all workers, until it has returned on each; start them again when one dies.

    Args:
        function: Of a module that the nodes have; called with `settings` and the desk under "desk".
        settings: Plain values.
        config: The workers.
        scratch: Folder for what Ray Train writes, on a disk that all nodes see; removed at the end.
        stopping: When set, the workers are asked to stop.
        say: Told what workers say.

    Returns:
        What the function returned on the first worker.

    Raises:
        RuntimeError: workers died too often, or one left word of a failure at the desk.
    """
    import ray

    # not this process's to handle: Ray Train would put its own handlers where signals are turned into a wish
    desk = ray.remote(num_cpus=0)(Desk).remote()
    outcome: dict[str, Any] = {}
    thread = threading.Thread(
        target=_fit, args=(function, {**settings, "desk": desk}, config, scratch, outcome), daemon=True
    )
    thread.start()
    asked = False
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if stopping.is_set() and not asked:
            desk.stop.remote()
            asked = True
        for text in ray.get(desk.take.remote()):
            say(text)
    for text in ray.get(desk.take.remote()):
        say(text)
    failure = ray.get(desk.failure.remote())
    ray.kill(desk)
    shutil.rmtree(scratch, ignore_errors=True)
    if failure:
        raise RuntimeError(failure)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def _fit(
    function: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    config: WorkersConfig,
    scratch: str,
    outcome: dict[str, Any],
) -> None:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    try:
        trainer = TorchTrainer(
            function,
            train_loop_config=settings,
            torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.count if config.least is None else (config.least, config.count),
                use_gpu=config.gpu,
                resources_per_worker=config.resources,
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex,  # never one that there was: what Ray kept of that is not read
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.max_failures),
            ),
        )
        outcome["result"] = trainer.fit().return_value
    except BaseException as error:  # it is raised where it can be handled
        outcome["error"] = error
