"""Save and load generators.

A checkpoint is a folder:

    config.json           the generator's configuration, and the writer's metadata
    weights.pt            tensors only: {"generator": state dict, "ema": state dict, ...}; or instead
    weights.safetensors   the weights for inference alone
    training.pt           optimizer and loop state to resume from; training checkpoints only
    MANIFEST.json         SHA-256 of the other files, written last: without it the checkpoint is incomplete

Nothing executable is ever loaded.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.checkpoints.container import CheckpointError, read_container
from apollo.checkpoints.io import atomic_write, file_sha256, read_safetensors, write_safetensors
from apollo.checkpoints.known_models import find_licence
from apollo.checkpoints.published_format import find_state_dict, infer_config, load_published
from apollo.inference.restoration import receptive_field_samples
from apollo.inference.streaming import StreamRestorer
from apollo.model.config import COMPACT, PACKAGED, GeneratorConfig
from apollo.model.generator import Generator

__all__ = ["CheckpointError", "load", "locate", "save", "save_safetensors", "verify"]

FORMAT = 1
CONFIG, WEIGHTS, SAFETENSORS, TRAINING = "config.json", "weights.pt", "weights.safetensors", "training.pt"
MANIFEST, BEST = "MANIFEST.json", "best"
RESOLVERS = "apollo.checkpoints"  # entry points that resolve names such as models:/apollo@champion to paths


def save(
    generator: Generator,
    folder: str | os.PathLike[str],
    *,
    extra_states: Mapping[str, Mapping[str, Tensor]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder atomically.

    Args:
        generator: Weights and configuration; kept under "generator".
        folder: Path, which must not exist.
        extra_states: Further state dicts, such as "ema" and "discriminator".
        metadata: Further entries of config.json.
        training_state: Content of training.pt: tensors and plain values.

    Raises:
        FileExistsError: the folder exists.
    """
    states = {"generator": generator.state_dict(), **(extra_states or {})}

    def fill(scratch: Path) -> None:
        weights = {
            name: {key: value.detach().cpu().contiguous() for key, value in state.items()}
            for name, state in states.items()
        }
        torch.save(weights, scratch / WEIGHTS)
        if training_state is not None:
            torch.save(training_state, scratch / TRAINING)

    return _write(Path(folder), generator, metadata or {}, fill)


