"""Export training and validation examples to one file of tensors, for machines that have only torch.

`apollo.training.example_file` reads it. Clean samples are the shards' own 16 bits. Degraded ones have the
codec's gain taken out and are encoded in 16 bits of their own peak, so that an overshoot does not clip:
rounding is 100 dB below that peak, as quiet as the clean samples' own. Half precision would round loud
passages 15 dB coarser, and so fill the band that the codec emptied.

    format, sample_rate, names, degradations,
    clean [examples, channels, samples] int16, degraded [examples, degradations, channels, samples] int16,
    steps [examples, degradations] float32: value of one step of `degraded`, without the gain,
    gains [examples, degradations] float32, valid: the same keys for validation,
    bandwidths_hz [examples] float32: up to which the clean samples are known; infinite if completely,
    usable [examples, degradations] bool: below the bitrates of the example's lossy sources
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from apollo.training.augmentation import find_peak
from apollo.training.example_file import FORMAT
from pipelines import schema
from pipelines.dataset.bad_rows import BadRowLog
from pipelines.dataset.sampling import RowRef, SequentialOrder, ShuffledOrder
from pipelines.dataset.shard_reader import CorruptRowError, decode
from pipelines.dataset.split import CommittedSplit
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.loading.source_bitrates import read_row_bitrates, usable_degradations
from pipelines.runtime.outcome import RESULT, Exit, Outcome, result_json
from pipelines.runtime.run import absolute_location
from pipelines.storage.atomic import open_atomic, write_atomic
from pipelines.storage.folder import Folder, is_uri

_LARGEST = 32_767


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Configuration of the export.

    Args:
        data: Folder or URI of an output of preprocess.
        file: Path of the file. An example takes 0.5 MB and 0.5 MB for each degradation, in memory too while
            the file is written.
        examples: Number of training examples: the first ones of the training order.
        valid: Number of validation examples: the first ones of the validation split.
        seed: Seed of the training order.
        loader: Degradations, windows of the order, whether only those below the sources' bitrates are used,
            and policy for corrupt rows; the rest is not used.
    """

    data: str
    file: str
    examples: int = 256
    valid: int = 48
    seed: int = 0
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        if not self.data or not self.file:
            raise UsageError("--data (an output of preprocess) and --file are required")
        if is_uri(self.file):
            raise UsageError(
                f"file is {self.file!r}: use a path on this machine, and copy the file from there"
            )
        if self.examples < 1 or self.valid < 0:
            raise ValueError(
                f"examples is {self.examples} and valid {self.valid}: they must be at least 1 and at least 0"
            )
        object.__setattr__(self, "data", absolute_location(self.data, "--data"))
        object.__setattr__(self, "file", absolute_location(self.file, "--file"))


def export(config: ExportConfig) -> Outcome:
    """Write the file atomically, and FILE.result.json with the outcome.

    Raises:
        UsageError: there are fewer valid examples than requested.
        CorruptDataError: rows are corrupt, and the policy is `stop`.
    """
    train = CommittedSplit(config.data, "train", config.loader.degradations)
    order = ShuffledOrder(train.rows, seed=config.seed, window_shards=config.loader.window_shards)
    content: dict[str, Any] = {"format": FORMAT, "sample_rate": schema.SAMPLE_RATE}
    content |= _collect(train, order, config.examples, config)
    if config.valid:
        valid = CommittedSplit(config.data, "valid", train.degradations)
        content["valid"] = _collect(valid, SequentialOrder(valid.rows), config.valid, config)
    else:
        content["valid"] = _empty(0, train.degradations)
    size = _write(Path(config.file), content)
    outcome = Outcome(
        Exit.DONE,
        f"{config.file}: {config.examples} training and {config.valid} validation examples with "
        f"{len(train.degradations)} degradations, {size / 1e6:.0f} MB",
    )
    write_export_result(config.file, outcome)
    return outcome


def write_export_result(file: str, outcome: Outcome) -> None:
    """Write FILE.result.json; does nothing where that is not possible, since FILE is not a local path."""
    with suppress(ValueError, OSError):
        path = f"{absolute_location(file, '--file')}.{RESULT}"
        write_atomic(path, result_json(outcome.code, outcome.message, **outcome.facts))


