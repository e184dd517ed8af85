"""Train: shards in, checkpoints out; what `jobs/train.py` calls. The loop itself: `apollo.training.loop`.

    resolve   configuration, data and output are checked; every refusal happens here (`training.resolve`)
    execute   Ray Train starts the workers, which run the loop (`training.worker`)
    report    result.json, and the best weights as a version in the registry (`training.registration`)

The files of a run:

    OUTPUT/
      fingerprint.json           what decides the result; another run on the same output is refused
      checkpoints/  best         `apollo.training.checkpoint_manager`
      init/                      copy of the checkpoint that the run started from, if any
      tracking/  mlflow.db       logged metrics, and MLflow's database unless there is a server
      rejects-<rank>.jsonl       rows that were skipped
      result.json                how the run ended

An output may be a URI: `pipelines.training.checkpoint_sync`.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from pipelines.cluster.resources import check_resources, reserve_resources
from pipelines.errors import OutputTakenError
from pipelines.runtime.logs import current_level
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.run import lock_output, record_end, run_exclusively
from pipelines.runtime.signals import install_sigterm_handler, sigterm_as_interrupt
from pipelines.storage.folder import Folder, is_uri, join
from pipelines.tracking import run as tracking
from pipelines.tracking.uri import check_uri
from pipelines.training import registration
from pipelines.training.checkpoint_sync import CheckpointSync, make_folder
from pipelines.training.config import INIT, TrainConfig
from pipelines.training.resolve import ResolvedTraining, resolve

logger = logging.getLogger(__name__)

_SCRATCH = ".ray"  # Ray Train's; never read again


def train(config: TrainConfig) -> Outcome:
    """Train until the end, an interruption or a failure, and write result.json.

    An output that another run holds, or that was created with a different configuration, is not changed.
    """
    if not is_uri(config.output):
        return _train(config)
    try:
        with sigterm_as_interrupt():
            make_folder(config.folder)
            with lock_output(Folder(str(config.folder))):
                return _train(config)
    except OutputTakenError as error:
        return Outcome(Exit.USAGE, str(error))
    except OSError as error:
        outcome = Outcome(Exit.FAILED, f"cannot work in {config.folder}: {error}")
    except KeyboardInterrupt:
        outcome = Outcome(Exit.INTERRUPTED, "interrupted; nothing was started")
    record_end(config.output, outcome)
    return outcome


def _train(config: TrainConfig) -> Outcome:
    resolved: ResolvedTraining

    def prepare() -> Outcome | None:
        nonlocal resolved
        resolved = resolve(config)
        finished = resolved.finished
        return None if finished and registration.needs_registration(config, finished.facts) else finished

    def work() -> Outcome:
        return report(resolved, resolved.finished or execute(resolved))

    resume_hint = "the newest checkpoint stands, run the same command again to continue from it"
    return run_exclusively(Folder(config.output), prepare, work, activity="training", resume_hint=resume_hint)


def execute(resolved: ResolvedTraining) -> Outcome:
    """Run the workers until they end, tracked as one MLflow run."""
    from pipelines.cluster import connection
    from pipelines.cluster.torch_trainer import run_workers
    from pipelines.training.worker import work

    config = resolved.config
    _write_init(config)
    connection.connect()
    install_sigterm_handler()  # Ray has installed its own handler
    # every worker of a live run needs a CPU for an actor of its own
    check_resources(config.workers, more_cpus=config.workers.min_count if config.source == "live" else 0)
    with reserve_resources(config.workers):
        check_uri(resolved.tracking_uri, connection.connect().nodes)
        run = tracking.open_run(
            config.tracking, str(config.folder), params=asdict(config), tags=resolved.tags
        )
        status: tracking.Status = "FAILED"
        try:
            with _graceful_stop() as stopping:
                logger.info(f"training on {config.workers.count} workers; {config.output}")
                ending = run_workers(
                    work,
                    {"config": config, "run": run, "log_level": current_level()},
                    config.workers,
                    scratch=join(config.output, _SCRATCH),
                    stopping=stopping,
                )
                outcome = _outcome(ending, config)
                status = "KILLED" if outcome.code == Exit.INTERRUPTED else "FINISHED"
                return outcome
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(status)


def report(resolved: ResolvedTraining, outcome: Outcome) -> Outcome:
    """Register the best weights of a finished training, and add the version to the outcome."""
    if outcome.code != Exit.DONE:
        return outcome
    facts = {name: value for name, value in outcome.facts.items() if name != "not_registered"}
    return replace(outcome, facts=facts | registration.register_best(resolved.config, facts, resolved.tags))


def _outcome(ending: dict[str, Any], config: TrainConfig) -> Outcome:
    """Turn what rank 0 returned (`apollo.training.loop.FitResult`) into an outcome."""
    facts = {
        "ending": ending["status"],
        "patience_epochs": config.fit.patience_epochs,
        **{name: ending[name] for name in ("step", "best", "scores", "skipped")},
    }
    if ending["status"] == "interrupted":
        text = f"stopped at step {ending['step']} with a checkpoint; run the same command again to continue"
        return Outcome(Exit.INTERRUPTED, text, facts)
    why = " (no improvement for long enough)" if ending["status"] == "early" else ""
    text = f"{ending['step']} steps{why}"
    if ending["best"] is not None:
        text += f"; best: step {ending['best']}, {join(config.output, 'best')}"
    return Outcome(Exit.DONE, text, facts)


def _write_init(config: TrainConfig) -> None:
    """Copy the checkpoint that a run starts from into its output, once."""
    if config.init is None:
        return
    if not (config.folder / INIT).exists():
        _copy_init(config, config.init)
    if is_uri(config.output):
        CheckpointSync(config.output, config.folder).push_init()


def _copy_init(config: TrainConfig, init: str) -> None:
    from apollo.checkpoints import checkpoint
    from apollo.model.deepening import add_layers

    source = checkpoint.locate(init)
    discriminator = checkpoint.read_discriminator_state(source)
    generator = checkpoint.load(source)
    checkpoint.save(
        add_layers(generator, config.init_layers) if config.init_layers else generator,
        config.folder / INIT,
        extra_states={"discriminator": discriminator} if discriminator else {},
        metadata={"from": init, "discriminator": config.discriminator.to_dict()} if discriminator else {},
    )
    warned = config.gan.has_adversarial_loss and not config.gan.discriminator_warmup_steps
    if warned and not discriminator:
        logger.warning(
            f"{init} has no discriminator: a new one would mislead a trained generator. Consider "
            "--gan.discriminator_warmup_steps 2000, in which it learns alone"
        )


@contextmanager
def _graceful_stop() -> Iterator[threading.Event]:
    """Set an event at the first SIGTERM or SIGINT, and raise KeyboardInterrupt at the second."""
    stopping = threading.Event()

    def handle(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        logger.info("stopping after this step, with a checkpoint; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
