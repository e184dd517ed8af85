"""Train: shards in, checkpoints out; what `jobs/train.py` calls. The loop itself: `apollo.training.loop`.

The files of a run:

    OUTPUT/
      fingerprint.json           what decides the result; another run on the same output is refused
      checkpoints/  best         `apollo.training.checkpoint_manager`
      init/                      the checkpoint that the run began from, where it was told one
      tracking/  mlflow.db       what was logged, and MLflow's database unless there is a server
      rejects-<rank>.jsonl       rows that were left out
      result.json                how the run ended

An output may be a URI; what is where then: `pipelines.training.checkpoint_sync`.
"""

import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from apollo.model.config import DiscriminatorConfig
from apollo.training.config import FREE_FIT, FREE_GAN
from pipelines.cluster.resources import check_room, room_for
from pipelines.errors import UsageError
from pipelines.runtime import run as runs
from pipelines.runtime.logs import current_level
from pipelines.runtime.run import Exit, Outcome
from pipelines.storage.folder import Folder, is_uri, join
from pipelines.tracking import run as tracking
from pipelines.training import registration
from pipelines.training.checkpoint_sync import CheckpointSync, make_folder
from pipelines.training.config import INIT, TrainConfig

logger = logging.getLogger(__name__)

_FREE = {  # may change from one start to the next: what is learned stays the same, but for rounding
    "gan": FREE_GAN,
    "fit": FREE_FIT,
    "loader": ("look_ahead", "decode_threads", "fetch_threads", "max_corrupt_share"),
}
_SCRATCH = ".ray"  # Ray Train's; never read again


def train(config: TrainConfig) -> Outcome:
    """Train to the end, however it ends, and leave result.json.

    An output that another run holds, or that was begun with something else, is left as it is.
    """
    if not is_uri(config.output):
        return _train(config)
    try:
        make_folder(config.folder)
        with runs.hold(Folder(str(config.folder))):
            return _train(config)
    except UsageError as error:
        return Outcome(Exit.USAGE, str(error))
    except OSError as error:
        return Outcome(Exit.FAILED, f"cannot work in {config.folder}: {error}")


def _train(config: TrainConfig) -> Outcome:
    output = Folder(config.output)
    shaped, fingerprint = config, dict[str, Any]()
    finished: Outcome | None = None

    def prepare() -> Outcome | None:
        nonlocal shaped, fingerprint, finished
        shaped, fingerprint = _prepare(config)
        runs.claim(output, fingerprint)
        finished = _finished(shaped, output)
        return None if finished and registration.needs_registration(shaped, finished.facts) else finished

    def work() -> Outcome:
        if not finished:
            _begin(shaped)
        outcome = finished or _run(shaped, output, fingerprint)
        if outcome.code != Exit.DONE:
            return outcome
        known = {name: value for name, value in outcome.facts.items() if name != "not_registered"}
        return replace(outcome, facts=known | registration.register_best(shaped, known, _tags(fingerprint)))

    left = "the newest checkpoint stands, run the same command again to continue from it"
    return runs.run_held(output, prepare, work, doing="training", left=left)


def _tags(fingerprint: dict[str, Any]) -> dict[str, str]:
    """Name what a run and its weights are known by in MLflow."""
    return {
        "git_commit": tracking.git_commit(),
        "config_hash": _hash(fingerprint),
        "data_fingerprint": fingerprint["data"]["train"],
    }


def _finished(config: TrainConfig, output: Folder) -> Outcome | None:
    """Tell whether the output has got where this run would go, so that nothing needs to start."""
    try:
        result = json.loads(output.read(runs.RESULT))
        steps = config.fit.epochs * (config.fit.epoch_examples // config.gan.batch_size)
        there = result["step"] >= min(steps, config.fit.max_steps or steps)
        there |= result["ending"] == "early" and result["patience_epochs"] >= config.fit.patience_epochs
        if result["status"] != "done" or not there:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    facts = {name: value for name, value in result.items() if name not in ("status", "exit_code", "message")}
    said = f"{config.output} is finished already: "
    return Outcome(Exit.DONE, said + result["message"].removeprefix(said), facts)


def _prepare(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any]]:
    """Check what can be checked before anything starts; gives the configuration with its shapes, and the
    run's fingerprint.
    """
    import torch

    from pipelines.loading.shard_source import ShardSource, ValidationSource

    if is_uri(config.output):
        _check_tracking(config)
        CheckpointSync(config.output, config.folder).pull_initial()
    if config.init is not None:
        config = replace(config, **_shapes(config))
    settings: dict[str, Any] = {
        name: {key: value for key, value in asdict(getattr(config, name)).items() if key not in free}
        for name, free in {**_FREE, "generator": (), "discriminator": ()}.items()
    }
    if config.source == "live":
        there = Folder(config.shards)
        plan = there.read("plan.json") + there.read("sources.parquet")
        data = hashlib.sha256(plan).hexdigest()
    else:
        data = ShardSource(config.shards, config.loader, epoch_examples=config.fit.epoch_examples).fingerprint
    validation = ValidationSource(config.shards, config.loader, limit=config.fit.validation_examples)
    settings |= {
        "source": config.source,
        "init": config.init,
        "data": {"train": data, "valid": validation.fingerprint},
        "versions": {"torch": torch.__version__.partition("+")[0]},
    }
    return config, json.loads(json.dumps(settings))


