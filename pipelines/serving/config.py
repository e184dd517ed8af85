"""Configuration of the service."""

from dataclasses import dataclass
from pathlib import Path

from apollo.model.config import COMPACT, PRECISIONS
from apollo.web.settings import LOOPBACK_HOSTS, WebSettings
from pipelines.errors import UsageError
from pipelines.runtime.run import absolute_location
from pipelines.storage.folder import is_uri

_DEVICES = ("auto", "cuda", "cpu")
_MAX_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Configuration of the service: the limits of `apollo web`, and its replicas.

    Args:
        folder: Folder for songs, results, the queue and result.json, on a disk that all nodes share.
        checkpoint: `compact` (installed with the package), folder, file, Hugging Face name or registry name
            (models:/apollo@champion) of the weights; only the driver's machine reads it.
        host: Address to listen on, on every node; other than loopback only with a token.
        port: Its port.
        token_file: File with the access token, at least 16 characters; without one, everybody who reaches
            the address is let in.
        device: `cuda` for replicas with a GPU each, `cpu`; `auto` takes the GPUs if the cluster has some.
        precision: Of the linear layers: `float32`, `bfloat16`, or `auto`: bfloat16 if the replica's hardware
            supports it.
        min_replicas: Least number of restoring replicas.
        max_replicas: Greatest number; more are started while songs wait.
        queue_per_replica: Songs, waiting and being done, for which one replica is enough.
        cpus: CPUs of a replica, and its threads.
        gpus: GPUs of a replica, where it has one: 0.25 lets four replicas share each.
        ingress_replicas: Processes that answer HTTP.
        max_mb: Largest file in MB.
        max_minutes: Longest song in minutes.
        max_queue: Songs and downloads that may wait; more are refused with status 429.
        max_uploads: Uploads at a time and ingress replica; more are refused with status 429.
        max_request_minutes: Longest time of a request, its wait for a replica included.
        disk_gb: Room for all songs and results in GB; the oldest are deleted.
        keep_hours: Hours after which a song is deleted.
        drain_minutes: How long accepted songs may take after SIGTERM.
    """

    folder: str
    checkpoint: str = COMPACT
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    device: str = "auto"
    precision: str = "auto"
    min_replicas: int = 1
    max_replicas: int = 1
    queue_per_replica: float = 2.0
    cpus: int = 1
    gpus: float = 1.0
    ingress_replicas: int = 1
    max_mb: float = 200.0
    max_minutes: float = 20.0
    max_queue: int = 100
    max_uploads: int = 16
    max_request_minutes: float = 30.0
    disk_gb: float = 50.0
    keep_hours: float = 6.0
    drain_minutes: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", absolute_location(self.folder, "--folder"))
        if is_uri(self.folder):
            raise UsageError(f"--folder {self.folder} is no folder on a disk, which all replicas share")
        for name, allowed in (("device", _DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(allowed)}")
        positive = ("min_replicas", "queue_per_replica", "cpus", "gpus", "ingress_replicas", "port")
        for name in (*positive, "max_request_minutes"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be more than 0")
        if self.port > _MAX_PORT:
            raise UsageError(f"port is {self.port}: it must be at most {_MAX_PORT}")
        if not self.drain_minutes >= 0:
            raise UsageError(f"drain_minutes is {self.drain_minutes}: it must be at least 0")
        if self.max_replicas < self.min_replicas:
            raise UsageError(
                f"max_replicas is {self.max_replicas}, less than min_replicas, which is {self.min_replicas}"
            )
        if self.host not in LOOPBACK_HOSTS and self.token_file is None:
            raise UsageError(
                f"--host {self.host} lets other machines in: give --token-file, a file with an access token "
                "of at least 16 characters"
            )

    def read_settings(self) -> WebSettings:
        """Return limits and access of the application; reads the token.

        Raises:
            ValueError: a limit or the token is invalid.
        """
        token = None
        if self.token_file is not None:
            try:
                token = Path(self.token_file).read_text().strip()
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UsageError(f"--token-file {self.token_file} cannot be read: {reason}") from error
        return WebSettings(
            max_bytes=round(self.max_mb * 1e6),
            max_seconds=self.max_minutes * 60,
            max_queue=self.max_queue,
            max_uploads=self.max_uploads,
            disk_bytes=round(self.disk_gb * 1e9),
            keep_seconds=self.keep_hours * 3600,
            token=token,
            hosts=LOOPBACK_HOSTS if token is None else (),
        )
