"""Download checkpoints from Hugging Face; needs the optional package huggingface_hub."""

from pathlib import Path

from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.io import file_sha256

KNOWN = {  # SHA-256 of published files
    (
        "JusperLee/Apollo",
        "pytorch_model.bin",
    ): "99d9af7f1ff20e63c393035513a655392818d66b4d7fc23d658175c1f15e8d76",
}
_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


def download(name: str) -> Path:
    """Download a checkpoint from Hugging Face to its cache, unless it is there.

    Args:
        name: `owner/name`, or `owner/name/path/to/file`.

    Raises:
        CheckpointError: huggingface_hub is not installed, the hub is unreachable, the file does not exist, or
            its SHA-256 is not the published one.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such file or folder. Downloading from Hugging Face needs the extra `hub`: "
            "pip install 'apollo-restoration[hub]'"
        ) from error
    owner, _, rest = name.partition("/")
    repository, _, filename = rest.partition("/")
    candidates = [filename] if filename else [known[1] for known in KNOWN if known[0] == name] or _USUAL_NAMES
    for candidate in candidates:
        try:
            path = Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", candidate))
        except LocalEntryNotFoundError as error:  # no connection, too
            raise CheckpointError(
                f"{name}: no such file or folder, and Hugging Face is unreachable. Download {candidate} of "
                f"{owner}/{repository} on another machine and pass its path"
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{name}: no such file or folder, and downloading it from Hugging Face failed: {reason}"
            ) from error
        _check(path, KNOWN.get((f"{owner}/{repository}", candidate)))
        return path
    raise CheckpointError(f"{owner}/{repository} on Hugging Face has no {' or '.join(candidates)}")


def _check(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    found = file_sha256(path)
    if found != expected:
        raise CheckpointError(f"{path} has SHA-256 {found}, expected {expected}: delete it and try again")