def _check_tracking(config: TrainConfig) -> None:
    """Refuse to keep what is tracked in a folder that may go with its machine.

    Raises:
        UsageError: nothing says where it is to be kept.
    """
    if not config.tracking.uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UsageError(
            f"--output {config.output!r} is no disk, so MLflow's database cannot lie in it: name a server, "
            "--tracking.uri http://that-machine:5000 or MLFLOW_TRACKING_URI; or a file of this machine, "
            "--tracking.uri sqlite:////absolute/path/mlflow.db"
        )


def _shapes(config: TrainConfig) -> dict[str, Any]:
    """Read the shapes of the networks that a run begins from."""
    from apollo.checkpoints import checkpoint

    begun = config.folder / INIT
    source = begun if begun.exists() else checkpoint.locate(str(config.init))
    shapes: dict[str, Any] = {"generator": checkpoint.load(source).config}
    judge = checkpoint.describe(source).get("discriminator")
    if isinstance(judge, dict):
        shapes["discriminator"] = DiscriminatorConfig.from_dict(judge)
    return shapes


def _begin(config: TrainConfig) -> None:
    """Bring the checkpoint that a run begins from into its output."""
    if config.init is None:
        return
    if not (config.folder / INIT).exists():
        _save_init(config, config.init)
    if is_uri(config.output):
        CheckpointSync(config.output, config.folder).push_init()


def _save_init(config: TrainConfig, init: str) -> None:
    from apollo.checkpoints import checkpoint

    source = checkpoint.locate(init)
    more = checkpoint.read_discriminator(source)
    checkpoint.save(
        checkpoint.load(source),
        config.folder / INIT,
        more={"discriminator": more} if more else {},
        notes={"from": init, "discriminator": config.discriminator.to_dict()} if more else {},
    )
    if not more and not config.gan.discriminator_warmup_steps:
        logger.warning(
            f"{init} has no discriminator: a new one would mislead a trained generator. Consider "
            "--gan.discriminator_warmup_steps 2000, in which it learns alone"
        )


def _run(config: TrainConfig, output: Folder, fingerprint: dict[str, Any]) -> Outcome:
    from pipelines.cluster import connection
    from pipelines.cluster.torch_trainer import run_workers
    from pipelines.training.worker import work

    connection.connect()
    runs.catch_sigterm()  # Ray has put its own handler there
    # every worker of a live run needs a CPU for an actor of its own
    check_room(config.workers, more_cpus=config.workers.needed if config.source == "live" else 0)
    with room_for(config.workers):
        nodes = connection.connect().nodes
        tracking.check_uri(tracking.resolve_uri(config.tracking.uri, config.output), nodes)
        run = tracking.open_run(
            config.tracking,
            str(config.folder),
            params=asdict(config),
            tags=_tags(fingerprint),
        )
        status: tracking.Status = "FAILED"
        try:
            with _signals_as_wish() as stopping:
                logger.info(f"training on {config.workers.count} workers; {config.output}")
                found = run_workers(
                    work,
                    {"config": config, "run": run, "log_level": current_level()},
                    config.workers,
                    scratch=join(config.output, _SCRATCH),
                    stopping=stopping,
                )
                outcome = _judge(found, config)
                status = "KILLED" if outcome.code == Exit.INTERRUPTED else "FINISHED"
                return outcome
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(status)


def _judge(found: dict[str, Any], config: TrainConfig) -> Outcome:
    facts = {
        "ending": found["status"],
        "patience_epochs": config.fit.patience_epochs,
        **{name: found[name] for name in ("step", "best", "scores", "skipped")},
    }
    best = f"; best: step {found['best']}, {join(config.output, 'best')}" if found["best"] is not None else ""
    if found["status"] == "interrupted":
        text = f"stopped at step {found['step']} with a checkpoint; run the same command again to continue"
        return Outcome(Exit.INTERRUPTED, text, facts)
    why = " (no improvement for long enough)" if found["status"] == "early" else ""
    return Outcome(Exit.DONE, f"{found['step']} steps{why}{best}", facts)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _signals_as_wish() -> Iterator[threading.Event]:
    """Turn the first SIGTERM or Ctrl-C into the wish to stop, and the second into an interruption."""
    stopping = threading.Event()

    def wish(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        logger.info("stopping after this step, with a checkpoint; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, wish) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
