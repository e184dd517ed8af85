"""Published and community files: which load, which are refused, and that nothing in them is run."""

import argparse
import builtins
import collections
import os
import pathlib
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apollo.checkpoints.checkpoint import load
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.published_format import find_state_dict, infer_config, load_published, to_published
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.layers import rotary_angles

State = dict[str, Tensor]


def _generator(**changes: Any) -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**{"dim": 16, "layers": 1, **changes})).eval()
    for parameter in generator.parameters():  # norms away from one, so that a mix-up shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    return generator


def _published(generator: Generator) -> State:
    """Return the state dict that the published program would have saved, rotary tables included."""
    config, state = generator.config, to_published(generator)
    angles = rotary_angles(100, config.dim // config.heads).repeat_interleave(2, 1)
    for layer in range(config.layers):
        state |= {
            f"net.{layer}.band_net.cos_freq": angles.cos(),
            f"net.{layer}.band_net.sin_freq": angles.sin(),
        }
    return state


def _assert_same_weights(found: Generator, expected: Generator) -> None:
    assert found.config == expected.config
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def _lightning(state: State) -> dict[str, Any]:
    other = {f"discriminator.nets.{number}.weight_orig": torch.zeros(2, 2) for number in range(3)}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**other, **{f"audio_model.{key}": value for key, value in state.items()}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "loops": {"fit_loop": {"progress": {"total": 3}}},
    }


def _beside(**objects: Any) -> Callable[[State], dict[str, Any]]:
    return lambda state: {"state_dict": state, **objects}


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ordered": collections.OrderedDict,
    "state_dict": _beside(),
    "model": lambda state: {"model": state},
    "prefixed": lambda state: {f"module.{key}": value for key, value in state.items()},
    "parameters": lambda state: {key: torch.nn.Parameter(value) for key, value in state.items()},
    "lightning": _lightning,
    "released": _beside(
        model_name="Apollo",
        model_args={"n_sample_rate": 2},
        infos={"software_versions": {"torch_version": torch.__version__}},
    ),
    "path": _beside(folder=pathlib.Path("exp") / "best.ckpt", other=pathlib.PurePosixPath("/data")),
    "settings": _beside(hyper_parameters=argparse.Namespace(dim=16, nested=argparse.Namespace(rate=44100))),
    "numpy": _beside(
        best=np.float64(12.5), count=np.int64(3), table=np.arange(5.0), kind=np.dtype("float32")
    ),
    "numpy random": _beside(random=np.random.RandomState(0), state=np.random.get_state()),
    "numpy generator": _beside(random=np.random.default_rng(0)),
    "python random": _beside(state=random.Random(0).getstate()),
    "empty defaultdict": _beside(logs=collections.defaultdict(int)),
    "defaultdict": _beside(logs=collections.defaultdict(int, {"loss": 3})),
    "counter": _beside(seen=collections.Counter("aab")),
    "deque": _beside(last=collections.deque([1, 2], maxlen=3)),
    "set and slice": _beside(frozen={"a", "b"}, pair=(1, None, True, 2.5, b"x")),
    "dtype and size": _beside(dtype=torch.float32, size=torch.Size([2]), device=torch.device("cpu")),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_weights(tmp_path: Path, name: str) -> None:
    generator = _generator()
    torch.save(CONTAINERS[name](_published(generator)), tmp_path / "model.ckpt")
    _assert_same_weights(load(tmp_path / "model.ckpt"), generator)


@pytest.mark.parametrize("name", ["plain", "lightning"])
def test_files_from_before_torch_1_6_load(tmp_path: Path, name: str) -> None:
    generator = _generator()
    content = CONTAINERS[name](_published(generator))
    torch.save(content, tmp_path / "model.bin", _use_new_zipfile_serialization=False)
    _assert_same_weights(load(tmp_path / "model.bin"), generator)


@pytest.mark.parametrize("dim", [192, 256, 384])
def test_dimensions_in_use_are_read_off_the_shapes(tmp_path: Path, dim: int) -> None:
    generator = _generator(dim=dim)
    torch.save({"state_dict": _published(generator)}, tmp_path / "model.ckpt")
    _assert_same_weights(load(tmp_path / "model.ckpt"), generator)


@pytest.mark.parametrize("changes", [{}, {"layers": 3}, {"dim": 32}, {"window_samples": 1764}])
@pytest.mark.parametrize("bands", ["released", "custom"])
def test_configuration_is_read_off_the_shapes(changes: dict[str, Any], bands: str) -> None:
    bins = changes.get("window_samples", 882) // 2 + 1
    layout = bands if bands == "released" else (7, 3, 7, bins - 17)
    generator = _generator(bands=layout, **changes)
    config = infer_config(_published(generator))
    assert config.band_widths == generator.config.band_widths
    assert (config.dim, config.layers) == (generator.config.dim, generator.config.layers)
    assert config.window_samples == generator.config.window_samples


@pytest.mark.parametrize("bands", ["released", "paper", (200, 5, 200, 37)])
def test_published_names_there_and_back_are_bit_equal(bands: str | tuple[int, ...]) -> None:
    generator = _generator(bands=bands, layers=2)
    other = Generator(generator.config)
    load_published(other, to_published(generator))
    _assert_same_weights(other, generator)
    again = to_published(other)
    assert all(torch.equal(again[key], value) for key, value in to_published(generator).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in _published(_generator()).items()}
    torch.save(state, tmp_path / "model.pt")
    loaded = to_published(load(tmp_path / "model.pt"))
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert all(torch.equal(value, state[key].float()) for key, value in loaded.items())


