"""Hosts on one machine: each has its own network, address, name, processes, /dev/shm and /tmp/ray.

They are namespaces of Linux, joined by a bridge in a namespace of its own, so nothing of the machine's own
network changes. What they share is the disk, as hosts of a cluster share a network file system.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PORT = 6379
_UNSHARE, _NSENTER = (shutil.which(name) or name for name in ("unshare", "nsenter"))
_NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")


def why_not() -> str | None:
    """Say why this machine lets nobody make hosts; nothing if it does."""
    command = [
        _UNSHARE,
        *_NAMESPACES,
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "ip link add bridge type bridge",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        return f"no {error.filename} here"
    return None if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()}"


@dataclass
class Host:
    """One host.

    Args:
        name: Of the host, and of its cable.
        address: IPv4.
        switch: Process that holds the switch's namespaces.
        folder: Its home and Ray's files.
        environment: Of what runs there, beside the home.
    """

    name: str
    address: str
    switch: int
    folder: Path
    environment: dict[str, str]
    _init: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def boot(self) -> None:
        """Start it, with a cable to the switch."""
        for part in ("ray", "home"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        script = (
            f"mkdir -p /tmp/ray && mount --bind {shlex.quote(str(self.folder / 'ray'))} /tmp/ray && "
            f"mount -t tmpfs tmpfs /dev/shm && hostname {self.name} && echo up && "
            "while :; do sleep 1; done"  # the first process buries the dead
        )
        self._init = subprocess.Popen(
            [_UNSHARE, *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            stdout=subprocess.PIPE,
        )
        assert self._init.stdout and self._init.stdout.readline() == b"up\n"
        network = f"/proc/{self._inside}/ns/net"
        on(self.switch, f"ip link add {self.name} type veth peer name eth0 netns {network}")
        on(self.switch, f"ip link set {self.name} master bridge up")
        on(
            self._inside,
            f"ip link set lo up && ip addr add {self.address}/24 dev eth0 && ip link set eth0 up && "
            "ip route add default dev eth0",
        )

    @property
    def _inside(self) -> int:
        """Give the first process of the host, as numbered outside."""
        assert self._init
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return int(children[0])

    def start(self, command: list[str], log: Path, **more: str) -> "subprocess.Popen[bytes]":
        """Start a command on the host, in the project's folder."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            **self.environment,
            **more,
        }
        with log.open("ab") as stream:
            return subprocess.Popen(
                [_NSENTER, "--target", str(self._inside), "--all", "--wd=" + str(ROOT), *command],
                env=environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def run(self, command: list[str], log: Path, seconds: float = 300.0, **more: str) -> int:
        """Run a command on the host to its end, and return its exit code."""
        return self.start(command, log, **more).wait(seconds)

    def cut(self) -> None:
        """Pull the cable."""
        on(self.switch, f"ip link set {self.name} down")

    def mend(self) -> None:
        """Put the cable back."""
        on(self.switch, f"ip link set {self.name} up")

    def kill(self) -> None:
        """Switch it off: all its processes end at once, and say goodbye to nobody."""
        if self._init and self._init.poll() is None:
            os.kill(self._inside, signal.SIGKILL)
            self._init.wait(30)


def on(process: int, script: str) -> None:
    """Run a shell's words in the network of a process."""
    subprocess.run([_NSENTER, "--target", str(process), "--net", "sh", "-c", script], check=True, timeout=30)


@contextmanager
def rack(folder: Path, names: tuple[str, ...], **environment: str) -> Iterator[dict[str, Host]]:
    """Set up hosts 10.77.0.1, 10.77.0.2, …; all are switched off in the end.

    Args:
        folder: Of their files; each has its own below it.
        names: Of the hosts, in the order of their addresses.
        environment: Of what runs on them.
    """
    switch = subprocess.Popen(
        [_UNSHARE, "--net", "--fork", "--kill-child", "sh", "-c",
         "ip link add bridge type bridge && ip link set bridge up && echo up && exec sleep infinity"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    hosts: dict[str, Host] = {}
    try:
        assert switch.stdout and switch.stdout.readline() == b"up\n"
        children = Path(f"/proc/{switch.pid}/task/{switch.pid}/children").read_text().split()
        for number, name in enumerate(names, 1):
            hosts[name] = Host(name, f"10.77.0.{number}", int(children[0]), folder / name, environment)
        yield hosts
    finally:
        for host in hosts.values():
            host.kill()
        os.kill(int(children[0]), signal.SIGKILL)
        switch.wait(30)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until something is true, and give the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{seconds:.0f} s, and not yet: {what}")
        time.sleep(0.1)
    return time.monotonic() - began
