"""An S3 server in a process of its own, on loopback, and what lies in its buckets."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.fault_proxy import Proxy

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "4",
}


@dataclass
class Server:
    """A server and the proxy before it.

    Args:
        port: Of the server, on loopback.
        proxy: What is tested speaks to it.
    """

    port: int
    proxy: Proxy
    _count: int = 0

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 - no secret
            region_name="us-east-1",
        )

    def new_bucket(self) -> "Bucket":
        """Make a bucket with nothing in it."""
        self._count += 1
        name = f"bucket-{self._count}"
        self._client.create_bucket(Bucket=name)
        return Bucket(name, self.proxy, self._client)


@dataclass(frozen=True)
class Bucket:
    """A bucket, looked at past everything that is tested.

    Args:
        name: Its name.
        proxy: Between what is tested and the server.
    """

    name: str
    proxy: Proxy
    _client: Any

    def uri(self, name: str = "") -> str:
        """Give the URI of a name in it, through the proxy."""
        return f"s3://{self.name}/{name}?endpoint_override=127.0.0.1:{self.proxy.port}&scheme=http"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Read every object below a prefix, by its name there."""
        client = self._client
        found = dict[str, bytes]()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=self.name, Key=item["Key"])["Body"]
                found[item["Key"].removeprefix(prefix)] = body.read()
        return found

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        self._client.put_object(Bucket=self.name, Key=name, Body=content)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._client.delete_object(Bucket=self.name, Key=name)

    def upload(self, folder: Path, prefix: str) -> str:
        """Write a local folder's files; gives the URI of where they are."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.uri(prefix)

    def download(self, prefix: str, folder: Path) -> Path:
        """Read everything below a prefix into a local folder."""
        for name, content in self.objects(f"{prefix}/").items():
            if name and not name.endswith("/"):  # which stands for a folder
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return folder

    def unfinished(self) -> list[str]:
        """Name the multipart uploads that nobody finished or aborted: their parts cost money for ever."""
        found = self._client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in found.get("Uploads", ())]


@contextmanager
def serve(log: Path) -> Iterator[int]:
    """Run a server; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | SETTINGS)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()
