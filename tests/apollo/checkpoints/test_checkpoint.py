"""Checkpoint folders, complete or refused; and the names that a source can have."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apollo.checkpoints import checkpoint
from apollo.checkpoints.checkpoint import load, save
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.published_format import to_published
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.discriminator import Discriminator, DiscriminatorConfig


def _generator(seed: int = 0, **changes: Any) -> Generator:
    torch.manual_seed(seed)
    return Generator(GeneratorConfig(**{"dim": 16, "layers": 1, **changes}))


def _assert_same(found: Generator, expected: Generator) -> None:
    assert found.config == expected.config
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize(
    "changes",
    [{}, {"causal": True, "output": "correction", "layers": 2}, {"bands": (100, 42, 200, 100)}, {"heads": 4}],
)
def test_saved_generator_loads_bit_equal_and_ready(tmp_path: Path, changes: dict[str, Any]) -> None:
    generator = _generator(**changes)
    assert save(generator, tmp_path / "deep" / "model") == tmp_path / "deep" / "model"
    loaded = load(tmp_path / "deep" / "model")
    _assert_same(loaded, generator)
    assert not loaded.training and generator.training
    samples = 0.1 * torch.randn(1, 2000)
    with torch.inference_mode():
        assert torch.equal(loaded(samples), generator(samples))


def test_ema_weights_are_the_default(tmp_path: Path) -> None:
    generator, average = _generator(0), _generator(1)
    save(generator, tmp_path / "both", extra_states={"ema": average.state_dict()})
    _assert_same(load(tmp_path / "both"), average)
    _assert_same(load(tmp_path / "both", weights="generator"), generator)
    save(generator, tmp_path / "one")
    _assert_same(load(tmp_path / "one"), generator)
    with pytest.raises(ValueError, match="newest"):
        load(tmp_path / "both", weights="newest")


def test_extra_states_and_metadata_are_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(windows=(32,)))
    folder = save(
        _generator(),
        tmp_path / "model",
        extra_states={"discriminator": discriminator.state_dict()},
        metadata={"epoch": 7},
    )
    states = torch.load(folder / "weights.pt", weights_only=True)
    assert set(states) == {"generator", "discriminator"}
    assert all(torch.equal(states["discriminator"][key], v) for key, v in discriminator.state_dict().items())
    config = json.loads((folder / "config.json").read_text())
    assert (config["epoch"], config["format"]) == (7, 1)
    promised = json.loads((folder / "MANIFEST.json").read_text())["sha256"]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in promised}
    assert promised == digests and set(promised) == {"config.json", "weights.pt"}


def test_best_is_followed(tmp_path: Path) -> None:
    save(_generator(0), tmp_path / "run" / "epoch-1")
    save(_generator(1), tmp_path / "run" / "epoch-2")
    (tmp_path / "run" / "best").symlink_to("epoch-2")
    _assert_same(load(tmp_path / "run"), _generator(1))
    _assert_same(load(tmp_path / "run" / "epoch-1"), _generator(0))


@pytest.mark.parametrize("name", ["weights.pt", "config.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damage_is_detected(tmp_path: Path, name: str, damage: str) -> None:
    path = save(_generator(), tmp_path / "model") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "changed" else content[:-1])
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path / "model")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"sha256": {}}', '{"sha256": null}', "\x00"])
def test_folder_without_a_valid_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    manifest = save(_generator(), tmp_path / "model") / "MANIFEST.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 2}, "format 2.*reads 1"),
        ({"generator": {"dim": 32, "layers": 1}}, "weights do not match"),
        ({"generator": {"dim": 16, "depth": 1}}, "weights do not match.*depth"),
        ({"generator": {"dim": "16"}}, "weights do not match"),
        ({"generator": None}, "weights do not match"),
    ],
)
def test_inconsistent_configuration_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = save(_generator(), tmp_path / "model")
    config = json.dumps(json.loads((folder / "config.json").read_text()) | changes)
    (folder / "config.json").write_text(config)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["sha256"]["config.json"] = hashlib.sha256(config.encode()).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    save(_generator(0), tmp_path / "model")
    with pytest.raises(FileExistsError, match="never overwritten"):
        save(_generator(1), tmp_path / "model")
    _assert_same(load(tmp_path / "model"), _generator(0))


@pytest.mark.parametrize("failing", ["torch.save", "json.dumps", "pathlib.Path.replace"])
def test_nothing_is_left_behind_when_saving_fails(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="no space"):
        save(_generator(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_the_checkpoint_alone_in_its_folder(tmp_path: Path) -> None:
    save(_generator(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "weights.pt", "MANIFEST.json",
    }  # fmt: skip


def test_nonfinite_weights_are_refused(tmp_path: Path) -> None:
    generator = _generator()
    generator.trunk.layers[0].bands.gate.weight.data[0, 0] = float("nan")
    save(generator, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"layers\.0\.bands\.gate\.weight"):
        load(tmp_path / "model")


def test_safetensors_load_and_damaged_ones_do_not(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path, state = tmp_path / "model.safetensors", to_published(_generator())
    safetensors.save_file({f"audio_model.{key}": value for key, value in state.items()}, path)
    _assert_same(load(path), _generator())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(path)


@pytest.mark.parametrize(
    "source, message",
    [
        ("foo:bar", "foo:bar: no installed package resolves names that begin with foo:"),
        ("nowhere:/apollo@champion", "no installed package resolves names that begin with nowhere:"),
        ("nowhere.ckpt", r"nowhere\.ckpt: no such file or folder"),
        ("/no/where/model.ckpt", "/no/where/model.ckpt: no such file or folder"),
        ("./no/where", "no such file or folder"),
        ("../no/where", "no such file or folder"),
        ("~/no/where", "no such file or folder"),
        ("", "no such file or folder"),
    ],
)
def test_missing_sources_are_named(source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(source)


def test_installed_packages_resolve_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(_generator(), tmp_path / "model")
    asked: list[Any] = []

    def resolve(source: str) -> str:
        asked.append(source)
        return str(folder)

    def entry_points(*, group: str, name: str) -> list[SimpleNamespace]:
        asked.append((group, name))
        return [SimpleNamespace(load=lambda: resolve)]

    monkeypatch.setattr(checkpoint, "entry_points", entry_points)
    _assert_same(load("models:/apollo@champion"), _generator())
    assert asked == [("apollo.checkpoints", "models"), "models:/apollo@champion"]
