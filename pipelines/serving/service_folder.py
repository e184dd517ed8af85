"""Files by which the processes of a service agree, in the folder that all nodes share; no import of torch.

A lock ends with its process, however that ends.
"""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

RUN_FILE = "run"  # a random name of this run, which tells whether a node sees the same folder
CLOSING_FILE = "closing"  # exists while the service shuts down


def check_folder(folder: str, run: str) -> None:
    """Check that this node sees the folder of the service.

    Raises:
        RuntimeError: it sees none, or another one of the same name.
    """
    try:
        found = Path(folder, RUN_FILE).read_text()
    except OSError:
        found = None
    if found != run:
        raise RuntimeError(
            f"node {os.uname().nodename} does not see {folder} of the node that started the service: give a "
            "--folder on a disk that all nodes share"
        )


def lock_existing(path: Path) -> BinaryIO | None:
    """Open and lock a file; None if another process has locked it, or if it was removed."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:  # removed between both
        file.close()
        return None
    return file


def wait_for_lock(path: Path) -> BinaryIO:
    """Create or open a file, and wait until it is locked for this process.

    Raises:
        FileNotFoundError: its folder was removed.
    """
    file = path.open("a+b")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file
