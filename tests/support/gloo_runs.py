"""Small training runs as local processes over gloo, for tests that kill them or feed non-finite examples."""

import json
import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it at their first step; so it is imported once
import torch.distributed as distributed

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.callbacks import Callbacks
from apollo.training.config import FitConfig, GanConfig
from apollo.training.data import Example
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.loop import FitResult, fit

SAMPLES = 1_500
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.support.gloo_runs"])  # imports torch once for all runs


@dataclass(frozen=True)
class Run:
    """A training run and its faults."""

    output: Path
    world_size: int = 2
    gan: GanConfig = field(default_factory=lambda: GanConfig(batch_size=4, micro_batch=2, ema_decay=0.9))
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=3,
            epoch_examples=27,  # 6 steps of 4, and 3 examples that no step takes
            checkpoint_steps=4,
            validation_examples=3,
            log_steps=5,  # no divisor of the steps between checkpoints
        )
    )
    kill: Mapping[int, int] = field(default_factory=dict)  # rank: step after which it is killed
    stop: Mapping[int, int] = field(default_factory=dict)  # rank: step after which it requests a stop
    poison: frozenset[str] = frozenset()  # examples with non-finite samples
    has_async_scores: bool = False  # whether further scores arrive later
    generator: GeneratorConfig = field(
        default_factory=lambda: GeneratorConfig(dim=8, layers=1, heads=2, output="correction")
    )
    discriminator: DiscriminatorConfig = field(
        default_factory=lambda: DiscriminatorConfig(windows=(64, 256), norm="rms")
    )


class Noise:
    """Examples as a function of epoch and position: noise, and the same noise degraded."""

    def __init__(self, poison: frozenset[str] = frozenset(), count: int = 100) -> None:
        self.poison, self.count = poison, count

    def __len__(self) -> int:
        return self.count

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        for position in positions:
            random = torch.Generator().manual_seed(1_000_003 * epoch + position)
            clean = 0.1 * torch.randn(2, SAMPLES, generator=random)
            degraded = clean + 0.03 * torch.randn(2, SAMPLES, generator=random)
            name = f"{epoch}-{position}"
            yield Example(clean, degraded * torch.nan if name in self.poison else degraded, name)


class Recorder(Callbacks):
    """Records every step, and kills its process or requests a stop at the configured step."""

    def __init__(self, run: Run, rank: int) -> None:
        self.run, self.rank, self.step, self.waiting = run, rank, 0, {}
        self.has_async_scores = run.has_async_scores

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        self.step = step
        _append(self.run.output / f"steps-{self.rank}.jsonl", {"step": step, "names": list(names), **metrics})
        if self.run.kill.get(self.rank) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        _append(self.run.output / "logged.jsonl", {"step": step, **metrics})

    def on_validation_end(self, step: int, scores: Mapping[str, float], restored: Sequence[object]) -> None:
        _append(self.run.output / "validated.jsonl", {"step": step, **scores})
        self.waiting[step] = {"valid/visqol": 2.0 + step / 100, "valid/visqol/degraded": 2.0}

    def collect_async_scores(self, *, wait: bool) -> dict[int, dict[str, float]]:
        arrived = {step: scores for step, scores in self.waiting.items() if wait or step < self.step - 2}
        self.waiting = {step: scores for step, scores in self.waiting.items() if step not in arrived}
        return arrived

    def should_stop(self) -> bool:
        return self.run.stop.get(self.rank, self.step + 1) <= self.step


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def build(run: Run, context: DistributedContext) -> Gan:
    """Create the small networks of a run; the same on every rank."""
    torch.manual_seed(run.fit.seed)
    return Gan(Generator(run.generator), Discriminator(run.discriminator), run.gan, context)


def _work(run: Run, rank: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if run.world_size > 1:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=run.world_size,
            timeout=timedelta(seconds=60),
        )
    logging.basicConfig(filename=run.output / "log.txt", level=logging.INFO)
    context = DistributedContext(torch.device("cpu"))
    result = fit(
        build(run, context),
        Noise(run.poison),
        run.fit,
        output=run.output,
        validation=Noise(count=50),
        callbacks=Recorder(run, rank),
    )
    if rank == 0:
        (run.output / "result.json").write_text(json.dumps(result.__dict__))


def launch(run: Run, **changes: Any) -> list[int | None]:
    """Run all ranks and return their exit codes."""
    run = replace(run, **changes)
    run.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            _PROCESSES.Process(target=_work, args=(run, rank, f"{folder}/rendezvous"), daemon=True)
            for rank in range(run.world_size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        hanging = [worker for worker in workers if worker.is_alive()]
        for worker in hanging:
            worker.kill()
            worker.join()
        assert not hanging, f"{len(hanging)} of {run.world_size} ranks hang"
    return [worker.exitcode for worker in workers]


def result(run: Run) -> FitResult:
    """Read the result of the last run."""
    return FitResult(**json.loads((run.output / "result.json").read_text()))


def steps(run: Run, rank: int = 0) -> dict[int, dict[str, Any]]:
    """Read a rank's steps; those taken twice must be the same to the last bit."""
    found: dict[int, dict[str, Any]] = {}
    for text in (run.output / f"steps-{rank}.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        assert found.setdefault(step, line) == line, f"step {step} was taken twice, and differed"
    return found


def logged(run: Run) -> dict[int, dict[str, Any]]:
    """Read the means that were logged, but for times; those logged twice must be the same to the last bit."""
    found: dict[int, dict[str, Any]] = {}
    for text in (run.output / "logged.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        kept = {name: value for name, value in line.items() if name[:4] not in ("time", "rate", "memo")}
        assert found.setdefault(step, kept) == kept, f"step {step} was logged twice, and differed"
    return found


def names(run: Run, ranks: int) -> dict[int, list[str]]:
    """Read which examples every step had, over all ranks."""
    together: dict[int, list[str]] = {}
    for rank in range(ranks):
        if (run.output / f"steps-{rank}.jsonl").exists():
            for step, line in steps(run, rank).items():
                together[step] = sorted([*together.get(step, []), *line["names"]])
    return together


def log(run: Run) -> str:
    """Read the log lines of all starts of a run."""
    return (run.output / "log.txt").read_text()


def weights(run: Run, step: int) -> dict[str, Any]:
    """Read every tensor and number of a checkpoint."""
    folder = run.output / "checkpoints" / f"step-{step:08d}"
    found: dict[str, Any] = {}
    for name in ("weights.pt", "training.pt"):
        _flatten(torch.load(folder / name, weights_only=True), name, found)
    return found


def _flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name}/{key}", into)
    else:
        into[name] = value
