"""The MLflow server of a cluster: guarded by a password; its files, and a copy of its database, in a store.

    export MLFLOW_TRACKING_USERNAME=apollo MLFLOW_TRACKING_PASSWORD=…   # the server's, and of all who ask it
    python -m pipelines.tracking.server --folder ~/mlflow --store s3://bucket/apollo/mlflow

The database is one of sqlite in the folder: a node's own disk, one server. A folder without one takes the
copy from the store, so runs and registered models outlive the machine. A server that runs on the folder is
ended first; `--stop` does only that. It listens on this machine alone unless `--host` says otherwise.
"""

import argparse
import fcntl
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pipelines.errors import UsageError
from pipelines.runtime.progress import say
from pipelines.runtime.run import Exit, catch_sigterm
from pipelines.storage.folder import Folder, join, write_locally

_DATABASE, _ACCOUNTS, _LOCK, _COPY = "mlflow.db", "basic_auth.db", "server.lock", "copy.db"
_POLL_SECONDS, _COPY_SECONDS, _END_SECONDS = 1.0, 300.0, 120.0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="mlflow_server", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of the database, on a disk of this node")
    parser.add_argument("--store", required=True, help="folder or URI of files and of the database's copy")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--stop", action="store_true", help="end the server of this folder, and no more")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve, or end a server, as a command line says, and return the exit code."""
    options = build_parser().parse_args(arguments)
    catch_sigterm()
    try:
        with held(options.folder):
            return 0 if options.stop else serve(options.folder, options.store, options.host, options.port)
    except UsageError as error:
        print(f"mlflow_server: {error}", file=sys.stderr)
        return Exit.USAGE
    except OSError as error:  # without the copy, nothing begins: an empty database would take its place
        print(f"mlflow_server: {error}", file=sys.stderr)
        return Exit.FAILED


def serve(folder: Path, store: str, host: str, port: int) -> int:
    """Serve until this process is told to end, and return the server's exit code.

    Args:
        folder: Of the database; held by this process.
        store: Where files and the copy of the database go.
        host: Address to listen on.
        port: To listen on.

    Raises:
        UsageError: no name or password is set.
    """
    environment = guarded()
    copies = Folder(store)
    bring_back(copies, folder / _DATABASE)
    (folder / _ACCOUNTS).unlink(missing_ok=True)  # MLflow would keep the password that it was first told
    server = subprocess.Popen(  # noqa: S603 - no shell
        [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1",
            "--host", host, "--port", str(port),
            "--backend-store-uri", f"sqlite:///{folder / _DATABASE}",
            "--artifacts-destination", join(store, "artifacts"),
        ],
        cwd=folder, env=environment,
    )  # fmt: skip
    code = None
    try:
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = server.wait(_COPY_SECONDS)
            keep(folder / _DATABASE, copies)
        return code
    except KeyboardInterrupt:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(_END_SECONDS / 2)
        server.kill()
        server.wait()
        keep(folder / _DATABASE, copies)
        return Exit.DONE


def guarded() -> dict[str, str]:
    """Give the environment in which MLflow lets nobody in but who knows the password.

    Raises:
        UsageError: no name or password is set.
    """
    try:
        name, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    except KeyError as missing:
        raise UsageError(
            f"{missing} is not set: the server asks everyone for a name and a password. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, here and wherever runs are tracked from"
        ) from missing
    return {
        **os.environ,
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nothing is to run on the server
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; a server that holds it is told to end.

    Raises:
        UsageError: it did not end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as lock:
        deadline = time.monotonic() + _END_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(f"the server of {folder} does not end") from None
            lock.seek(0)
            if not told and (holder := lock.read()):
                with suppress(ProcessLookupError):
                    os.kill(int(holder), signal.SIGTERM)
                told = True
            time.sleep(_POLL_SECONDS)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def bring_back(copies: Folder, database: Path) -> None:
    """Take the copy of a database that is not here, if there is one."""
    if database.exists() or not copies.exists(_DATABASE):
        return
    with copies.open(_DATABASE) as stream:
        write_locally(str(database), stream)
    say(f"took the database from {copies.location}")


def keep(database: Path, copies: Folder) -> None:
    """Copy a database, as it is between two of its transactions; a store that fails only delays."""
    copy = database.with_name(_COPY)
    if not database.exists():
        return
    try:
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(copy)) as there:
            here.backup(there)
        copies.put(_DATABASE, str(copy))
    except (OSError, sqlite3.Error) as error:
        say(f"the database has not reached {copies.location}: {error}")
    finally:
        copy.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
