"""Files of `torch.save`, read without executing anything in them.

torch's restricted loader reads tensors; the few harmless objects that published files contain beside them
(version strings, paths, settings) become inert placeholders.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

_ALLOWED_MODULES = re.compile(
    r"(torch\.torch_version|pathlib|collections|argparse|numpy|omegaconf|pytorch_lightning|lightning|"
    r"lightning_fabric|torchmetrics|look2hear|yacs)(\.|$)"
)
# what parsers raise on damaged files
_DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile)
_SHOWN = 8


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says what was found and what was expected."""


class CheckpointUnreachableError(CheckpointError, OSError):
    """The server or store that has a checkpoint does not answer: the same command may work another time."""


class _InertObject:
    """Replaces an object that is not needed; ignores all arguments and state."""

    def __new__(cls, *_: object, **__: object) -> "_InertObject":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_container(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` without executing anything in it.

    Raises:
        CheckpointError: it is not such a file, or needs objects outside the allowlist.
    """
    try:
        with torch.serialization.safe_globals(_inert_objects(path)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGE, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be loaded as a checkpoint: {explain_load_error(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a dictionary of weights")
    return content


def explain_load_error(error: Exception) -> str:
    """Return why torch did not load a file, without its advice to disable `weights_only`."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it is damaged, or contains more than weights"
    line = str(error).partition("\n")[0]
    return f"it is damaged: {line}"


def _inert_objects(path: Path) -> list[Any]:
    """Return replacements for the allowed objects of a file.

    Raises:
        CheckpointError: the file needs an object outside the allowlist.
    """
    if not zipfile.is_zipfile(path):
        return []
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*_DAMAGE, pickle.UnpicklingError):
        return []  # damaged; loading reports it
    plain = {f"builtins.{one.__name__}": one for one in (bool, dict, float, int, list, set, str, tuple)}
    refused = [name for name in needed if name not in plain and not _ALLOWED_MODULES.match(name)]
    if refused:
        raise CheckpointError(
            f"{path} needs {', '.join(sorted(refused)[:_SHOWN])}, which loading would execute: refused. "
            "If you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
        )
    replacements: dict[str, Any] = {
        **plain,
        "collections.defaultdict": lambda *_: {},
        "collections.deque": lambda *_: [],
    }
    return [(replacements.get(name, _InertObject), name) for name in needed]
