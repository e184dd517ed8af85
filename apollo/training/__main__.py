"""Train with torch alone, from one file of examples.

python -m apollo.training --examples examples.pt --output runs/first --preset demo --max-steps 2000
torchrun --nproc-per-node 8 -m apollo.training --examples examples.pt --output runs/first

jobs/export.py writes the file. Run the same command again to resume. This is a script; in Python, call
`apollo.fit`.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from apollo.checkpoints import checkpoint
from apollo.checkpoints.io import atomic_write
from apollo.model.config import PRESETS, DiscriminatorConfig
from apollo.model.device import choose_device
from apollo.model.generator import Generator
from apollo.training.augmentation import LevelsConfig
from apollo.training.callbacks import Callbacks
from apollo.training.config import (
    RESUMABLE_FIT_OVERRIDES,
    RESUMABLE_GAN_OVERRIDES,
    FitConfig,
    GanConfig,
    NonFiniteError,
)
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.example_file import ExampleFileSource, ExampleFileValidation
from apollo.training.gan import Gan
from apollo.training.loop import fit

_RESUMABLE = ("output", "device", "history", *RESUMABLE_GAN_OVERRIDES, *RESUMABLE_FIT_OVERRIDES)


class _FileCallbacks(Callbacks):
    """Write metrics as JSON lines, and stop on SIGTERM and Ctrl-C."""

    def __init__(self, output: Path, rank: int, *, history: bool) -> None:
        self.stopping = False
        self.output, self.history = output, history
        self._steps = output / f"history-{rank}.jsonl"
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        if self.history:
            _append(self._steps, {"step": step, "examples": list(names), **metrics})

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        _append(self.output / "metrics.jsonl", {"step": step, **metrics})

    def should_stop(self) -> bool:
        return self.stopping


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        gan_config = GanConfig(**_config_options(GanConfig, options), weights=_parse_weights(options.weight))
        fit_config = FitConfig(**_config_options(FitConfig, options))
        source = ExampleFileSource(
            options.examples,
            LevelsConfig(channels=options.channels),
            epoch_examples=fit_config.epoch_examples,
            seed=fit_config.seed,
            piece_seconds=options.piece_seconds,
        )
        validation = ExampleFileValidation(options.examples)
        device = choose_device(options.device)
        initial = None if options.init is None else checkpoint.load(options.init)
        _check_options(options, parser)
    except (OSError, ValueError, checkpoint.CheckpointError) as error:
        parser.error(str(error))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("apollo").setLevel(logging.INFO)
    context = _init_distributed(device)
    torch.manual_seed(fit_config.seed)
    generator = Generator(PRESETS[options.preset]) if initial is None else initial.train()
    discriminator: Discriminator | DiscriminatorConfig
    discriminator = DiscriminatorConfig(
        norm=options.discriminator_norm, channels=1 if options.channels == "mono" else 2
    )
    if gan_config.is_adversarial(0):
        discriminator = Discriminator(discriminator).to(context.device)
    if initial is not None and gan_config.has_adversarial_loss:
        logging.getLogger("apollo").warning(
            "the discriminator starts anew: an untrained one misleads a trained generator. Consider "
            "--discriminator-warmup-steps 2000, in which it learns alone"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    callbacks = _FileCallbacks(options.output, context.rank, history=options.history)
    try:
        result = fit(
            Gan(generator.to(context.device), discriminator, gan_config, context, seed=fit_config.seed),
            source,
            fit_config,
            output=options.output,
            validation=validation,
            callbacks=callbacks,
        )
    except (NonFiniteError, ValueError, OSError) as error:
        print(f"fit: {error}", file=sys.stderr)
        return 1
    finally:
        if context.world_size > 1:
            distributed.destroy_process_group()
    if context.rank == 0:
        (options.output / "result.json").write_text(json.dumps(asdict(result), indent=1))
        best = f", best: {options.output / 'best'} (step {result.best})" if result.best else ""
        print(f"{result.status} at step {result.step}{best}", file=sys.stderr)
    return 130 if result.status == "interrupted" else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apollo.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--examples", type=Path, required=True, help="file written by jobs/export.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--preset", choices=PRESETS, default="released")
    parser.add_argument("--init", help="checkpoint to start from, such as compact; instead of --preset")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--discriminator-norm", choices=("l2", "rms"), default="l2")
    parser.add_argument("--piece-seconds", type=float, default=0.0, help="of each example; 0 for all of it")
    parser.add_argument("--channels", choices=("stereo", "mono"), default="stereo")
    parser.add_argument("--history", action="store_true", help="write every step's losses and examples")
    for kind in (GanConfig, FitConfig):
        for field in fields(kind):
            option = "--" + field.name.replace("_", "-")
            if field.type in (int, float, str):
                parser.add_argument(option, type=field.type, default=field.default)
            elif field.type is bool:
                parser.add_argument(option, action="store_true")
    parser.add_argument("--weight", action="append", default=[], metavar="LOSS=WEIGHT", help="g/waveform=0.1")
    return parser


def _check_options(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Write the options that determine the result, or compare them with those of the run to resume.

    Raises:
        ValueError: the output was created with different options.
    """
    here = {name: str(value) for name, value in vars(options).items() if name not in _RESUMABLE}
    path = options.output / "options.json"
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError):
        with atomic_write(path) as scratch:
            scratch.write_text(json.dumps(here, indent=1))
        return
    known = {name: str(parser.get_default(name)) for name in here} | there  # earlier releases had fewer
    changed = [
        f"--{name.replace('_', '-')} was {known[name]}, is {value}"
        for name, value in here.items()
        if known[name] != value
    ]
    if changed:
        raise ValueError(f"{options.output} was created with different options: {'; '.join(changed)}")


def _config_options(kind: type, options: argparse.Namespace) -> dict[str, Any]:
    there = vars(options)
    return {field.name: there[field.name] for field in fields(kind) if field.name in there}


def _parse_weights(given: Sequence[str]) -> dict[str, float]:
    weights = {}
    for pair in given:
        name, _, weight = pair.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"--weight is {pair!r}: use LOSS=WEIGHT, such as g/waveform=0.1") from None
    return weights


def _init_distributed(device: torch.device) -> DistributedContext:
    """Join the process group of torchrun, if it started this process."""
    if "WORLD_SIZE" not in os.environ:
        return DistributedContext(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return DistributedContext(device)


if __name__ == "__main__":
    sys.exit(main())
