"""Training workers on Ray Train, and background tasks beside them.

Ray Train starts the processes, joins them by torch.distributed, and restarts them when one dies; checkpoints
are this project's own (`apollo.training.checkpoint_manager`): a restarted worker resumes from the
newest whole checkpoint of the output, so nothing that Ray writes is ever read again.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipelines.cluster.coordinator import Coordinator
from pipelines.cluster.placement import pick_worker_node
from pipelines.cluster.resources import WorkersConfig
from pipelines.errors import NonRetryableError
from pipelines.runtime import logs
from pipelines.runtime.logs import emit_forwarded
from pipelines.storage.folder import Folder, open_filesystem

logger = logging.getLogger(__name__)

_POLL_SECONDS, _MAX_SILENT_SECONDS = 0.5, 60.0


def _call_with_logging(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process that logs as jobs do, for the driver to see its warnings."""
    logs.configure()
    return function(*arguments)


class BackgroundTask:
    """A function that runs beside training without a CPU of its own.

    Args:
        function: Of a module that the nodes have.
        arguments: Its arguments.
        here: Whether it must run on this node; by default on any worker node.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, here: bool = False) -> None:
        import ray

        where = _this_node() if here else pick_worker_node()
        task = ray.remote(num_cpus=0, max_retries=2, scheduling_strategy=where)(_call_with_logging)
        self._result = task.remote(function, *arguments)

    def poll(self, timeout_seconds: float = 0.0) -> tuple[bool, Any]:
        """Return whether it has ended, and its result or its error."""
        import ray

        if not ray.wait([self._result], timeout=timeout_seconds)[0]:
            return False, None
        try:
            return True, ray.get(self._result)
        except Exception as error:  # training continues, whatever a task raises
            return True, error


def run_workers(
    function: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    config: WorkersConfig,
    *,
    scratch: str,
    stopping: threading.Event,
) -> Any:
    """Run a function on all workers until it has returned on each; restart them when one dies.

    Args:
        function: Of a module that the nodes have; called with `settings` and the actor handle "coordinator".
        settings: Plain values.
        config: The workers.
        scratch: Folder or URI for Ray Train's own files, on a disk that all nodes see; removed at the end.
        stopping: Event that requests the workers to stop.

    Returns:
        What the function returned on the first worker.

    Raises:
        NonRetryableError: a worker reported one.
        RuntimeError: workers died too often.
        KeyboardInterrupt: a stop is requested, and no worker is alive to do it.
    """
    import ray

    _clear(scratch)  # of a run that was killed
    coordinator = ray.remote(num_cpus=0, scheduling_strategy=_this_node())(Coordinator).remote()
    outcome: dict[str, Any] = {}
    # not in this thread: in the main thread Ray Train would replace the signal handlers that set `stopping`
    thread = threading.Thread(
        target=_fit,
        args=(function, {**settings, "coordinator": coordinator}, config, scratch, outcome),
        daemon=True,
    )
    try:
        thread.start()
        _watch(thread, coordinator, stopping)
        failure = ray.get(coordinator.failure.remote())
    finally:
        ray.kill(coordinator)
        _clear(scratch)
    if failure:
        raise NonRetryableError(failure)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def _this_node() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _clear(scratch: str) -> None:
    with suppress(OSError):
        Folder(scratch).delete_folder("")


def _watch(thread: threading.Thread, coordinator: Any, stopping: threading.Event) -> None:
    """Emit the workers' log records and forward stop requests until the workers have ended."""
    import ray

    logged, alive = time.monotonic(), True
    while alive:
        thread.join(_POLL_SECONDS)
        alive = thread.is_alive()
        silent_seconds, records = ray.get(coordinator.poll.remote(stop=stopping.is_set()))
        for record in records:
            emit_forwarded(record)
        if not alive or silent_seconds <= _MAX_SILENT_SECONDS:
            continue
        if stopping.is_set():
            raise KeyboardInterrupt  # no worker is alive that could stop with a checkpoint
        if time.monotonic() - logged > _MAX_SILENT_SECONDS:
            logger.warning(
                f"no worker for {silent_seconds:.0f} s: Ray is starting them, or waits for resources"
            )
            logged = time.monotonic()


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

    from pipelines.cluster.gloo import GlooConfig

    try:
        filesystem, path = open_filesystem(scratch)
        trainer = TorchTrainer(
            function,
            train_loop_config=settings,
            torch_config=TorchConfig(backend="nccl") if config.gpu else GlooConfig(),
            scaling_config=ScalingConfig(
                num_workers=config.count if config.least is None else (config.least, config.count),
                use_gpu=config.gpu,
                resources_per_worker=config.resources,
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex,  # always a new one: nothing that Ray kept of an earlier run is read
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=config.max_failures),
            ),
        )
        outcome["result"] = trainer.fit().return_value
    except BaseException as error:  # raised again in the caller's thread
        outcome["error"] = error
