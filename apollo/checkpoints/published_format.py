"""Checkpoints in the format of the published network: the released file and community fine-tunes.

Containers differ: a plain state dict, `{"state_dict": ...}` with or without other entries, a Lightning file
whose keys have the prefix `audio_model.`. None is unpickled: see `apollo.checkpoints.container`.

The published format has no configuration; dimension, layers and bands are inferred from the shapes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from apollo.checkpoints.container import CheckpointError
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
_SHOWN = 8


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
