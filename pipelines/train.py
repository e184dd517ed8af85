"""Train: shards in, checkpoints out; what `jobs/train.py` calls. The loop itself: `apollo.loop`.

OUTPUT/
fingerprint.json           what decides the result; another run on the same output is refused
checkpoints/  best         `apollo.snapshots`
init/                      the checkpoint that the run began from, where it was told one
tracking/  mlflow.db       what was logged, and MLflow's database unless there is a server
validation/                pictures and clips
rejects-<rank>.jsonl       rows that were left out
result.json                how the run ended
"""

import hashlib
import json
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from apollo.config import DiscriminatorConfig, GeneratorConfig
from apollo.training import FitConfig, GanConfig
from pipelines import runs, tracking
from pipelines.errors import UsageError
from pipelines.loader import LoaderConfig
from pipelines.progress import say
from pipelines.room import WorkersConfig, check_room, wait_for_room
from pipelines.runs import Exit
from pipelines.storage import Folder, is_uri
from pipelines.tracking import TrackingConfig

_FREE = {  # may change from one start to the next: what is learned stays the same, but for rounding
    "gan": ("micro_batch", "compile", "recompute", "max_skipped_steps"),
    "fit": ("epochs", "max_steps", "patience_epochs", "keep_checkpoints", "log_steps", "checkpoint_steps"),
    "loader": ("look_ahead", "decode_threads", "fetch_threads", "max_corrupt_share"),
}
_SCRATCH = ".ray"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Args:
        shards: Output of preprocess: path or URI.
        output: Folder of the run, on a disk that all nodes see.
        init: Checkpoint to begin from: a folder of ours, a published or community file, a Hugging Face name.
            Its shape takes the place of `generator`.
        source: `shards`, or `live`: new mixes in every epoch, made on the cluster's free CPUs.
        live_actors: Actors that make them.
        generator: Its shape.
        discriminator: Its shape.
        gan: The step.
        fit: The loop.
        loader: The data.
        heard_examples: Validation examples that are scored by ViSQOL and shown; 0 for none.
        visqol: Whether ViSQOL is measured.
        workers: The processes.
        tracking: MLflow.
        history: Write every step's losses and examples to OUTPUT/history-<rank>.jsonl.
    """

    shards: str
    output: str
    init: str | None = None
    source: Literal["shards", "live"] = "shards"
    live_actors: int = 8
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    heard_examples: int = 6
    visqol: bool = True
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    history: bool = False

    def __post_init__(self) -> None:
        if is_uri(self.output):
            raise UsageError(
                f"--output {self.output!r} is no folder on a disk: checkpoints are written to one that all "
                "nodes see"
            )
        object.__setattr__(self, "shards", runs.resolve(self.shards, "--shards"))
        object.__setattr__(self, "output", runs.resolve(self.output, "--output"))
        if self.gan.batch_size < self.workers.count:
            raise UsageError(
                f"gan.batch_size is {self.gan.batch_size} for {self.workers.count} workers: every worker "
                "needs an example of each step. Give a larger --gan.batch_size or fewer --workers.count"
            )
        if self.fit.epoch_examples < self.gan.batch_size:
            raise UsageError(
                f"fit.epoch_examples is {self.fit.epoch_examples}, gan.batch_size {self.gan.batch_size}: an "
                "epoch needs a step"
            )
        if self.heard_examples < 0 or self.live_actors < 1:
            raise UsageError("heard_examples must be 0 or more, live_actors 1 or more")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        code: Exit code.
        message: In words.
        facts: What result.json says beside.
    """

    code: Exit
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


def train(config: TrainConfig) -> Outcome:
    """Train to the end, however it ends, and leave result.json.

    An output that another run holds, or that was begun with something else, is left as it is.
    """
    output = Folder(config.output)
    try:
        with runs.hold(output), runs.interruptible():
            return _train_held(config, output)
    except UsageError as error:
        return Outcome(Exit.USAGE, str(error))
    except OSError as error:
        return Outcome(Exit.FAILED, f"cannot write to {config.output}: {error}")


def _train_held(config: TrainConfig, output: Folder) -> Outcome:
    finished = _finished(config, output)
    if finished:
        return finished
    claimed = False
    try:
        config, fingerprint = _prepare(config)
        runs.claim(output, fingerprint)
        claimed = True
        runs.write_result(output, None, "training")
        outcome = _run(config, output, fingerprint)
    except UsageError as error:
        outcome = Outcome(Exit.USAGE, str(error))
        if not claimed:
            return outcome
    except KeyboardInterrupt:
        outcome = Outcome(Exit.INTERRUPTED, "interrupted at once; the newest checkpoint stands")
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError):
            traceback.print_exc()
        again = "run the same command again to continue from the newest checkpoint"
        outcome = Outcome(Exit.FAILED, f"{runs.root_cause(error)}; {again}")
    runs.write_result(output, outcome.code, outcome.message, **outcome.facts)
    return outcome


