"""Checkpoints from Hugging Face, and safetensors files. Both packages are optional."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apollo.checkpoints.checkpoint import digest
from apollo.checkpoints.published_format import CheckpointError

KNOWN = {  # digests that a download must have
    (
        "JusperLee/Apollo",
        "pytorch_model.bin",
    ): "99d9af7f1ff20e63c393035513a655392818d66b4d7fc23d658175c1f15e8d76",
}
_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin")


def download(name: str) -> Path:
    """Fetch a checkpoint from Hugging Face, with a progress bar, once.

    Args:
        name: `owner/name`, or `owner/name/path/to/file`.

    Raises:
        CheckpointError: the hub's package is not installed, the hub cannot be reached, there is no such file,
            or its digest is not the known one.
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
            f"{name}: no such file or folder. To download it from Hugging Face: pip install huggingface_hub"
        ) from error
    owner, _, rest = name.partition("/")
    repository, _, filename = rest.partition("/")
    wanted = [filename] if filename else [known[1] for known in KNOWN if known[0] == name] or _USUAL_NAMES
    for candidate in wanted:
        try:
            path = Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", candidate))
        except LocalEntryNotFoundError as error:  # of no connection too
            raise CheckpointError(
                f"{name}: no such file or folder, and Hugging Face cannot be reached. Download {candidate} "
                f"of {owner}/{repository} elsewhere and name the file"
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{name}: no such file or folder, and it cannot be had from Hugging Face: {reason}"
            ) from error
        _check(path, KNOWN.get((f"{owner}/{repository}", candidate)))
        return path
    raise CheckpointError(f"{owner}/{repository} on Hugging Face has no {' or '.join(wanted)}")


def _check(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    found = digest(path)
    if found != expected:
        raise CheckpointError(
            f"{path} has sha256 {found}, the published file {expected}: delete it and try again"
        )


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file.

    Raises:
        CheckpointError: the package is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: writing it needs safetensors: pip install safetensors") from error
    whole = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    safetensors.torch.save_file(whole, path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file.

    Raises:
        CheckpointError: the package is not installed, or the file is damaged.
    """
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or a damaged one: {error}") from error
