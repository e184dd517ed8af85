"""Training and validation examples from one file of tensors, for training with torch alone.

`pipelines.loading.export` writes the file. It is memory-mapped: it may be larger than memory, and processes
on one machine share it.

Shape legend: samples [channels, samples]; stored as int16, returned as float32.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo import rng
from apollo.checkpoints.container import explain_load_error
from apollo.training.augmentation import LevelsConfig, set_levels
from apollo.training.data import Example
from apollo.training.pieces import draw_piece

FORMAT = 2
_READABLE = (1, FORMAT)  # 1 has no bandwidths: all clean examples count as known completely
_FULL_SCALE = 32_768
_CACHED_PASSES = 2


class _Examples:
    """Examples of a file: one clean version each, and one degraded version per degradation."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self.names: list[str] = stored["names"]
        self.degradations: list[str] = stored["degradations"]
        self._clean: Tensor = stored["clean"]  # [examples, channels, samples]
        self._degraded: Tensor = stored["degraded"]  # [examples, degradations, channels, samples]
        self._steps: Tensor = stored["steps"]  # [examples, degradations]
        self._gains: Tensor = stored["gains"]  # [examples, degradations]
        count, kinds = len(self.names), len(self.degradations)
        self._bandwidths_hz: Tensor = stored.get(
            "bandwidths_hz", torch.full((count,), torch.inf)
        )  # [examples]
        self._usable: Tensor = stored.get("usable", torch.ones(count, kinds))  # [examples, degradations]
        shape = self._clean.shape
        if (
            shape[0] != count
            or self._degraded.shape != (count, kinds, *shape[1:])
            or self._steps.shape != (count, kinds)
            or self._gains.shape != (count, kinds)
            or self._bandwidths_hz.shape != (count,)
            or self._usable.shape != (count, kinds)
        ):
            raise ValueError("the shapes of its tensors do not match")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def samples(self) -> int:
        """Length of the examples."""
        return int(self._clean.shape[-1])

    def clean(self, number: int, piece: slice) -> Tensor:
        """Return a piece of a clean example."""
        return self._clean[number, :, piece].float() / _FULL_SCALE

    def degraded(self, number: int, kind: int, piece: slice) -> Tensor:
        """Return a piece of a degraded example, as decoded."""
        step = float(self._steps[number, kind]) * self.gain(number, kind)
        return self._degraded[number, kind, :, piece].float() * step

    def gain(self, number: int, kind: int) -> float:
        """Return the codec's linear gain."""
        return float(self._gains[number, kind])

    def bandwidth_hz(self, number: int) -> float:
        """Return the frequency up to which a clean example is known; infinite if completely."""
        return float(self._bandwidths_hz[number])

    def usable(self, number: int, kinds: Sequence[int]) -> Sequence[int]:
        """Return those of some degradations that an example may have; the first if it may have none."""
        return [kind for kind in kinds if self._usable[number, kind]] or kinds[:1]

    def name(self, number: int, kind: int) -> str:
        """Return the name of an example with its degradation."""
        return f"{self.names[number]}/{self.degradations[kind]}"


