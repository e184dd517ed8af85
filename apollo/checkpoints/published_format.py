"""Checkpoints in the format of the published network: the released file and community fine-tunes.

Containers differ: a plain state dict, `{"state_dict": ...}` with or without other entries, a Lightning file
whose keys have the prefix `audio_model.`. None is unpickled: torch's restricted loader reads tensors, and
the few harmless objects that such files contain beside them (version strings, paths, settings) become inert
placeholders.

The published format has no configuration; dimension, layers and bands are inferred from the shapes.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.model.band_sequence import BandSequenceTrunk
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.layers import TIME_BLOCKS, rotary_angles

_MARK = "BN.0.0.weight"  # a key of every published generator; what precedes it is a prefix
_LAYER_KEYS = {  # our key: published key
    "bands.norm.weight": "band_net.input_norm.weight",
    "bands.project.weight": "band_net.weight.weight",
    "bands.output.weight": "band_net.output.weight",
    "bands.gate_norm.weight": "band_net.MLP.0.weight",
    "bands.gate.weight": "band_net.MLP.1.weight",
    "bands.gate_output.weight": "band_net.MLP_output.weight",
}
_BLOCK_KEYS = {
    "depthwise.weight": "0.weight",
    "depthwise.bias": "0.bias",
    "norm.weight": "1.weight",
    "expand.weight": "2.weight",
    "expand.bias": "2.bias",
    "contract.weight": "4.weight",
    "contract.bias": "4.bias",
}
_GROUP_KEYS = {"norm": "0.weight", "weight": "1.weight", "bias": "1.bias"}
_TABLES = ("cos_freq", "sin_freq")  # rotary embedding tables; computed, not learned
_ALLOWED_MODULES = re.compile(
    r"(torch\.torch_version|pathlib|collections|argparse|numpy|omegaconf|pytorch_lightning|lightning|"
    r"lightning_fabric|torchmetrics|look2hear|yacs)(\.|$)"
)
_SHOWN = 8
# what parsers raise on damaged files
_DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile)


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


def find_state_dict(container: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Find the generator's state dict in a container, and remove prefixes from its keys.

    Args:
        container: Content of the file.
        name: Name of the file, for messages.

    Raises:
        CheckpointError: there is none.
    """
    for candidate in (container, container.get("state_dict"), container.get("model")):
        if not isinstance(candidate, Mapping):
            continue
        marks = [key for key in candidate if isinstance(key, str) and key.endswith(_MARK)]
        if marks:
            prefix = min(marks, key=len).removesuffix(_MARK)
            return {
                key.removeprefix(prefix): value.float()
                for key, value in candidate.items()
                if isinstance(key, str) and key.startswith(prefix) and _is_plain_float(value)
            }
    keys = [str(key) for key in container]
    raise CheckpointError(
        f"{name} contains no Apollo generator: no key ends in {_MARK!r}. "
        f"Its {len(keys)} keys: {_listed(keys)}"
    )


