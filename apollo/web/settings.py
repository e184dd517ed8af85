"""Settings of the server: limits, names, access; no import of torch or FastAPI."""

from dataclasses import dataclass, field

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What restores.

    Args:
        checkpoint: As for `apollo restore --checkpoint`.
        device: As for `--device`.
        precision: As for `--precision`.
        name: Model name shown to users; by default the checkpoint's.
    """

    checkpoint: str = "compact"
    device: str = "auto"
    precision: str = "auto"
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Limits and access of the server.

    Args:
        max_bytes: Of an upload.
        max_seconds: Length of a song.
        max_queue: Songs and downloads that wait or are being computed; more are refused with 429.
        max_uploads: Uploads at a time.
        disk_bytes: Size of all songs with their results; the oldest are removed to make room.
        keep_seconds: Age at which a song is removed.
        upload_grace_seconds: Time that an upload may take beside its bytes.
        min_upload_rate: Bytes a second, below which an upload is cut off.
        retry_seconds: When a refused client may try again.
        token: What visitors must know; None lets everybody in who reaches the server.
        hosts: Accepted names of this server in the header Host, against DNS rebinding; empty accepts all.
    """

    max_bytes: int = 500_000_000
    max_seconds: float = 3600.0
    max_queue: int = 20
    max_uploads: int = 8
    disk_bytes: int = 8_000_000_000
    keep_seconds: float = 6 * 3600.0
    upload_grace_seconds: float = 30.0
    min_upload_rate: int = 20_000
    retry_seconds: int = 15
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = LOOPBACK_HOSTS

    def __post_init__(self) -> None:
        """Validate the limits.

        Raises:
            ValueError: one is not more than 0.
        """
        for name in ("max_bytes", "max_seconds", "max_queue", "max_uploads", "disk_bytes", "keep_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be more than 0")
        if self.token is not None and not (self.token.isascii() and len(self.token) >= 16):
            raise ValueError("the access token must be at least 16 ASCII characters")
