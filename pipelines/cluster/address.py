"""The address of a Ray cluster: an error in it is found within seconds, with the whole reason and what to do.

Ray itself tries an address that does not answer for minutes, without a word, and then ends the process.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import UsageError

_SECONDS = 10.0
_HOST_AND_PORT = re.compile(r"(?P<client>ray://)?[^/]+:\d{1,5}")
_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"  # at ray://
_OF_OTHER_SERVERS = {"UNIMPLEMENTED", "UNAVAILABLE", "INTERNAL", "UNKNOWN"}  # Ray's refuse the missing token
_ADVICE = (
    "Set RAY_ADDRESS to HOST:6379 of `ray start --head`, start the cluster, or set RAY_ADDRESS=local to "
    "compute on this machine alone"
)


def check_reachable(address: str) -> None:
    """Check that a Ray cluster answers at an address.

    Args:
        address: HOST:PORT, or ray://HOST:PORT; of others, Ray says what is wrong.

    Raises:
        UsageError: nothing answers there, or something else than Ray.
    """
    from pipelines.cluster.ray_internals import resolve_loopback

    if not (match := _HOST_AND_PORT.fullmatch(address)):
        return
    host, _, port = (address[len("ray://") :] if match["client"] else resolve_loopback(address)).rpartition(
        ":"
    )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS):
            pass
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise UsageError(f"no Ray cluster answers at {address}: {reason}. {_ADVICE}") from None
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        _call(address, f"{host}:{port}", _CLIENT_METHOD if match["client"] else _METHOD)


def _call(address: str, target: str, method: str) -> None:
    """Call a method that Ray's servers have, without arguments and without a token.

    Raises:
        UsageError: the server does not have it, or does not answer.
    """
    import grpc

    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_SECONDS)
        except grpc.RpcError as error:
            code, text = error.code().name, " ".join((error.details() or "").split())
            if code == "DEADLINE_EXCEEDED":
                raise UsageError(f"no Ray cluster answers at {address}: no answer. {_ADVICE}") from None
            if code in _OF_OTHER_SERVERS:
                raise UsageError(f"{address} is not a Ray cluster: {code}, {text}. {_ADVICE}") from None


@contextmanager
def explain_ray_errors(address: str | None) -> Iterator[None]:
    """Raise what Ray raises while it joins or starts a cluster as one line with all of its advice.

    Args:
        address: Of the cluster to join; None if one is started on this machine.

    Raises:
        UsageError: the cluster cannot be joined, or the temporary folder cannot be used.
        RuntimeError: Ray does not start on this machine.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # Ray raises many kinds, plain Exception too
        text = " ".join(str(error).split()).rstrip(".")
        if "AF_UNIX path length" in text:
            raise UsageError(
                f"the path of the temporary folder is too long for Ray: {text}. Set TMPDIR (or RAY_TMPDIR) "
                "to a shorter one, such as /tmp"
            ) from None
        if address is not None:
            raise UsageError(f"cannot join the Ray cluster at {address}: {text}. {_ADVICE}") from None
        raise RuntimeError(f"Ray does not start on this machine: {text}") from None
