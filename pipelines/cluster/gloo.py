"""Gloo between machines: it is to use the network that Ray uses.

Left alone, gloo takes the address that the machine's own name stands for. On many machines that is a loopback
address, and workers on different hosts then wait for each other until "Connection refused".
"""

import array
import fcntl
import os
import socket
import struct
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # linux/sockios.h


class _GlooBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class GlooConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's configuration of torch.distributed, for gloo on the interface of Ray's own address."""

    def __init__(self) -> None:
        super().__init__(backend="gloo")

    @property
    def backend_cls(self) -> type:
        """What Ray Train calls before and after the workers' function."""
        return _GlooBackend


def choose_interface() -> None:
    """Tell gloo of this process which interface to take, where nobody has told it and there is one."""
    import ray

    if INTERFACE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[INTERFACE] = name


def interface_of(address: str) -> str | None:
    """Find the interface that has an IPv4 address; none on systems other than Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()))
            try:
                fcntl.ioctl(asking, _SIOCGIFADDR, request)
            except OSError:  # it has no such address
                continue
            if socket.inet_ntoa(request[20:24].tobytes()) == address:
                return name
    return None
