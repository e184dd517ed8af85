"""Checkpoints by URI: `s3://…`, `gs://…` and `file://…` for `apollo.checkpoints.checkpoint`.

A URI names the output of a run, whose best checkpoint is used, a checkpoint, or a published file. It is
downloaded once into a cache of this user, under the digest of its manifest, and verified at every use.
"""

import hashlib
import posixpath
import tempfile
from pathlib import Path

from apollo.checkpoints.checkpoint import BEST, CONFIG, MANIFEST, SAFETENSORS, WEIGHTS
from apollo.checkpoints.container import CheckpointError, CheckpointUnreachableError
from pipelines.registry.checkpoint_cache import cache_folder, fetch
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError

FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


def resolve(name: str) -> Path:
    """Return the local path of a checkpoint at a URI, downloaded if necessary.

    Args:
        name: The URI.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or the store is unreachable.
    """
    address, question, query = name.partition("?")
    try:
        home = cache_folder("stores")
        if posixpath.splitext(address)[1] in FILES:
            folder, file = posixpath.split(address)
            return _fetch_file(Folder(folder + question + query), file, home)
        store = Folder(address.rstrip("/").removesuffix(f"/{BEST}") + question + query)
        if store.exists(f"{BEST}/{MANIFEST}"):  # the output of a run, copied from a disk
            return _fetch_folder(store, f"{BEST}/", home)
        if not store.exists(MANIFEST) and store.exists(BEST):
            return _fetch_folder(store, store.read(BEST).decode() + "/", home)
        return _fetch_folder(store, "", home)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{name}: no run with a best checkpoint, no checkpoint and no file of weights"
        ) from error
    except StoreError as error:
        raise CheckpointUnreachableError(str(error)) from None
    except ValueError as error:  # `best` has an invalid name
        raise CheckpointError(str(error)) from error


def _fetch_folder(store: Folder, below: str, home: Path) -> Path:
    manifest = store.read(below + MANIFEST)
    weights = SAFETENSORS if store.exists(below + SAFETENSORS) else WEIGHTS

    def download(scratch: Path) -> Path:
        (scratch / MANIFEST).write_bytes(manifest)
        for file in (CONFIG, weights):
            store.get(below + file, str(scratch / file))
        return scratch

    return fetch(home / hashlib.sha256(manifest).hexdigest()[:32], (CONFIG, weights), download)


def _fetch_file(store: Folder, file: str, home: Path) -> Path:
    found = [entry for entry in store.entries() if entry.name == file]
    if not found:
        raise FileNotFoundError(file)
    what = f"{store.location}\n{file}\n{found[0].size}\n{found[0].mtime_ns}"
    target = home / (hashlib.sha256(what.encode()).hexdigest()[:32] + posixpath.splitext(file)[1])
    if not target.exists() or target.stat().st_size != found[0].size:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as scratch:
            store.get(file, str(Path(scratch, "file")))
            Path(scratch, "file").rename(target)
    return target
