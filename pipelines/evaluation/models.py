"""The models of an evaluation: found by what the user calls them, loaded, and given short names."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pipelines.errors import UsageError
from pipelines.registry.model_bundle import ModelBundle, pack
from pipelines.schema import CLEAN, UNTOUCHED
from pipelines.storage.folder import is_uri

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<source>.+)")
_PLAIN = ("/", "best", "checkpoints", "init")  # names that say nothing
_FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class EvaluatedModel:
    """One model.

    Args:
        name: In tables and file names.
        source: What the user called it.
        bundle: Its weights; None for the untouched codec, and for results that the data bring along.
    """

    name: str
    source: str
    bundle: ModelBundle | None = None

    @property
    def digest(self) -> str:
        """What tells its weights from others."""
        return self.bundle.digest if self.bundle else self.source

    @property
    def parameters(self) -> int | None:
        """How many weights it has, in all; None where nobody knows."""
        if self.bundle is None:
            return 0 if self.source == UNTOUCHED else None
        return sum(value.size for value in self.bundle.weights.values())


def load_models(models: Sequence[str], given: Sequence[str]) -> tuple[EvaluatedModel, ...]:
    """Load all models of an evaluation, the untouched codec first.

    Args:
        models: As the user named them.
        given: Names of those whose results the data bring along.

    Raises:
        UsageError: one cannot be had, or two have one name.
    """
    from apollo.checkpoints import checkpoint

    found = [
        EvaluatedModel(UNTOUCHED, UNTOUCHED),
        *(EvaluatedModel(name, "results in the data") for name in given),
    ]
    for model in models:
        named = None if os.path.exists(model) else _NAMED.fullmatch(model)
        source = named["source"] if named else model
        try:
            name, source = (named["name"], source) if named else _short(source)
            generator = checkpoint.load(source)
        except checkpoint.CheckpointError as error:
            raise UsageError(str(error)) from error
        found.append(EvaluatedModel(name, source, pack(generator)))
    if any(one.name == CLEAN for one in found):
        raise UsageError(f"a model cannot be called {CLEAN}: that is what the scores compare with")
    if twice := [name for name, times in Counter(one.name for one in found).items() if times > 1]:
        raise UsageError(
            f"two models are called {twice[0]}: give one a name of its own, --models NAME=MODEL, or rename "
            "its files if the data bring its results"
        )
    return tuple(found)


def _short(source: str) -> tuple[str, str]:
    """Give a short name that can be part of a file's, and what to load.

    In a registry an alias may move: the version's number is the name, and the version what is loaded.

    Raises:
        CheckpointError: there is no such version.
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