class _Calls:
    """Pickles as a call, as a hostile file would."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HOSTILE: dict[str, Callable[[str], _Calls]] = {
    "os.system": lambda marker: _Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: _Calls(builtins.eval, f"open({marker!r}, 'w')"),
    "exec": lambda marker: _Calls(builtins.exec, f"open({marker!r}, 'w')"),
    "open": lambda marker: _Calls(open, marker, "w"),
    "shutil.copy": lambda marker: _Calls(shutil.copy, __file__, marker),
    "getattr": lambda marker: _Calls(pathlib.Path.touch, pathlib.Path(marker)),
}


def _would_run(path: Path, marker: Path) -> bool:
    """Unpickle a file, to check that its payload would run."""
    assert not marker.exists()
    torch.load(path, weights_only=False)
    return marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_file_that_would_run_something_is_refused_and_not_run(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    content = {"state_dict": _published(_generator()), "hook": HOSTILE[name](str(marker))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        load(path)
    assert _would_run(path, marker)


def test_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"hook": HOSTILE["os.system"](str(marker))}, protocol=2))
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        load(path)
    assert not marker.exists()


def test_calls_into_allowed_packages_are_not_made(tmp_path: Path) -> None:
    path, marker, generator = tmp_path / "model.ckpt", tmp_path / "marker", _generator()
    torch.save({"state_dict": _published(generator), "hook": _Calls(np.savetxt, str(marker), [1.0])}, path)
    _assert_same_weights(load(path), generator)
    assert _would_run(path, marker)


def test_refusal_names_what_would_be_run(tmp_path: Path) -> None:
    state = {"state_dict": _published(_generator()), "hook": _Calls(os.system, "true")}
    torch.save(state, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"system.*If you trust it"):
        load(tmp_path / "model.ckpt")


def test_damaged_files_are_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save(_published(_generator()), path)
    whole = path.read_bytes()
    contents = [b"", b"PK", b"not a checkpoint\n", b"\x80\x02", b"\x80\x02}q\x00."]
    contents.append(random.Random(0).randbytes(1000))
    contents += [whole[:length] for length in (1, 100, len(whole) // 2, len(whole) - 1)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.bin") as caught:
            load(path)
        assert "weights_only" not in str(caught.value)  # torch's advice is to unpickle without care


@pytest.mark.parametrize(
    "content, message",
    [
        ({"weight": torch.zeros(2), "bias": torch.zeros(2)}, "no Apollo generator.*2 keys: weight, bias"),
        ({"state_dict": {"conv.0.weight": torch.zeros(2)}}, "no Apollo generator"),
        ({"BN.0.0.weight": torch.zeros(11)}, "not those of an Apollo generator"),
        (
            {"BN.0.0.weight": torch.zeros(()), "BN.0.1.weight": torch.zeros(())},
            "not those of an Apollo generator",
        ),
        ({}, "no Apollo generator"),
        ({0: 1}, "no Apollo generator"),
        ([torch.zeros(2)], "contains a list"),
        (torch.zeros(2), "contains a Tensor"),
        (None, "contains a NoneType"),
    ],
)
def test_other_contents_are_refused_by_what_they_hold(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "model.pt")


def test_missing_unexpected_and_misshapen_weights_are_named_folded(tmp_path: Path) -> None:
    state = _published(_generator(layers=2))
    for key in [key for key in state if key.endswith("conv.2.bias")]:
        del state[key]
    del state["output.7.1.bias"]
    state |= {"net.0.extra.weight": torch.zeros(2), "net.1.extra.weight": torch.zeros(2)}
    state["BN.4.1.weight"] = torch.zeros(16, 12, 1)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "model.pt")
    message = str(caught.value)
    assert "model.pt" in message
    assert "7 missing: net.*.seq_net.blocks.*.conv.*.bias (6), output.7.1.bias" in message
    assert "2 unexpected: net.*.extra.weight (2)" in message
    assert "1 with another shape: BN.4.1.weight [16, 12, 1] instead of [16, 11, 1]" in message


@pytest.mark.parametrize("table", ["cos_freq", "sin_freq"])
@pytest.mark.parametrize("change", ["base", "layout", "heads"])
def test_other_rotary_angles_are_refused(table: str, change: str) -> None:
    state = _published(_generator(dim=64))
    angles = {
        "base": 1.01 * rotary_angles(100, 8).repeat_interleave(2, 1),
        "layout": rotary_angles(100, 8).repeat(1, 2),
        "heads": rotary_angles(100, 16).repeat_interleave(2, 1),
    }[change]
    state[f"net.0.band_net.{table}"] = angles.cos() if table == "cos_freq" else angles.sin()
    with pytest.raises(CheckpointError, match="rotary table of 8 heads"):
        infer_config(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_weights_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    state = _published(_generator())
    state["net.0.band_net.output.weight"][3, 2] = bad
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"layers\.0\.bands\.output\.weight"):
        load(tmp_path / "model.pt")


def test_the_shortest_prefix_is_removed() -> None:
    state = _published(_generator())
    copies = {f"audio_model.copy.{key}": torch.zeros_like(value) for key, value in state.items()}
    named = {f"audio_model.{key}": value for key, value in state.items()}
    found = find_state_dict({"state_dict": copies | named}, "x")
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("changes", [{"causal": True}, {"output": "correction"}])
def test_configurations_outside_the_published_format_are_not_exported(changes: dict[str, Any]) -> None:
    generator = Generator(GeneratorConfig(dim=16, layers=1, **changes))
    with pytest.raises(ValueError, match="published network"):
        to_published(generator)