class ExampleFileSource:
    """Source of training examples: shuffled in every pass, with random degradation, piece and levels.

    Everything is a function of (seed, epoch, position). Epochs are consecutive parts of the stream of passes,
    so an epoch may be shorter or longer than a pass over the file.

    Args:
        path: File of examples.
        config: Levels and augmentation.
        epoch_examples: Examples per epoch, over all processes.
        seed: Seed of order, degradations, levels and augmentation.
        degradations: Names of degradations to use; empty for all in the file.
        piece_seconds: Length of the piece that is taken of each example, at a random place; 0 takes all.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a file of examples, is empty, lacks a degradation, or has shorter examples.
    """

    def __init__(
        self,
        path: str | Path,
        config: LevelsConfig | None = None,
        *,
        epoch_examples: int,
        seed: int = 0,
        degradations: tuple[str, ...] = (),
        piece_seconds: float = 0.0,
    ) -> None:
        if epoch_examples < 1:
            raise ValueError(f"epoch_examples is {epoch_examples}: it must be at least 1")
        self.config = config or LevelsConfig()
        stored = _load(path)
        self._sample_rate: int = stored["sample_rate"]
        self._examples = _opened(path, stored)
        self._piece_samples = _find_piece_samples(piece_seconds, self._examples.samples, stored)
        self._seed, self._epoch_examples = seed, epoch_examples
        self.degradations = degradations or tuple(self._examples.degradations)
        self._kinds = _find_kinds(self._examples, self.degradations)
        self._pass = lru_cache(_CACHED_PASSES)(self._draw_pass)

    def _draw_pass(self, number: int) -> list[int]:
        return rng.permutation(len(self._examples), self._seed, "exported", number)

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at positions of an epoch; see `apollo.training.data.ExampleSource`."""
        for position in positions:
            index = epoch * self._epoch_examples + position
            number, place = divmod(index, len(self._examples))
            example = self._pass(number)[place]
            kinds = self._examples.usable(example, self._kinds)
            kind = kinds[rng.integer_below(len(kinds), index, self._seed, "degradation")]
            yield self._make(example, kind, index)

    def _make(self, number: int, kind: int, index: int) -> Example:
        examples, seed = self._examples, self._seed
        piece, clean = draw_piece(
            lambda piece: examples.clean(number, piece),
            samples=examples.samples,
            piece_samples=self._piece_samples,
            seed=seed,
            index=index,
        )
        degraded, gain = examples.degraded(number, kind, piece), examples.gain(number, kind)
        clean, degraded = set_levels(
            clean,
            degraded,
            gain=gain,
            config=self.config,
            seed=seed,
            index=index,
            sample_rate=self._sample_rate,
        )
        name, bandwidth_hz = self._examples.name(number, kind), self._examples.bandwidth_hz(number)
        return Example(clean, degraded, name, bandwidth_hz)


class ExampleFileValidation:
    """Source of validation examples, without augmentation, at the levels that the decoder returns.

    Example i has degradation i modulo the number of degradations.

    Args:
        path: File of examples.
        degradations: Names of degradations to use; empty for all in the file.
        limit: Maximum number of examples.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a file of examples, has none for validation, or lacks a degradation.
    """

    def __init__(
        self, path: str | Path, *, degradations: tuple[str, ...] = (), limit: int | None = None
    ) -> None:
        self._examples = _opened(path, _load(path).get("valid", {}))
        self.degradations = degradations or tuple(self._examples.degradations)
        self._kinds = _find_kinds(self._examples, self.degradations)
        self._length = len(self._examples) if limit is None else min(limit, len(self._examples))

    def __len__(self) -> int:
        return self._length

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at positions modulo the number of examples, the same in every epoch."""
        for position in positions:
            number = position % self._length
            kinds = self._examples.usable(number, self._kinds)
            kind = kinds[number % len(kinds)]
            whole = slice(0, self._examples.samples)
            clean, degraded = (
                self._examples.clean(number, whole),
                self._examples.degraded(number, kind, whole),
            )
            name, bandwidth_hz = self._examples.name(number, kind), self._examples.bandwidth_hz(number)
            yield Example(clean, degraded, name, bandwidth_hz)


def _load(path: str | Path) -> dict[str, Any]:
    try:
        stored: Any = torch.load(path, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many types for other files
        raise ValueError(f"{path} is not a file of examples: {explain_load_error(error)}") from error
    if not isinstance(stored, dict) or stored.get("format") not in _READABLE:
        raise ValueError(
            f"{path} is not a file of examples of a format up to {FORMAT}: use jobs/export.py of this release"
        )
    return stored


def _opened(path: str | Path, stored: dict[str, Any]) -> _Examples:
    try:
        examples = _Examples(stored)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; create it again with jobs/export.py") from error
    if not len(examples):
        raise ValueError(f"{path} holds no such examples: create it again with jobs/export.py")
    return examples


def _find_piece_samples(piece_seconds: float, samples: int, stored: dict[str, Any]) -> int:
    sample_rate: int = stored["sample_rate"]
    piece_samples = round(piece_seconds * sample_rate)
    if piece_seconds and not 0 < piece_samples <= samples:
        raise ValueError(
            f"piece_seconds is {piece_seconds}: it must be above 0 and at most the length of the file's "
            f"examples, {samples / sample_rate:g} s, or 0 for all of each"
        )
    return piece_samples


def _find_kinds(examples: _Examples, degradations: Sequence[str]) -> list[int]:
    if unknown := [name for name in degradations if name not in examples.degradations]:
        raise ValueError(
            f"the file has no degradation {', '.join(unknown)}; it has {', '.join(examples.degradations)}"
        )
    return [examples.degradations.index(name) for name in degradations]
