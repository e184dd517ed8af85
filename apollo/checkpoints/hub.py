"""Download checkpoints from Hugging Face; needs the optional package huggingface_hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.io import file_sha256
from apollo.checkpoints.known_models import find_known

FOLDER_FILES = ("MANIFEST.json", "config.json", "weights.safetensors")  # what `apollo push` uploads
_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


def require_hub(name: str) -> None:
    """Check that the package huggingface_hub is installed.

    Args:
        name: What it is needed for; begins the message.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs the extra `hub`: pip install 'apollo-restoration[hub]'"
        ) from error


def download(name: str, **options: Any) -> Path:
    """Download a checkpoint from Hugging Face to its cache, unless it is there.

    A connection that is lost is opened again, and the download goes on where it stopped.

    Args:
        name: `owner/name`, or `owner/name/path/to/file`.
        options: Of `huggingface_hub.hf_hub_download`: `revision`, `token`, `cache_dir` ...

    Returns:
        A checkpoint folder, where the repository holds one; or a file.

    Raises:
        CheckpointError: huggingface_hub is not installed, the hub is unreachable, the file does not exist, or
            its SHA-256 is not the published one.
    """
    require_hub(f"{name}: no such file or folder. Downloading from Hugging Face")
    known = find_known(name)
    repository, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    file = file or (known.file if known else "")
    if not file and _fetch(repository, FOLDER_FILES[0], name, options) is not None:
        return _fetch_folder(repository, name, options)
    candidates = (file,) if file else _USUAL_NAMES
    for candidate in candidates:
        path = _fetch(repository, candidate, name, options)
        if path is not None:
            _check(path, known.sha256 if known else None)
            return path
    raise CheckpointError(f"{repository} on Hugging Face has no {' or '.join(candidates)}")


def _fetch_folder(repository: str, name: str, options: Mapping[str, Any]) -> Path:
    """Download the files of a checkpoint folder; `checkpoint.load` compares them with its manifest."""
    paths = {file: _fetch(repository, file, name, options) for file in FOLDER_FILES}
    folders = {path.parent for path in paths.values() if path is not None}
    missing = [file for file, path in paths.items() if path is None]
    if missing or len(folders) != 1:
        raise CheckpointError(f"{repository} on Hugging Face has no {' or '.join(missing)}, or just changed")
    return folders.pop()


def _fetch(repository: str, file: str, name: str, options: Mapping[str, Any]) -> Path | None:
    """Download one file; None where the repository has no such file."""
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, **options))
    except LocalEntryNotFoundError as error:  # no connection, too
        raise CheckpointError(
            f"{name}: no such file or folder, and Hugging Face is unreachable. Download {file} of "
            f"{repository} on another machine and pass its path"
        ) from error
    except EntryNotFoundError:
        return None
    except (HTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name}: no such file or folder, and downloading it from Hugging Face failed: {reason}"
        ) from error


def _check(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    found = file_sha256(path)
    if found != expected:
        raise CheckpointError(f"{path} has SHA-256 {found}, expected {expected}: delete it and try again")
