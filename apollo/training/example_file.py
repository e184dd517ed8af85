"""Training and validation examples from one file of tensors, for machines that have torch and nothing else.

`pipelines.loading.export` writes the file. It is mapped into memory, so it may be larger than that, and
processes on one machine share it.

Shape legend: samples [channels, samples]; stored as int16, given as float32.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo import rng
from apollo.checkpoints.published_format import explain_load_error
from apollo.training.augmentation import LevelsConfig, set_levels
from apollo.training.data import Example

FORMAT = 1
_FULL_SCALE = 32_768
_KEPT_PASSES = 2


class _Examples:
    """Examples of a file: clean once, and degraded in every way that there is."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self.names: list[str] = stored["names"]
        self.degradations: list[str] = stored["degradations"]
        self._clean: Tensor = stored["clean"]  # [examples, channels, samples]
        self._degraded: Tensor = stored["degraded"]  # [examples, degradations, channels, samples]
        self._steps: Tensor = stored["steps"]  # [examples, degradations]
        self._gains: Tensor = stored["gains"]  # [examples, degradations]
        count, kinds = len(self.names), len(self.degradations)
        shape = self._clean.shape
        if (
            shape[0] != count
            or self._degraded.shape != (count, kinds, *shape[1:])
            or self._steps.shape != (count, kinds)
            or self._gains.shape != (count, kinds)
        ):
            raise ValueError("its tensors do not fit each other")

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, number: int, kind: int) -> tuple[Tensor, Tensor, float]:
        """Give clean, degraded as decoded, and the codec's gain."""
        gain = float(self._gains[number, kind])
        clean = self._clean[number].float() / _FULL_SCALE
        return clean, self._degraded[number, kind].float() * (float(self._steps[number, kind]) * gain), gain

    def name(self, number: int, kind: int) -> str:
        """Name an example with its degradation."""
        return f"{self.names[number]}/{self.degradations[kind]}"


class ExampleFileSource:
    """Training examples: shuffled in every pass, a degradation, level and sides drawn for each.

    All is a function of (seed, epoch, position). Epochs follow each other in the stream of passes, so an
    epoch may be shorter or longer than a pass.

    Args:
        path: The file.
        config: Levels and augmentation.
        epoch_examples: Examples of an epoch, of all processes together.
        seed: Another seed gives another order and other draws.
        degradations: Names of those to learn; none takes all in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of examples, has none, or lacks a degradation.
    """

    def __init__(
        self,
        path: str | Path,
        config: LevelsConfig | None = None,
        *,
        epoch_examples: int,
        seed: int = 0,
        degradations: tuple[str, ...] = (),
    ) -> None:
        if epoch_examples < 1:
            raise ValueError(f"epoch_examples is {epoch_examples}: give 1 or more")
        self.config = config or LevelsConfig()
        self._examples = _opened(path, _load(path))
        self._seed, self._epoch_examples = seed, epoch_examples
        self.degradations = degradations or tuple(self._examples.degradations)
        self._kinds = _find_kinds(self._examples, self.degradations)
        self._pass = lru_cache(_KEPT_PASSES)(self._draw_pass)

    def _draw_pass(self, number: int) -> list[int]:
        return rng.permutation(len(self._examples), self._seed, "exported", number)

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Give the examples at these positions of an epoch; see `apollo.training.data.ExampleSource`."""
        for position in positions:
            index = epoch * self._epoch_examples + position
            number, place = divmod(index, len(self._examples))
            kind = self._kinds[rng.integer_below(len(self._kinds), index, self._seed, "degradation")]
            yield self._make(self._pass(number)[place], kind, index)

    def _make(self, number: int, kind: int, index: int) -> Example:
        clean, degraded, gain = self._examples.pair(number, kind)
        clean, degraded = set_levels(
            clean, degraded, gain=gain, config=self.config, seed=self._seed, index=index
        )
        return Example(clean, degraded, self._examples.name(number, kind))


class ExampleFileValidation:
    """Validation examples: always the same ones, as `apollo restore` would get them.

    Example i has degradation i modulo their number, and levels are the decoder's.

    Args:
        path: The file.
        degradations: Names of those to use; none takes all in the file.
        limit: Most examples.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of examples, has none for validation, or lacks a degradation.
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
        """Give the examples at these positions, the same in every epoch; after the last comes the first."""
        for position in positions:
            number = position % self._length
            kind = self._kinds[number % len(self._kinds)]
            clean, degraded, _ = self._examples.pair(number, kind)
            yield Example(clean, degraded, self._examples.name(number, kind))


def _load(path: str | Path) -> dict[str, Any]:
    try:
        stored: Any = torch.load(path, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for what is no file of its own
        raise ValueError(f"{path} is no file of examples: {explain_load_error(error)}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of examples of format {FORMAT}: make it with jobs/export.py")
    return stored


def _opened(path: str | Path, stored: dict[str, Any]) -> _Examples:
    try:
        examples = _Examples(stored)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; make it again with jobs/export.py") from error
    if not len(examples):
        raise ValueError(f"{path} holds no such examples: ask jobs/export.py for some")
    return examples


def _find_kinds(examples: _Examples, degradations: Sequence[str]) -> list[int]:
    if unknown := [name for name in degradations if name not in examples.degradations]:
        raise ValueError(
            f"the file has no degradation {', '.join(unknown)}; there is {', '.join(examples.degradations)}"
        )
    return [examples.degradations.index(name) for name in degradations]
