"""Gloo on the network interface that Ray uses.

By default gloo takes the address of the machine's own host name. On many machines that is a loopback address,
and workers on different hosts then fail with "Connection refused".
"""

import os
import socket
from typing import Any

import psutil
from ray.train.torch import TorchConfig

from pipelines.cluster.ray_internals import torch_backend

INTERFACE = "GLOO_SOCKET_IFNAME"


class _GlooBackend(torch_backend()):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(set_gloo_interface)
        super().on_start(worker_group, backend_config)


class GlooConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's configuration of torch.distributed: gloo, on the interface of Ray's address."""

    def __init__(self) -> None:
        super().__init__(backend="gloo")

    @property
    def backend_cls(self) -> type:
        """Backend whose hooks Ray Train calls around the workers' function."""
        return _GlooBackend


def set_gloo_interface() -> None:
    """Set gloo's interface in this process to that of Ray's address, unless it is set already."""
    import ray

    if INTERFACE not in os.environ and (name := find_interface(ray.util.get_node_ip_address())):
        os.environ[INTERFACE] = name


def find_interface(address: str) -> str | None:
    """Return the name of the network interface that has an IPv4 address, or None."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == address for one in addresses):
            return str(name)
    return None
