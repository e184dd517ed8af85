"""Parts of `benchmarks.gpu`: published vectors, forward passes, GAN steps, training of the compact preset.

A part records what it finds as it goes: it may be stopped at any time.
"""

import argparse
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apollo.checkpoints import checkpoint
from apollo.checkpoints.published_format import infer_config, load_published
from apollo.model.config import PRESETS, DiscriminatorConfig, GeneratorConfig
from apollo.model.device import choose_device
from apollo.model.generator import Generator
from apollo.training.augmentation import LevelsConfig
from apollo.training.callbacks import Callbacks
from apollo.training.config import FitConfig, GanConfig
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.loop import fit
from apollo.training.validation import RestoredExample
from benchmarks.forward import measure_forward
from benchmarks.gan_step import measure_step
from benchmarks.live_mp3 import LiveSource, Mp3Pieces, ValidationPieces, decode_songs

Record = Callable[[Mapping[str, Any]], None]
TRAINING = "training.json"  # of the folder of songs: configuration of the training
_PRECISIONS = ("float32", "bfloat16")
_LARGEST_DIFFERENCE = 1e-5  # of float32 outputs to those of the published implementation
_ROUNDS = 5
_VALIDATION_SECONDS = 3.0
_EPOCHS = 8  # a validation after each
_TRIAL_STEPS = 40  # to measure a step, and fewer after this share of the time, but not below 4
_TRIAL_SHARE = 0.1
_LEAST_TRIAL_STEPS = 4  # the first ones start workers and load kernels
_TRAINING_SHARE = 0.85  # of the time; the rest is for validation and checkpoints


def golden(options: argparse.Namespace, record: Record) -> None:
    """Compare outputs in float32, without TF32, with those of the published implementation."""
    device = _use_exact_float32(options)
    paths = sorted(options.golden.glob("generator_*.npz"))
    if not paths:
        raise FileNotFoundError(f"{options.golden} holds no generator_*.npz")
    differences: dict[str, float] = {}
    for path in paths:
        with np.load(path) as vectors:
            names = [name for name in vectors if name.startswith("state_dict/")]
            state = {name.removeprefix("state_dict/"): torch.from_numpy(vectors[name]) for name in names}
            samples, expected = (torch.from_numpy(vectors[name]) for name in ("input", "output"))
        generator = Generator(infer_config(state)).eval()
        load_published(generator, state)
        with torch.inference_mode():
            found = generator.to(device)(samples.to(device)).cpu()
        differences[path.stem] = float((found - expected).abs().max())
        agrees = max(differences.values()) <= _LARGEST_DIFFERENCE
        record({"largest_differences": differences, "limit": _LARGEST_DIFFERENCE, "agrees": agrees})


def forward(options: argparse.Namespace, record: Record) -> None:
    """Measure forward passes of mono signals."""
    device, shape = _use_exact_float32(options), PRESETS[options.preset]
    generator = Generator(shape).to(device).eval()

    def measure(precision: str, batch: int) -> dict[str, float | None]:
        audio = 0.1 * torch.randn(batch, int(options.seconds * shape.sample_rate), device=device)
        dtype = getattr(torch, precision)
        prepared = generator.with_precision(dtype)
        with torch.inference_mode():
            speed = measure_forward(prepared, audio, generator(audio), dtype, _ROUNDS)
        return {
            "audio_seconds_per_second": batch * options.seconds / speed.seconds,
            "tflop_per_second": speed.flop / speed.seconds / 1e12,
            "share_of_square_product": speed.square_fraction,
            "share_of_same_shapes": statistics.median(speed.fractions),
            "snr_db": speed.snr_db if math.isfinite(speed.snr_db) else None,
            "peak_gb": speed.peak_bytes / 1e9,
        }

    _measure_all(options.forward_batches, measure, record)


def step(options: argparse.Namespace, record: Record) -> None:
    """Measure GAN steps of stereo examples."""
    device, shape = _use_exact_float32(options), PRESETS[options.preset]

    def measure(precision: str, batch: int) -> dict[str, float | None]:
        config = GanConfig(batch_size=batch, micro_batch=batch, precision=precision)
        speed = measure_step(shape, config, seconds=options.seconds, device=device, rounds=_ROUNDS)
        return {
            "audio_seconds_per_second": batch * options.seconds / speed.step_seconds,
            "step_seconds": speed.step_seconds,
            "step_in_forwards": statistics.median(speed.in_forwards),
            "share_of_square_product": speed.square_fraction,
            "peak_gb": speed.peak_bytes / 1e9,
        }

    _measure_all(options.step_batches, measure, record)