def save_safetensors(
    generator: Generator, folder: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint of a generator alone, with safetensors weights: for inference, not for resuming.

    Args:
        generator: Weights and configuration.
        folder: Path, which must not exist.
        metadata: Further entries of config.json.

    Raises:
        FileExistsError: the folder exists.
        CheckpointError: the package safetensors is not installed.
    """

    def fill(scratch: Path) -> None:
        write_safetensors(generator.state_dict(), scratch / SAFETENSORS)

    return _write(Path(folder), generator, metadata or {}, fill)


def _write(
    target: Path, generator: Generator, metadata: Mapping[str, Any], fill: Callable[[Path], None]
) -> Path:
    """Write a checkpoint folder atomically; `fill` writes its weights."""
    if target.exists():
        raise FileExistsError(f"{target} already exists: a checkpoint is never overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as scratch:
        scratch.mkdir()
        fill(scratch)
        config = {"format": FORMAT, "generator": generator.config.to_dict(), **metadata}
        (scratch / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        digests = {path.name: file_sha256(path) for path in sorted(scratch.iterdir())}
        (scratch / MANIFEST).write_text(json.dumps({"sha256": digests}, indent=2) + "\n")
    return target


def load(source: str | os.PathLike[str] = COMPACT, *, weights: str = "ema") -> Generator:
    """Load a generator in float32, in evaluation mode, on the CPU.

    Args:
        source: `compact`, the model that the package contains, or `codec` or `replication`, which have no
            parameters (docs/model.md); a checkpoint folder, or a folder that holds
            one as `best`; a published or community file (.bin, .ckpt, .pt, .safetensors); a Hugging Face name
            (`JusperLee/Apollo`, `owner/name/file.ckpt`), downloaded once; or a name that an installed package
            resolves (`models:/apollo@champion`).
        weights: `ema` or `generator`, for checkpoint folders that contain both; without `ema`, `generator` is
            loaded.

    Raises:
        CheckpointError: the source does not exist, is damaged, or is not an Apollo generator.
    """
    if weights not in ("ema", "generator"):
        raise ValueError(f"weights is {weights!r}: it must be 'ema' or 'generator'")
    path = locate(os.fspath(source))
    generator = _load_folder(path, weights) if path.is_dir() else _load_file(path)
    for key, value in generator.state_dict().items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: {key} contains non-finite values (NaN or infinite)")
    return generator.eval()


def read_discriminator_state(source: str | os.PathLike[str]) -> dict[str, Tensor] | None:
    """Read the discriminator's state dict from a checkpoint folder; None where it has none."""
    folder = _follow(Path(source))
    exists = (folder / WEIGHTS).exists()
    return read_container(folder / WEIGHTS).get("discriminator") if exists else None


def verify(folder: Path, names: Sequence[str]) -> None:
    """Check files of a checkpoint against the SHA-256 in its manifest.

    Args:
        folder: The checkpoint.
        names: Required files.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    try:
        expected = json.loads((folder / MANIFEST).read_text())["sha256"]
        damaged = [name for name in names if file_sha256(folder / name) != expected[name]]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder} is not a complete checkpoint: {error}") from error
    if damaged:
        raise CheckpointError(f"{folder / damaged[0]} is damaged: its SHA-256 is not the one in {MANIFEST}")


def describe(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the configuration, size, reach and path of a checkpoint.

    Args:
        source: As for `load`.

    Raises:
        CheckpointError: as for `load`.
    """
    path = locate(os.fspath(source))
    generator = load(path)
    restorer = StreamRestorer(generator)
    rate = generator.config.sample_rate
    facts = {
        "path": str(path),
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        **generator.config.to_dict(),
        "band count": len(generator.config.band_widths),
        "reach (s)": [round(samples / rate, 4) for samples in receptive_field_samples(generator)],
        "stream latency (s)": round(restorer.latency_samples / rate, 4),
    }
    config = _follow(path) / CONFIG
    if config.exists():
        metadata = json.loads(config.read_text())
        facts |= {key: value for key, value in metadata.items() if key not in ("generator", "format")}
    return facts


def describe_weights(source: str) -> dict[str, str]:
    """Return where weights are from: their name, SHA-256 and licence, for files made of them.

    Args:
        source: As for `load`.

    Raises:
        CheckpointError: it does not exist.
    """
    path = _follow(locate(source))
    name = path.name if os.path.exists(source) else source
    if path.is_dir():
        path = path / (SAFETENSORS if (path / SAFETENSORS).exists() else WEIGHTS)
    digest = file_sha256(path)
    licence = find_licence(digest) or "that of the checkpoint"
    return {"weights": name, "weights_sha256": digest, "licence": licence}


def locate(source: str) -> Path:
    """Resolve a source to a path, downloading it if needed.

    Raises:
        CheckpointError: it does not exist.
    """
    if os.path.exists(source):
        return Path(source)
    if source in PACKAGED:
        return Path(__file__).with_name(source)
    scheme, colon, _ = source.partition(":")
    if colon and scheme.isidentifier() and len(scheme) > 1:
        for entry_point in entry_points(group=RESOLVERS, name=scheme):
            return Path(_resolver(entry_point, source)(source))
        raise CheckpointError(f"{source}: no installed package resolves names that begin with {scheme}:")
    owner, slash, _ = source.partition("/")
    if slash and owner and not owner.startswith((".", "~")) and not os.path.isdir(owner):
        from apollo.checkpoints.hub import download

        return download(source)
    raise CheckpointError(f"{source}: no such file or folder")


def _resolver(entry_point: EntryPoint, source: str) -> Callable[[str], str | os.PathLike[str]]:
    try:
        resolver: Callable[[str], str | os.PathLike[str]] = entry_point.load()
    except ImportError as error:
        raise CheckpointError(f"{source}: cannot resolve {entry_point.name}: names: {error}") from error
    return resolver


def _follow(folder: Path) -> Path:
    """Return the checkpoint folder itself: of the output folder of a run, the one that `best` points to."""
    return folder / BEST if not (folder / MANIFEST).exists() and (folder / BEST).exists() else folder


def _load_folder(folder: Path, weights: str) -> Generator:
    folder = _follow(folder)
    weights_file = SAFETENSORS if (folder / SAFETENSORS).exists() else WEIGHTS
    verify(folder, (CONFIG, weights_file))
    try:
        config = json.loads((folder / CONFIG).read_text())
        if not isinstance(config, dict):
            raise TypeError(f"{CONFIG} is not a JSON object")
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder} is not a complete checkpoint: {error}") from error
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has format {config.get('format')}; this version reads {FORMAT}")
    states = _read_states(folder / weights_file)
    try:
        generator = Generator(GeneratorConfig.from_dict(config["generator"]))
        generator.load_state_dict(states.get(weights, states["generator"]))
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json and weights do not match: {error}") from error
    return generator


def _read_states(path: Path) -> dict[str, Any]:
    return {"generator": read_safetensors(path)} if path.name == SAFETENSORS else read_container(path)


def _load_file(path: Path) -> Generator:
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path} is an exported model, no checkpoint: it is for apollo restore and apollo stream"
        )
    if path.suffix == ".safetensors":
        container: dict[str, Any] = read_safetensors(path)
    else:
        container = read_container(path)
    state = find_state_dict(container, str(path))
    try:
        generator = Generator(infer_config(state))
        load_published(generator, state)
    except (CheckpointError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return generator
