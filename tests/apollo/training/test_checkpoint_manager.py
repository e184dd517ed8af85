"""Checkpoints of a run: everything comes back, what is damaged is set aside, the best stays reachable."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import apollo
from apollo.checkpoints.checkpoint import CheckpointError
from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.checkpoint_manager import CheckpointManager
from apollo.training.config import GanConfig
from apollo.training.data import collate
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from tests.support.gloo_runs import Noise

PROGRESS = {"step": 3, "skipped": 1, "lowest_loss": 0.25, "lowest_epoch": 2, "validated": 3}


def _gan(seed: int = 0, **changes: Any) -> Gan:
    torch.manual_seed(seed)
    shape = {"dim": 8, "layers": 1, "heads": 2, "output": "correction", **changes}
    return Gan(
        Generator(GeneratorConfig(**shape)),
        Discriminator(DiscriminatorConfig(windows=(64,))),
        GanConfig(batch_size=2, micro_batch=2),
        DistributedContext(torch.device("cpu")),
    )


def _train(gan: Gan, *steps: int) -> list[dict[str, float]]:
    return [gan.step([collate(Noise().read(step, range(2)))], epoch=0) for step in steps]


@pytest.fixture(scope="module")
def trained() -> Gan:
    gan = _gan()
    _train(gan, 0, 1)
    return gan


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "run")


def _filled(manager: CheckpointManager, gan: Gan, *steps: int) -> None:
    for step in steps:
        manager.save(gan, step, {"step": step})


def test_save_and_load_restore_everything(manager: CheckpointManager) -> None:
    gan, other = _gan(), _gan(seed=1)
    _train(gan, 0, 1)
    torch.manual_seed(7)
    path = manager.save(gan, 3, PROGRESS)
    expected_draw = torch.randn(3)
    assert path == manager.path(3) == manager.output / "checkpoints/step-00000003"

    torch.manual_seed(8)
    assert manager.load(other, 3) == PROGRESS
    assert torch.equal(torch.randn(3), expected_draw)
    assert other.generator_steps == gan.generator_steps == 2
    for name in (
        "generator",
        "discriminator",
        "ema_generator",
        "generator_optimizer",
        "discriminator_optimizer",
    ):
        found, expected = getattr(other, name).state_dict(), getattr(gan, name).state_dict()
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)
    assert _train(other, 2, 3) == _train(gan, 2, 3)  # and what is learned next is the same to the last bit
    torch.testing.assert_close(
        other.ema_generator.state_dict(), gan.ema_generator.state_dict(), rtol=0, atol=0
    )


def test_config_json_describes_the_checkpoint(manager: CheckpointManager, trained: Gan) -> None:
    manager.record_scores(3, {"valid/stft": 0.5})
    notes = json.loads((manager.save(trained, 3, PROGRESS) / "config.json").read_text())
    assert notes["step"] == 3
    assert notes["scores"] == {"valid/stft": 0.5}
    assert DiscriminatorConfig.from_dict(notes["discriminator"]) == trained.discriminator.config
    assert GeneratorConfig.from_dict(notes["generator"]) == trained.generator.config


def test_nothing_there_is_no_step(manager: CheckpointManager, caplog: pytest.LogCaptureFixture) -> None:
    assert manager.steps() == []
    assert manager.latest_valid_step() is None
    assert manager.scores() == {}
    assert not caplog.messages


def test_steps_are_found_by_number_and_other_names_are_left_alone(
    manager: CheckpointManager, trained: Gan
) -> None:
    _filled(manager, trained, 100_000_000, 2, 30)
    for name in ("step-2", "step-00000004.damaged", "other"):
        (manager.folder / name).mkdir()
    assert manager.steps() == [2, 30, 100_000_000]
    assert manager.latest_valid_step() == 100_000_000
    manager.prune(1, [])
    left = {"step-2", "step-00000004.damaged", "other", "step-100000000"}
    assert {entry.name for entry in manager.folder.iterdir()} == left


def test_the_latest_valid_checkpoint_is_used_and_later_ones_renamed_with_a_warning(
    manager: CheckpointManager, trained: Gan, caplog: pytest.LogCaptureFixture
) -> None:
    _filled(manager, trained, 1, 2, 3, 4)
    with (manager.path(4) / "training.pt").open("ab") as stream:
        stream.write(b"!")
    (manager.path(3) / "weights.pt").unlink()
    assert manager.latest_valid_step() == 2
    first, second = caplog.messages
    assert "training.pt is damaged" in first and "set aside as step-00000004.damaged" in first
    assert "step-00000003 is not a complete checkpoint" in second and "step-00000003.damaged" in second
    assert manager.steps() == [1, 2]
    assert (manager.folder / "step-00000004.damaged/weights.pt").exists()  # for whoever looks into it
    assert manager.latest_valid_step() == 2
    assert len(caplog.messages) == 2


def test_a_second_damaged_checkpoint_of_a_step_replaces_the_first(
    manager: CheckpointManager, trained: Gan, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        _filled(manager, trained, 1)
        (manager.path(1) / "MANIFEST.json").write_text("{")
        assert manager.latest_valid_step() is None
        assert len(caplog.messages) == number + 1


def test_incomplete_checkpoints_are_deleted(
    manager: CheckpointManager, trained: Gan, caplog: pytest.LogCaptureFixture
) -> None:
    _filled(manager, trained, 1)
    (manager.folder / ".step-00000002-x").mkdir()
    assert manager.latest_valid_step() == 1
    assert not caplog.messages
    assert [entry.name for entry in manager.folder.iterdir()] == ["step-00000001"]


def test_pruning_keeps_the_last_and_those_named(manager: CheckpointManager, trained: Gan) -> None:
    _filled(manager, trained, 1, 2, 3, 4, 5)
    manager.prune(2, [2, 99])
    assert manager.steps() == [2, 4, 5]
    manager.prune(1, [])
    assert manager.steps() == [5]


def test_best_is_a_link_that_loads_the_average(
    manager: CheckpointManager, trained: Gan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _filled(manager, trained, 1, 2)
    manager.link_best(1)
    link = manager.output / "best"
    assert os.readlink(link) == "checkpoints/step-00000001"  # relative: the run's folder can be moved
    replaced: list[tuple[str, bool]] = []
    replace = Path.replace

    def watch(path: Path, target: Path) -> Path:
        replaced.append((target.name, link.is_symlink() and (link / "MANIFEST.json").exists()))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watch)
    manager.link_best(2)
    assert replaced == [("best", True)]  # until that moment it was the old one
    assert os.readlink(link) == "checkpoints/step-00000002"
    assert [entry.name for entry in manager.output.iterdir() if entry.name.startswith(".")] == []

    loaded, average = apollo.load(manager.output), trained.ema_generator.state_dict()
    torch.testing.assert_close(loaded.state_dict(), average, rtol=0, atol=0)
    learned = apollo.load(manager.output, weights="generator").state_dict()
    torch.testing.assert_close(learned, trained.generator.state_dict(), rtol=0, atol=0)
    assert not all(torch.equal(learned[name], average[name]) for name in average)


def test_a_run_can_be_moved(manager: CheckpointManager, trained: Gan, tmp_path: Path) -> None:
    _filled(manager, trained, 1)
    manager.link_best(1)
    apollo.load(manager.output.rename(tmp_path / "elsewhere"))


@pytest.mark.parametrize("part", ["generator", "ema_generator", "discriminator"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_weights_are_not_saved(manager: CheckpointManager, part: str, value: float) -> None:
    gan = _gan()
    with torch.no_grad():
        next(getattr(gan, part).parameters()).view(-1)[0] = value
    name = "ema" if part == "ema_generator" else part
    with pytest.raises(
        RuntimeError, match=f"step 5: the {name} has non-finite weights, checkpoint not saved"
    ):
        manager.save(gan, 5, PROGRESS)
    assert manager.steps() == []


@pytest.mark.parametrize("changes", [{"dim": 16}, {"layers": 2}, {"output": "correction", "bands": "paper"}])
def test_another_networks_checkpoint_is_refused(
    manager: CheckpointManager, trained: Gan, changes: dict[str, Any]
) -> None:
    _filled(manager, trained, 1)
    with pytest.raises(
        CheckpointError, match=r"(?s)step-00000001 holds a different network: .*(size mismatch|Missing)"
    ):
        manager.load(_gan(**changes), 1)


def _rewrite(folder: Path, content: bytes) -> None:
    """Plant a training.pt, with a manifest that vouches for it."""
    (folder / "training.pt").write_bytes(content)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["sha256"]["training.pt"] = hashlib.sha256(content).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_planted_is_executed(
    manager: CheckpointManager, trained: Gan, writer: str, tmp_path: Path
) -> None:
    _filled(manager, trained, 1)
    planted = tmp_path / "planted.pt"
    harmful = {"progress": _Harmful(tmp_path / "ran")}
    if writer == "torch":
        torch.save(harmful, planted)
    else:
        planted.write_bytes(pickle.dumps(harmful))
    _rewrite(manager.path(1), planted.read_bytes())
    assert manager.latest_valid_step() == 1  # the manifest says that it is whole
    with pytest.raises(CheckpointError, match=r"training\.pt"):
        manager.load(_gan(), 1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["generator_optimizer", "generator_steps", "random", "progress"])
def test_a_training_state_that_lacks_something_is_refused(
    manager: CheckpointManager, trained: Gan, missing: str, tmp_path: Path
) -> None:
    _filled(manager, trained, 1)
    training = torch.load(manager.path(1) / "training.pt", weights_only=True)
    del training[missing]
    torch.save(training, tmp_path / "less.pt")
    _rewrite(manager.path(1), (tmp_path / "less.pt").read_bytes())
    with pytest.raises(CheckpointError, match=missing):
        manager.load(_gan(), 1)


def test_scores_are_added_to_what_is_known(manager: CheckpointManager) -> None:
    manager.record_scores(12, {"valid/stft": 0.5, "valid/si_snr": 9.0})
    manager.record_scores(6, {"valid/stft": 0.6})
    manager.record_scores(12, {"valid/visqol": 4.0, "valid/si_snr": 8.0})
    expected = {12: {"valid/stft": 0.5, "valid/si_snr": 8.0, "valid/visqol": 4.0}, 6: {"valid/stft": 0.6}}
    assert manager.scores() == CheckpointManager(manager.output).scores() == expected
    assert [entry.name for entry in manager.folder.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"6": {"valid/st', b"[1, 2]", b'{"x": {}}', b'{"6": 5}', b"null", b"\xff\xfe", bytes(99)],
)
def test_damaged_scores_are_none(manager: CheckpointManager, content: bytes) -> None:
    manager.folder.mkdir(parents=True)
    (manager.folder / "scores.json").write_bytes(content)
    assert manager.scores() == {}
    manager.record_scores(6, {"valid/stft": 0.5})
    assert manager.scores() == {6: {"valid/stft": 0.5}}
