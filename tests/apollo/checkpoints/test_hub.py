"""Checkpoints by their names on Hugging Face, from a server on this machine that imitates it."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from apollo.checkpoints.checkpoint import load, locate, save
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.published_format import to_published
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator


def _generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(GeneratorConfig(dim=16, layers=1))


def _assert_same(found: Generator, expected: Generator) -> None:
    assert found.config == expected.config
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


class _Hub(ThreadingHTTPServer):
    """The part of Hugging Face that the client needs: files of repositories, by HEAD and GET."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _HubHandler(BaseHTTPRequestHandler):
    server: _Hub

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> bytes:
        self.server.requests.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        if content is None:
            known = any(path.split("/")[:3] == self.path.split("/")[:3] for path in self.server.files)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content or b""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Hub]:
    """Start a hub on this machine, and make the client use it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = _Hub()
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits half a minute for a hub that is down
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "home" / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        assert hasattr(constants, name), name
        monkeypatch.setattr(constants, name, value)
    yield server
    server.close()


def _published_file(tmp_path: Path, generator: Generator) -> bytes:
    torch.save({"state_dict": to_published(generator)}, tmp_path / "published")
    return (tmp_path / "published").read_bytes()


def test_hub_file_is_downloaded_once(hub: _Hub, tmp_path: Path) -> None:
    hub.files["/some/body/resolve/main/deep/model.ckpt"] = _published_file(tmp_path, _generator())
    _assert_same(load("some/body/deep/model.ckpt"), _generator())
    gets = [request for request in hub.requests if request.startswith("GET")]
    assert gets == ["GET /some/body/resolve/main/deep/model.ckpt"]
    _assert_same(load("some/body/deep/model.ckpt"), _generator())
    assert [request for request in hub.requests if request.startswith("GET")] == gets
    hub.close()
    _assert_same(load("some/body/deep/model.ckpt"), _generator())


def test_hub_name_alone_takes_the_usual_files(hub: _Hub, tmp_path: Path) -> None:
    hub.files["/some/body/resolve/main/pytorch_model.bin"] = _published_file(tmp_path, _generator(0))
    _assert_same(load("some/body"), _generator(0))
    assert "HEAD /some/body/resolve/main/model.safetensors" in hub.requests
    safetensors = pytest.importorskip("safetensors.torch")
    hub.files["/other/body/resolve/main/model.safetensors"] = safetensors.save(to_published(_generator(1)))
    _assert_same(load("other/body"), _generator(1))


def test_released_name_takes_the_known_file_and_no_other(hub: _Hub, tmp_path: Path) -> None:
    hub.files["/JusperLee/Apollo/resolve/main/pytorch_model.bin"] = _published_file(tmp_path, _generator())
    with pytest.raises(CheckpointError, match=r"SHA-256 .*, expected 99d9af7f1ff2"):
        load("JusperLee/Apollo")
    assert not any("safetensors" in request for request in hub.requests)


def test_hub_without_the_file_or_the_repository_says_so(hub: _Hub, tmp_path: Path) -> None:
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
    hub: _Hub, name: str, switched_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switched_off)
    hub.close()
    with pytest.raises(CheckpointError, match=f"{name}: .*Hugging Face is unreachable"):
        load(name)


def test_local_paths_go_before_the_hub(hub: _Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(_generator(), "some/body")
    assert locate("some/body") == Path("some/body")
    _assert_same(load("some/body"), _generator())
    assert hub.requests == []


def test_without_huggingface_hub_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'apollo-restoration\[hub\]'"):
        load("some/body")