def _is_plain_float(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def infer_config(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """Infer the configuration from the shapes of a published state dict.

    Raises:
        CheckpointError: the shapes are not those of a generator.
    """
    try:
        dim = state["BN.0.1.weight"].shape[0]
        numbers = {int(key.split(".")[1]) for key in state if key.startswith("net.")}
        layers = len(numbers)
        if numbers != set(range(layers)):
            raise CheckpointError(f"its layers are {sorted(numbers)[:_SHOWN]}, not 0, 1, 2 and so on")
        widths: list[int] = []
        while f"BN.{len(widths)}.0.weight" in state:
            widths.append((state[f"BN.{len(widths)}.0.weight"].shape[0] - 1) // 2)
        config = GeneratorConfig(
            window_samples=2 * (sum(widths) - 1), dim=dim, layers=layers, bands=tuple(widths)
        )
        if config.window_samples == GeneratorConfig().window_samples:
            named = GeneratorConfig(dim=dim, layers=layers)
            config = named if named.band_widths == config.bands else config
    except CheckpointError:
        raise
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"the shapes are not those of an Apollo generator: {error!r}") from error
    for key, table in state.items():
        if key.endswith(_TABLES):
            _check_table(key, table, config)
    return config


def _check_table(key: str, table: Tensor, config: GeneratorConfig) -> None:
    """Refuse a rotary table that differs from ours."""
    head_dim = config.dim // config.heads
    rows = min(len(table), len(config.band_widths)) if table.dim() == 2 else 0
    angles = rotary_angles(rows, head_dim).repeat_interleave(2, 1)
    expected = angles.cos() if key.endswith("cos_freq") else angles.sin()
    same = table.shape[1:] == expected.shape[1:] and torch.allclose(table[:rows], expected, atol=5e-3)
    if not same:  # up to the rounding of half-precision files
        raise CheckpointError(
            f"{key} {tuple(table.shape)} is not the rotary table of {config.heads} heads of {head_dim} "
            "dimensions and base 10,000: this network differs from the published one"
        )


def _names(generator: Generator) -> dict[str, str | list[str]]:
    """Return the published name of each of our parameters, or the names of the bands that it stacks."""
    names: dict[str, str | list[str]] = {}
    trunk = generator.trunk
    if not isinstance(trunk, BandSequenceTrunk):
        raise ValueError("the published format has no place for a generator without bands")
    split, merge = trunk.split.bands_by_width, trunk.merge.bands_by_width
    for ours, theirs, bands_by_width in (("split", "BN", split), ("merge", "output", merge)):
        for group, bands in enumerate(bands_by_width.values()):
            for key, other in _GROUP_KEYS.items():
                names[f"trunk.{ours}.groups.{group}.{key}"] = [f"{theirs}.{band}.{other}" for band in bands]
    for layer in range(generator.config.layers):
        for key, other in _LAYER_KEYS.items():
            names[f"trunk.layers.{layer}.{key}"] = f"net.{layer}.{other}"
        for block in range(TIME_BLOCKS):
            for key, other in _BLOCK_KEYS.items():
                names[f"trunk.layers.{layer}.time.{block}.{key}"] = (
                    f"net.{layer}.seq_net.blocks.{block}.conv.{other}"
                )
    return names


def load_published(generator: Generator, state: Mapping[str, Tensor]) -> None:
    """Load a published state dict into a generator of its shape.

    Raises:
        CheckpointError: keys are missing, unexpected, or have another shape; all are named.
    """
    names, ours = _names(generator), generator.state_dict()
    shapes = {key: value.shape for key, value in published_state_dict(generator).items()}
    found = {key for key in state if not key.endswith(_TABLES)}
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(shapes[key])}"
        for key in sorted(found & set(shapes))
        if state[key].shape != shapes[key]
    ]
    problems = [
        f"{len(keys)} {what}: {_listed(keys)}"
        for what, keys in (
            ("missing", sorted(set(shapes) - found)),
            ("unexpected", sorted(found - set(shapes))),
            ("with another shape", wrong),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("the weights do not fit this generator. " + ". ".join(problems))
    loaded = {}
    for key, other in names.items():
        value = state[other] if isinstance(other, str) else torch.stack([state[name] for name in other])
        loaded[key] = value.reshape(ours[key].shape)  # convolutions of length 1 are linear layers
    generator.load_state_dict(loaded)


def to_published(generator: Generator) -> dict[str, Tensor]:
    """Return a generator's state dict in the published format, for other programs.

    Raises:
        ValueError: the generator is causal or predicts a correction, which the format cannot express.
    """
    if generator.config.causal or generator.config.output != "direct":
        raise ValueError("the published network is not causal and predicts spectra, not corrections")
    return published_state_dict(generator)


def published_state_dict(generator: Generator) -> dict[str, Tensor]:
    """Return a generator's weights under the published names, for any configuration."""
    published: dict[str, Tensor] = {}
    for key, other in _names(generator).items():
        value = generator.state_dict()[key].float().cpu()
        if isinstance(other, list):
            published |= dict(zip(other, (_with_length(one) for one in value)))
        elif key.endswith("depthwise.weight"):
            published[other] = value[..., 0]
        else:
            published[other] = _with_length(value)
    return published


def _with_length(value: Tensor) -> Tensor:
    """Return a linear layer's weight as that of a convolution of length 1, other values unchanged."""
    return value[..., None] if value.dim() == 2 else value


def _listed(keys: Iterable[str]) -> str:
    """Format keys with their indices folded: `net.*.seq_net.blocks.*.conv.*.bias (54)`."""
    counts: dict[str, list[str]] = {}
    for key in keys:
        counts.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", key), []).append(key)
    lines = [f"{folded} ({len(some)})" if len(some) > 1 else some[0] for folded, some in counts.items()]
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
