"""Local copies of checkpoints: verified before they replace anything."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apollo.checkpoints.checkpoint import CONFIG, MANIFEST, WEIGHTS
from apollo.checkpoints.container import CheckpointError
from pipelines.registry.checkpoint_cache import fetch, is_intact
from tests.support.restoration_jobs import save_generator

FILES = (CONFIG, WEIGHTS)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return save_generator(tmp_path / "remote")


def download(source: Path) -> Callable[[Path], Path]:
    def copy(target: Path) -> Path:
        return Path(shutil.copytree(source, target, dirs_exist_ok=True))

    return copy


def refuse(_: Path) -> Path:
    raise AssertionError("it is downloaded again")


def test_an_intact_copy_is_not_downloaded_again(remote: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache/one"
    assert fetch(target, FILES, download(remote)) == target
    assert fetch(target, FILES, refuse) == target
    assert fetch(target, FILES, refuse, manifest=(remote / MANIFEST).read_bytes()) == target
    assert [path.name for path in target.parent.iterdir()] == ["one"]


def test_a_copy_of_another_version_stays_until_the_new_one_is_verified(remote: Path, tmp_path: Path) -> None:
    target = save_generator(tmp_path / "cache/one", seed=1)
    manifest, before = (remote / MANIFEST).read_bytes(), (target / WEIGHTS).read_bytes()
    damaged = Path(shutil.copytree(remote, tmp_path / "damaged"))
    (damaged / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        fetch(target, FILES, download(damaged), manifest=manifest)
    assert (target / WEIGHTS).read_bytes() == before
    fetch(target, FILES, download(remote), manifest=manifest)
    assert (target / WEIGHTS).read_bytes() == (remote / WEIGHTS).read_bytes() != before
    assert is_intact(target, FILES, manifest)
    assert [path.name for path in target.parent.iterdir()] == ["one"]
