"""Checkpoints of the published network and of those that people trained from it.

Containers differ: a plain state dict, `{"state_dict": ...}` with or without other entries, a Lightning file
whose keys carry the prefix `audio_model.`. None is unpickled: torch's restricted loader reads tensors, and
the few harmless objects that such files hold beside them (version strings, paths, settings) become inert
stand-ins.

The published layout has no constructor values; dimension, layers and bands are read off the shapes.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.layers import TIME_BLOCKS, rotary_angles

_MARK = "BN.0.0.weight"  # a key that every published generator has; what precedes it is a prefix
_LAYER_KEYS = {  # ours: the published network's
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
_TABLES = ("cos_freq", "sin_freq")  # of the rotary embedding; computed, not learned
_ALLOWED_MODULES = re.compile(
    r"(torch\.torch_version|pathlib|collections|argparse|numpy|omegaconf|pytorch_lightning|lightning|"
    r"lightning_fabric|torchmetrics|look2hear|yacs)(\.|$)"
)
_SHOWN = 8
# what parsers raise when a file is not what they expect
_DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile)


class CheckpointError(ValueError):
    """A file is no checkpoint that can be loaded; the message says what was found and what was expected."""


class _InertObject:
    """Takes the place of an object that is not needed, and does nothing with what it is given."""

    def __new__(cls, *_: object, **__: object) -> "_InertObject":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_container(path: Path) -> dict[str, Any]:
    """Read a file that torch wrote, without running anything in it.

    Raises:
        CheckpointError: it is none, or asks for objects that a checkpoint has no use for.
    """
    stand_ins = _inert_objects(path)
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGE, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be loaded as a checkpoint: {explain_load_error(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def explain_load_error(error: Exception) -> str:
    """Say why torch did not load a file, without its advice to switch the protection off."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it is damaged, or holds more than weights"
    line = str(error).partition("\n")[0]
    return f"it is damaged: {line}"


def _inert_objects(path: Path) -> list[Any]:
    """Name what in a file is replaced; anything not known to be harmless stays refused."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*_DAMAGE, pickle.UnpicklingError):
        return []  # damaged; loading will say so
    plain = {f"builtins.{one.__name__}": one for one in (bool, dict, float, int, list, set, str, tuple)}
    refused = [name for name in asked if name not in plain and not _ALLOWED_MODULES.match(name)]
    if refused:
        raise CheckpointError(
            f"{path} asks for {', '.join(sorted(refused)[:_SHOWN])}, which loading would have to execute. It "
            "is not loaded. If you trust it, save its state dict alone: torch.save(model.state_dict(), ...)"
        )
    stand_ins: dict[str, Any] = {
        **plain,
        "collections.defaultdict": lambda *_: {},
        "collections.deque": lambda *_: [],
    }
    return [(stand_ins.get(name, _InertObject), name) for name in asked]


def find_state_dict(container: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Find the generator's state dict in a container, and take prefixes off its keys.

    Args:
        container: What the file held.
        name: The file's, for messages.

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
                if isinstance(key, str) and key.startswith(prefix) and _holds_numbers(value)
            }
    keys = [str(key) for key in container]
    raise CheckpointError(
        f"{name} holds no Apollo generator: no key ends in {_MARK!r}. Its {len(keys)} keys: {_listed(keys)}"
    )


def _holds_numbers(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def infer_config(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """Read a configuration off the shapes of a published state dict.

    Raises:
        CheckpointError: the shapes are no generator's.
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
        raise CheckpointError(f"the shapes are no Apollo generator's: {error!r}") from error
    for key, table in state.items():
        if key.endswith(_TABLES):
            _check_table(key, table, config)
    return config


def _check_table(key: str, table: Tensor, config: GeneratorConfig) -> None:
    """Refuse a network that turns its bands by other angles than ours would."""
    head_dim = config.dim // config.heads
    rows = min(len(table), len(config.band_widths)) if table.dim() == 2 else 0
    angles = rotary_angles(rows, head_dim).repeat_interleave(2, 1)
    expected = angles.cos() if key.endswith("cos_freq") else angles.sin()
    same = table.shape[1:] == expected.shape[1:] and torch.allclose(table[:rows], expected, atol=5e-3)
    if not same:  # but for the rounding of half-precision files
        raise CheckpointError(
            f"{key} {tuple(table.shape)} is not the rotary table of {config.heads} heads of {head_dim} "
            "dimensions and base 10,000: this network differs from the published one"
        )


def _names(generator: Generator) -> dict[str, str | list[str]]:
    """Give for each of our parameters its published name, or the names of the bands' that it stacks."""
    names: dict[str, str | list[str]] = {}
    for ours, theirs in (("split", "BN"), ("merge", "output")):
        for group, bands in enumerate(getattr(generator, ours).members.values()):
            for key, other in _GROUP_KEYS.items():
                names[f"{ours}.groups.{group}.{key}"] = [f"{theirs}.{band}.{other}" for band in bands]
    for layer in range(generator.config.layers):
        for key, other in _LAYER_KEYS.items():
            names[f"layers.{layer}.{key}"] = f"net.{layer}.{other}"
        for block in range(TIME_BLOCKS):
            for key, other in _BLOCK_KEYS.items():
                names[f"layers.{layer}.time.{block}.{key}"] = (
                    f"net.{layer}.seq_net.blocks.{block}.conv.{other}"
                )
    return names


def load_published(generator: Generator, state: Mapping[str, Tensor]) -> None:
    """Load a published state dict into a generator of its shape.

    Raises:
        CheckpointError: keys are missing, unexpected, or of another shape; all are named.
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
            ("of another shape", wrong),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("the weights are not those of this generator. " + ". ".join(problems))
    loaded = {}
    for key, other in names.items():
        value = state[other] if isinstance(other, str) else torch.stack([state[name] for name in other])
        loaded[key] = value.reshape(ours[key].shape)  # convolutions of length 1 are linear layers
    generator.load_state_dict(loaded)


def to_published(generator: Generator) -> dict[str, Tensor]:
    """Give a generator's weights under the published names and shapes, for other programs to load.

    Raises:
        ValueError: the generator is causal or gives a correction, which the published layout cannot say.
    """
    if generator.config.causal or generator.config.output != "direct":
        raise ValueError("the published network is not causal and gives spectra, not corrections")
    return published_state_dict(generator)


def published_state_dict(generator: Generator) -> dict[str, Tensor]:
    """Give a generator's weights under the published names, whatever its configuration."""
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
    """Give a linear layer's weight as a convolution's of length 1, anything else as it is."""
    return value[..., None] if value.dim() == 2 else value


def _listed(keys: Iterable[str]) -> str:
    """Show keys with their counters folded: `net.*.seq_net.blocks.*.conv.*.bias (54)`."""
    counts: dict[str, list[str]] = {}
    for key in keys:
        counts.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", key), []).append(key)
    lines = [f"{folded} ({len(some)})" if len(some) > 1 else some[0] for folded, some in counts.items()]
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