def _finished(config: TrainConfig, output: Folder) -> Outcome | None:
    """Tell whether the output has got where this run would go, so that nothing needs to start."""
    if not output.exists(runs.RESULT):
        return None
    result = json.loads(output.read(runs.RESULT))
    steps = config.fit.epochs * (config.fit.epoch_examples // config.gan.batch_size)
    limit = min(steps, config.fit.max_steps or steps)
    if result["status"] != "done" or (result.get("ending") != "early" and result.get("step", 0) < limit):
        return None
    facts = {name: value for name, value in result.items() if name not in ("status", "exit_code", "message")}
    return Outcome(Exit.DONE, f"{config.output} is finished already: {result['message']}", facts)


def _prepare(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any]]:
    """Check what can be checked before anything starts; gives the run's fingerprint."""
    import torch

    from pipelines.loader import ShardSource, ValidationSource

    shape = _begin(config)
    if shape is not None:
        config = replace(config, generator=shape)
    settings: dict[str, Any] = {
        name: {key: value for key, value in asdict(getattr(config, name)).items() if key not in free}
        for name, free in {**_FREE, "generator": (), "discriminator": ()}.items()
    }
    data = ShardSource(config.shards, config.loader, epoch_examples=config.fit.epoch_examples)
    validation = ValidationSource(config.shards, config.loader, limit=config.fit.validation_examples)
    settings |= {
        "source": config.source,
        "init": config.init,
        "data": {"train": data.fingerprint, "valid": validation.fingerprint},
        "versions": {"torch": torch.__version__.partition("+")[0]},
    }
    return config, json.loads(json.dumps(settings))


def _begin(config: TrainConfig) -> GeneratorConfig | None:
    """Bring the checkpoint that a run begins from into its output; gives the shape of its generator."""
    if config.init is None:
        return None
    from apollo import checkpoint
    from apollo.published import read_container

    target = Path(config.output) / "init"
    if not target.exists():
        source = checkpoint.locate(config.init)
        generator = checkpoint.load(source)
        inner = source / "best" if source.is_dir() and not (source / checkpoint.WEIGHTS).exists() else source
        states = read_container(inner / checkpoint.WEIGHTS) if inner.is_dir() else {}
        more = {name: states[name] for name in ("discriminator",) if name in states}
        checkpoint.save(generator, target, more=more, notes={"from": str(config.init)})
        if not more and not config.gan.discriminator_warmup_steps:
            say(
                f"{config.init} has no discriminator: a new one would mislead a trained generator. Consider "
                "--gan.discriminator_warmup_steps 2000, in which it learns alone"
            )
    shape: GeneratorConfig = checkpoint.load(target).config
    return shape


def _run(config: TrainConfig, output: Folder, fingerprint: dict[str, Any]) -> Outcome:
    from pipelines import cluster
    from pipelines.train_worker import work
    from pipelines.workers import run_workers

    there = cluster.connect()
    runs.catch_sigterm()  # Ray has put its own handler there
    check_room(config.workers)
    wait_for_room(config.workers, say)
    tracking.check_uri(tracking.resolve_uri(config.tracking.uri, config.output), there.nodes)
    run = tracking.open_run(
        config.tracking,
        config.output,
        params=asdict(config),
        tags={
            "git_commit": tracking.git_commit(),
            "config_hash": _hash(fingerprint),
            "data_fingerprint": fingerprint["data"]["train"],
        },
    )
    status: tracking.Status = "FAILED"
    try:
        with _signals_as_wish() as stopping:
            say(f"training on {config.workers.count} workers; {config.output}")
            found = run_workers(
                work,
                {"config": config, "run": run},
                config.workers,
                scratch=os.path.join(config.output, _SCRATCH),
                stopping=stopping,
                say=say,
            )
        outcome = _judge(found, config)
        status = {Exit.DONE: "FINISHED", Exit.INTERRUPTED: "KILLED"}.get(outcome.code, "FAILED")  # type: ignore[assignment]
        return outcome
    finally:
        run.close(status)


def _judge(found: dict[str, Any], config: TrainConfig) -> Outcome:
    facts = {
        "ending": found["status"],
        **{name: found[name] for name in ("step", "best", "scores", "skipped")},
    }
    best = f"; best: step {found['best']}, {config.output}/best" if found["best"] is not None else ""
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
        say("stopping after this step, with a checkpoint; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, wish) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