def _collect(
    split: CommittedSplit, order: ShuffledOrder | SequentialOrder, count: int, config: ExportConfig
) -> dict[str, Any]:
    """Decode the first valid examples of an order with every degradation."""
    if count > split.num_rows:
        raise UsageError(
            f"{config.data} has {split.num_rows} of these examples, {count} were requested: request fewer, "
            "or make more with preprocess"
        )
    collected = _empty(count, split.degradations)
    filled = 0
    limited = config.loader.below_source_bitrate
    bitrates = read_row_bitrates(Folder(config.data), split) if limited else {}
    for name, ref, pairs in _valid_rows(split, order, config):
        collected["names"].append(name)
        collected["clean"][filled] = _to_16_bit(pairs[0].clean, 1 / 32_768)
        collected["bandwidths_hz"][filled] = pairs[0].bandwidth_hz
        usable = usable_degradations(split.degradations, bitrates.get((ref.shard, ref.row), math.inf))
        collected["usable"][filled] = torch.tensor([kind in usable for kind in split.degradations])
        for kind, (_, degraded, gain, _) in enumerate(pairs):
            step = (find_peak(degraded) or 1.0) / _LARGEST
            collected["degraded"][filled, kind] = _to_16_bit(degraded, step)
            collected["steps"][filled, kind], collected["gains"][filled, kind] = step / gain, gain
        filled += 1
        if filled == count:
            return collected
    raise UsageError(
        f"{config.data} has {filled} valid examples, {count} were requested: request fewer, or run "
        "preprocess again"
    )


def _empty(count: int, degradations: tuple[str, ...]) -> dict[str, Any]:
    shape, kinds = (schema.CHANNELS, schema.EXCERPT_FRAMES), len(degradations)
    return {
        "names": [],
        "degradations": list(degradations),
        "clean": torch.zeros((count, *shape), dtype=torch.int16),
        "degraded": torch.zeros((count, kinds, *shape), dtype=torch.int16),
        "steps": torch.zeros((count, kinds)),
        "gains": torch.zeros((count, kinds)),
        "bandwidths_hz": torch.full((count,), torch.inf),
        "usable": torch.ones((count, kinds), dtype=torch.bool),
    }


class Pair(NamedTuple):
    """A row with one degradation.

    Args:
        clean, degraded: [channels, samples].
        gain: Linear gain of the codec.
        bandwidth_hz: Frequency up to which the clean audio is known; infinite if completely.
    """

    clean: Tensor
    degraded: Tensor
    gain: float
    bandwidth_hz: float


def _valid_rows(
    split: CommittedSplit, order: ShuffledOrder | SequentialOrder, config: ExportConfig
) -> Iterator[tuple[str, RowRef, list[Pair]]]:
    """Yield the rows of one pass that are valid with every degradation: recipe id, place, a pair for each."""
    loader = config.loader
    rejects = BadRowLog(
        config.data,
        split.num_rows,
        corrupt=loader.corrupt,
        max_corrupt_share=loader.max_corrupt_share,
        on_reject=None,
    )
    with ThreadPoolExecutor(loader.decode_threads) as pool:
        for ref in map(order.at, range(split.num_rows)):

            def read(name: str, shard: int = ref.shard, row: int = ref.row) -> tuple[str, Pair]:
                encoded = split.reader.read(shard, {row: name})[row]
                if isinstance(encoded, CorruptRowError):
                    raise encoded
                return encoded.recipe_id, Pair(*decode(encoded), encoded.gain, encoded.bandwidth_hz)

            try:
                made = list(pool.map(read, split.degradations))
            except CorruptRowError as error:
                rejects.add(error)
                continue
            yield made[0][0], ref, [pair for _, pair in made]


def _to_16_bit(samples: Tensor, step: float) -> Tensor:
    return (samples / step).round().clamp(-_LARGEST - 1, _LARGEST).to(torch.int16)


def _write(path: Path, content: dict[str, Any]) -> int:
    """Write a file of tensors and return its size in bytes."""
    with open_atomic(path) as stream:
        torch.save(content, stream)
    return path.stat().st_size
