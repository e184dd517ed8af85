"""Training workers on Ray Train: starting them, and what passes between them and the driver.

Ray Train starts the processes, joins them by torch.distributed and starts them again when one dies. What is
kept is ours (`apollo.training.checkpoint_manager`): a started worker goes on from the newest whole
checkpoint of the output, so nothing that Ray writes is ever read again.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipelines.cluster.placement import node_beside
from pipelines.cluster.resources import WorkersConfig
from pipelines.errors import FinalError
from pipelines.runtime.logs import emit_forwarded
from pipelines.storage.folder import Folder, open_filesystem

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_BEAT_SECONDS, _SILENT_SECONDS = 5.0, 60.0


class Desk:
    """Where workers and driver meet: log records one way, the wish to stop the other way."""

    def __init__(self) -> None:
        self._stopping, self._records, self._failure = False, list[dict[str, Any]](), ""
        self._beat = time.monotonic()

    def beat(self) -> None:
        """Hear that the first worker is there."""
        self._beat = time.monotonic()

    def silence_seconds(self) -> float:
        """Tell for how long no worker was there."""
        return time.monotonic() - self._beat

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

    def log(self, record: dict[str, Any]) -> None:
        """Keep a log record of a worker until the driver takes it."""
        self._records.append(record)

    def take_records(self) -> list[dict[str, Any]]:
        """Return the log records that have come since the last call."""
        records, self._records = self._records, []
        return records


class DeskLine:
    """A worker's line to the desk."""

    def __init__(self, desk: Any) -> None:
        self._desk, self._asked, self._answer = desk, -1.0, None
        self._stopping = False

    def beat(self) -> None:
        """Let the desk hear from this process from now on, whatever it is busy with."""

        def work() -> None:
            while True:
                self._desk.beat.remote()
                time.sleep(_BEAT_SECONDS)

        threading.Thread(target=work, name="beat", daemon=True).start()

    def log(self, record: dict[str, Any]) -> None:
        """Send a log record to the driver; does not wait."""
        self._desk.log.remote(record)

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
    """A function that runs beside training, here or on a node that works; it waits for no CPU of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, here: bool = False) -> None:
        import ray

        where = _this_node() if here else node_beside()
        task = ray.remote(num_cpus=0, max_retries=2, scheduling_strategy=where)(function)
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
) -> Any:
    """Run a function on all workers, until it has returned on each; start them again when one dies.

    Args:
        function: Of a module that the nodes have; called with `settings` and the desk under "desk".
        settings: Plain values.
        config: The workers.
        scratch: Folder for what Ray Train writes, on a disk that all nodes see, or URI; removed at the end.
        stopping: When set, the workers are asked to stop.

    Returns:
        What the function returned on the first worker.

    Raises:
        FinalError: a worker left word of a failure at the desk.
        RuntimeError: workers died too often.
        KeyboardInterrupt: it is to stop, and no worker is there to do it.
    """
    import ray

    _clear(scratch)  # of a run that was killed
    desk = ray.remote(num_cpus=0, scheduling_strategy=_this_node())(Desk).remote()
    outcome: dict[str, Any] = {}
    # not in this thread: there Ray Train would put its own handlers where signals are turned into a wish
    thread = threading.Thread(
        target=_fit, args=(function, {**settings, "desk": desk}, config, scratch, outcome), daemon=True
    )
    try:
        thread.start()
        _attend(thread, desk, stopping)
        failure = ray.get(desk.failure.remote())
    finally:
        ray.kill(desk)
        _clear(scratch)
    if failure:
        raise FinalError(failure)
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


def _attend(thread: threading.Thread, desk: Any, stopping: threading.Event) -> None:
    """Show the workers' log records and pass on the wish to stop until the workers have ended."""
    import ray

    asked, logged = False, time.monotonic()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        silence = ray.get(desk.silence_seconds.remote())
        if stopping.is_set() and not asked:
            desk.stop.remote()
            asked = True
        if asked and silence > _SILENT_SECONDS:
            raise KeyboardInterrupt  # nobody is there who could stop with a checkpoint
        if silence > _SILENT_SECONDS and time.monotonic() - logged > _SILENT_SECONDS:
            logger.warning(f"no worker for {silence:.0f} s: Ray is starting them, or waits for resources")
            logged = time.monotonic()
        for record in ray.get(desk.take_records.remote()):
            emit_forwarded(record)
    for record in ray.get(desk.take_records.remote()):
        emit_forwarded(record)


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
                name=uuid.uuid4().hex,  # never one that there was: what Ray kept of that is not read
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=config.max_failures),
            ),
        )
        outcome["result"] = trainer.fit().return_value
    except BaseException as error:  # it is raised where it can be handled
        outcome["error"] = error
