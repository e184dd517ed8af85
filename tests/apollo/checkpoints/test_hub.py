"""Checkpoints by their names on Hugging Face, from a server on this machine that imitates it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from apollo.checkpoints.checkpoint import load, locate, save
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.published_format import to_published
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from tests.support.hub_server import HubServer, serve_hub


def _generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(GeneratorConfig(dim=16, layers=1))


def _assert_same(found: Generator, expected: Generator) -> None:
    assert found.config == expected.config
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub(tmp_path, monkeypatch) as server:
        yield server


def _published_file(tmp_path: Path, generator: Generator) -> bytes:
    torch.save({"state_dict": to_published(generator)}, tmp_path / "published")
    return (tmp_path / "published").read_bytes()


def test_hub_file_is_downloaded_once(hub: HubServer, tmp_path: Path) -> None:
    hub.files["/some/body/resolve/main/deep/model.ckpt"] = _published_file(tmp_path, _generator())
    _assert_same(load("some/body/deep/model.ckpt"), _generator())
    gets = [request for request in hub.requests if request.startswith("GET")]
    assert gets == ["GET /some/body/resolve/main/deep/model.ckpt"]
    _assert_same(load("some/body/deep/model.ckpt"), _generator())
    assert [request for request in hub.requests if request.startswith("GET")] == gets
    hub.close()
    _assert_same(load("some/body/deep/model.ckpt"), _generator())


def test_a_lost_connection_is_opened_again_and_the_download_goes_on(hub: HubServer, tmp_path: Path) -> None:
    content = _published_file(tmp_path, _generator())
    hub.files["/some/body/resolve/main/model.ckpt"] = content
    hub.cuts = [10_000, 7_000]
    _assert_same(load("some/body/model.ckpt"), _generator())
    gets = [request.partition("model.ckpt")[2] for request in hub.requests if request.startswith("GET")]
    assert len(content) > 17_000
    assert gets == ["", " from 10000", " from 17000"]


def test_hub_name_alone_takes_the_usual_files(hub: HubServer, tmp_path: Path) -> None:
    hub.files["/some/body/resolve/main/pytorch_model.bin"] = _published_file(tmp_path, _generator(0))
    _assert_same(load("some/body"), _generator(0))
    assert "HEAD /some/body/resolve/main/model.safetensors" in hub.requests
    safetensors = pytest.importorskip("safetensors.torch")
    hub.files["/other/body/resolve/main/model.safetensors"] = safetensors.save(to_published(_generator(1)))
    _assert_same(load("other/body"), _generator(1))


def test_released_name_takes_the_known_file_and_no_other(hub: HubServer, tmp_path: Path) -> None:
    hub.files["/JusperLee/Apollo/resolve/main/pytorch_model.bin"] = _published_file(tmp_path, _generator())
    with pytest.raises(CheckpointError, match=r"SHA-256 .*, expected 99d9af7f1ff2"):
        load("JusperLee/Apollo")
    assert not any("safetensors" in request for request in hub.requests)


def test_hub_without_the_file_or_the_repository_says_so(hub: HubServer, tmp_path: Path) -> None:
    hub.files["/some/body/resolve/main/readme.md"] = b"hello"
    with pytest.raises(CheckpointError, match=r"some/body on Hugging Face has no other\.ckpt"):
        load("some/body/other.ckpt")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        load("some/body")
    with pytest.raises(CheckpointError, match="no/body: no such file or folder, and downloading it"):
        load("no/body")
    with pytest.raises(CheckpointError, match="downloading it from Hugging Face failed"):
        load("no--such/../name")


@pytest.mark.parametrize("switched_off", [False, True])
@pytest.mark.parametrize("name", ["some/body", "some/body/model.ckpt"])
def test_an_unreachable_hub_is_reported(
    hub: HubServer, name: str, switched_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switched_off)
    hub.close()
    with pytest.raises(CheckpointError, match=f"{name}: .*Hugging Face is unreachable"):
        load(name)


def test_local_paths_go_before_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(_generator(), "some/body")
    assert locate("some/body") == Path("some/body")
    _assert_same(load("some/body"), _generator())
    assert hub.requests == []


def test_without_huggingface_hub_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'apollo-restoration\[hub\]'"):
        load("some/body")
