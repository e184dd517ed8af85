"""The part of Hugging Face that its client needs: files by HEAD and GET, repositories, commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_test"  # noqa: S105 - of this server alone


class HubServer(ThreadingHTTPServer):
    """An imitation of Hugging Face on this machine.

    Attributes:
        files: Content by path, `/owner/name/resolve/main/file`.
        requests: What was asked for.
        cuts: After how many bytes the next answers to GET break off; the first belongs to the next one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts: list[int] = []
        self.uploads: dict[str, bytes] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._send_file(with_body=False)

    def do_GET(self) -> None:
        self._send_file(with_body=True)

    def do_PUT(self) -> None:
        content = self._read()
        self.server.uploads[hashlib.sha256(content).hexdigest()] = content
        self._send_json({})

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self._read()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send_json({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
            self._send_json(
                {"url": f"{self.server.address}/{name}", "id": name, "private": wanted.get("private")}
            )
        elif self.path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._send_json({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **{key: one[key] for key in ("oid", "size")},
                    "actions": {"upload": {"href": f"{self.server.address}/upload/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self._send_json({"transfer": "basic", "objects": objects})
        else:
            self._commit(body)

    def _commit(self, body: bytes) -> None:
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.files[f"/{name}/resolve/main/{value['path']}"] = base64.b64decode(
                    value["content"]
                )
            elif entry["key"] == "lfsFile":
                self.server.files[f"/{name}/resolve/main/{value['path']}"] = self.server.uploads[value["oid"]]
        url = f"{self.server.address}/{name}/commit/{'0' * 40}"
        self._send_json({"commitUrl": url, "commitOid": "0" * 40})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send_json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, *, with_body: bool) -> None:
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        suffix = f" from {first}" if first else ""
        self.server.requests.append(f"{self.command} {self.path}{suffix}")
        content = self.server.files.get(self.path)
        if content is None:
            known = any(path.split("/")[:3] == self.path.split("/")[:3] for path in self.server.files)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        else:
            self.send_response(206 if first else 200)
        content = content or b""
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body and self.server.cuts:
            self.wfile.write(content[first : first + self.server.cuts.pop(0)])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content[first:])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Start a hub on this machine and make the client of this process use it, with its cache in a folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HubServer()
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits half a minute for a hub that is down
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "home" / "hub"),
        "HF_TOKEN_PATH": str(folder / "home" / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
        "DOWNLOAD_CHUNK_SIZE": 1000,  # a lost connection costs what is received of the last chunk
    }.items():
        assert hasattr(constants, name), name
        monkeypatch.setattr(constants, name, value)
    yield server
    server.close()
