"""The models of an evaluation: resolved, loaded, and given short names.

`MODEL#strength=0.5` is a model at another strength of its noise than its default.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from pipelines.errors import UsageError
from pipelines.registry.model_bundle import ModelBundle, pack
from pipelines.schema import CLEAN, UNTOUCHED
from pipelines.storage.folder import is_uri

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<source>.+)")
_STRENGTH = re.compile(r"(?P<source>.+)#strength=(?P<strength>[^#]*)")
_PLAIN = ("/", "best", "checkpoints", "init")  # path components that do not identify a model
_FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, the untouched codec, or results that the data contain.

    Args:
        name: In tables and file names.
        source: As given by the user.
        bundle: Its weights; None for the untouched codec and for results in the data.
    """

    name: str
    source: str
    bundle: ModelBundle | None = None

    @property
    def digest(self) -> str:
        """Identifies its configuration, strength of noise included, and its weights."""
        return self.bundle.digest if self.bundle else self.source

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None if unknown."""
        if self.bundle is None:
            return 0 if self.source == UNTOUCHED else None
        return sum(value.size for value in self.bundle.weights.values())


def load_models(models: Sequence[str], result_models: Sequence[str]) -> tuple[EvaluatedModel, ...]:
    """Load all models of an evaluation, the untouched codec first.

    Args:
        models: Checkpoints, registry names or NAME=MODEL; MODEL#strength=0.5 sets the strength of its noise.
        result_models: Models whose results the data contain.

    Raises:
        CheckpointUnreachableError: the server or store of a model does not answer.
        UsageError: a model cannot be loaded, two have the same name, or a strength is out of range or of a
            model without noise.
    """
    from apollo.checkpoints import checkpoint
    from apollo.checkpoints.container import CheckpointUnreachableError

    found = [
        EvaluatedModel(UNTOUCHED, UNTOUCHED),
        *(EvaluatedModel(name, "results in the data") for name in result_models),
    ]
    for model in models:
        named = None if os.path.exists(model) else _NAMED.fullmatch(model)
        source, strength = _split_strength(named["source"] if named else model)
        try:
            name, address = (named["name"], source) if named else _short(source)
            generator = checkpoint.load(address)
        except CheckpointUnreachableError:
            raise
        except checkpoint.CheckpointError as error:
            raise UsageError(str(error)) from error
        if strength is not None:
            _set_strength(generator, strength, model)
            name = name if named else f"{name}-strength-{strength:g}"
            address = f"{address}#strength={strength:g}"
        found.append(EvaluatedModel(name, address, pack(generator)))
    if any(one.name == CLEAN for one in found):
        raise UsageError(f"a model cannot be named {CLEAN}: that is the reference of the scores")
    if twice := [name for name, times in Counter(one.name for one in found).items() if times > 1]:
        raise UsageError(
            f"two models are named {twice[0]}: rename one with --models NAME=MODEL, or its files if its "
            "results are in the data"
        )
    return tuple(found)


def _split_strength(model: str) -> tuple[str, float | None]:
    """Split MODEL#strength=NUMBER into the model and the strength of its noise, None if it is not set.

    Raises:
        UsageError: the strength is not a number in its range.
    """
    from apollo.audio.formats import MAX_STRENGTH

    match = None if os.path.exists(model) else _STRENGTH.fullmatch(model)
    if match is None:
        return model, None
    try:
        strength = float(match["strength"])
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= MAX_STRENGTH:
        raise UsageError(
            f"{model}: strength is {match['strength']!r}: it must be a number from 0 to {MAX_STRENGTH}"
        )
    return match["source"], strength


def _set_strength(generator: Any, strength: float, model: str) -> None:
    """Set the default strength of a generator's noise.

    Raises:
        UsageError: the generator has no noise.
    """
    if not generator.has_noise:
        raise UsageError(
            f"{model}: the output of this model is {generator.config.output}, which has no noise: leave out "
            "#strength"
        )
    generator.config = replace(generator.config, noise_strength=strength)


def _short(source: str) -> tuple[str, str]:
    """Return a short name that is valid in file names, and the location to load.

    A registry alias may move, so it is resolved to its version.

    Raises:
        CheckpointError: the version does not exist.
    """
    if source.partition(":")[0] in ("models", "runs"):
        from pipelines.registry.resolve_models import find_version

        version, _ = find_version(source)
        return version.label, version.uri
    address = source.partition("?")[0] if is_uri(source) else source
    parts = [part for part in PurePath(address).parts if part not in _PLAIN]
    last = parts[-1] if parts else ""
    if last.startswith("step-") and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    suffix = PurePath(last).suffix
    last = last.removesuffix(suffix) if suffix in _FILES else last
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "model", source