def _measure_all(
    batches: Sequence[int], measure: Callable[[str, int], dict[str, float | None]], record: Record
) -> None:
    """Measure every batch size in both precisions; one that fails, as out of memory, has its error."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for precision in _PRECISIONS:
            row: dict[str, Any] = {"precision": precision, "batch": batch}
            try:
                row |= measure(precision, batch)
            except RuntimeError as error:
                row["error"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            gc.collect()  # networks with cycles
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            rows.append(row)
            record({"rows": rows})


def _use_exact_float32(options: argparse.Namespace) -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    return choose_device(options.device)


class _Trial(Callbacks):
    """Time some steps, and stop."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.step_seconds: list[float] = []

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step_seconds.append(metrics["time/step"])

    def should_stop(self) -> bool:
        return len(self.step_seconds) >= _LEAST_TRIAL_STEPS and time.monotonic() >= self._end


class _Run(Callbacks):
    """Record losses and scores, and stop at the end of the time."""

    def __init__(self, output: Path, end: float, record: Record) -> None:
        self._output, self._end, self._record = output, end, record
        self._scores: dict[int, dict[str, float]] = {}
        self._first: dict[str, float] = {}

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        line = {"step": step, **metrics}
        self._first = self._first or line
        with (self._output / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self._record({"first": self._first, "last": line})

    def on_validation_end(
        self, step: int, scores: Mapping[str, float], restored: Sequence[RestoredExample]
    ) -> None:
        self._scores[step] = dict(scores)
        self._record({"scores": self._scores})

    def should_stop(self) -> bool:
        return time.monotonic() >= self._end


def train(options: argparse.Namespace, record: Record) -> None:
    """Train the compact preset on MP3 pairs made live, with a schedule as long as the time allows."""
    began, seconds = time.monotonic(), 60 * options.train_minutes
    device, values = choose_device(options.device), json.loads((options.songs / TRAINING).read_text())
    training, held_out = decode_songs(options.songs, options.scratch)
    record({"songs": len(training), "validation_songs": len(held_out), "decoding_seconds": _since(began)})
    validation = ValidationPieces(held_out, count=options.validation_examples, seconds=_VALIDATION_SECONDS)
    loader, config = values["loader"], GanConfig(**values["gan"])
    levels = LevelsConfig(**loader["levels"])
    pieces = Mp3Pieces(training, seconds=loader["piece_seconds"], levels=levels)
    source = LiveSource(pieces, workers=options.workers)
    record({"preparation_seconds": _since(began), "examples_seconds": loader["piece_seconds"]})
    step_seconds = _measure_step_seconds(
        _build(options, values, config, device), source, _TRIAL_SHARE * seconds
    )
    left = began + seconds - time.monotonic()
    steps = max(int(_TRAINING_SHARE * left / step_seconds), _EPOCHS)
    steps = min(steps, options.max_steps or steps)
    record({"step_seconds": step_seconds, "planned_steps": steps})
    config = replace(config, cosine_steps=steps, warmup_steps=min(config.warmup_steps, steps // _EPOCHS))
    output = options.output / "train"
    output.mkdir(parents=True, exist_ok=True)
    fit_config = FitConfig(
        epochs=_EPOCHS,
        patience_epochs=_EPOCHS,
        epoch_examples=steps // _EPOCHS * config.batch_size,
        checkpoint_steps=max(steps // _EPOCHS, 1),
        validation_examples=options.validation_examples,
        keep_checkpoints=1,
        log_steps=max(steps // 100, 1),
    )
    result = fit(
        _build(options, values, config, device),
        source,
        fit_config,
        output=output,
        validation=validation,
        callbacks=_Run(output, began + seconds, record),
    )
    best = f"train/checkpoints/step-{result.best:08d}" if result.best else None
    record({"ended": result.status, "steps": result.step, "skipped": result.skipped, "best": best})


def _build(
    options: argparse.Namespace, values: Mapping[str, Any], config: GanConfig, device: torch.device
) -> Gan:
    torch.manual_seed(0)
    if options.init:
        generator = checkpoint.load(options.init).train()
    else:
        generator = Generator(GeneratorConfig.from_dict(values["generator"]))
    return Gan(generator.to(device), DiscriminatorConfig(channels=1), config, DistributedContext(device))


def _measure_step_seconds(gan: Gan, source: LiveSource, seconds: float) -> float:
    """Train on trial and return the median seconds of a step, with waiting for data."""
    trial = _Trial(seconds)
    config = FitConfig(max_steps=_TRIAL_STEPS, log_steps=1, checkpoint_steps=_TRIAL_STEPS)
    with tempfile.TemporaryDirectory() as output:
        fit(gan, source, config, output=Path(output), callbacks=trial)
    return statistics.median(trial.step_seconds[len(trial.step_seconds) // 2 :])


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


PARTS: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    "golden": golden,
    "forward": forward,
    "step": step,
    "train": train,
}
