"""Invalid and malicious checkpoints are refused with one kind of error, and nothing in them is run."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apollo.checkpoints.checkpoint import CheckpointError, load, save, save_safetensors
from apollo.checkpoints.published_format import to_published
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.example_file import ExampleFileSource, ExampleFileValidation
from tests.support.malicious_payloads import Planted


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(GeneratorConfig(dim=16, layers=1))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02R.", b"root:x:0:0:root:/root\n", bytes(1_000), b"PK\x03\x04"]
)
def test_invalid_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load(path)


def test_an_empty_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(CheckpointError):
        load(tmp_path / "weights.bin")


MARK = "BN.0.0.weight"


@pytest.mark.parametrize(
    "entries",
    [
        {"net.20000.foo": torch.zeros(1)},  # would ask for 20,001 layers
        {"net.x.y": torch.zeros(1)},
        {"net.0.band_net.cos_freq": torch.tensor(1.0)},
        {MARK: torch.zeros(11).to_sparse()},
        {MARK: torch.zeros(11, device="meta")},
        {MARK: torch.zeros(11, dtype=torch.complex64)},
        {MARK: torch.zeros(11, dtype=torch.int64)},
        {MARK: torch.zeros(())},
    ],
    ids=str,
)
def test_unexpected_entries_are_refused(
    generator: Generator, tmp_path: Path, entries: dict[str, torch.Tensor]
) -> None:
    torch.save({**to_published(generator), **entries}, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError):
        load(tmp_path / "weights.bin")


@pytest.mark.parametrize(
    "config",
    [
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"format": 1}',
        b'{"format": 1, "generator": []}',
        b'{"format": 1, "generator": {"dim": "x"}}',
        b'{"format": 1, "generator": {"dim": 32}}',
        b'{"format": 1, "generator": {"dim": 16, "layers": 1, "colour": "red"}}',
    ],
    ids=lambda config: config[:40].decode(errors="replace"),
)
def test_invalid_configurations_are_refused(generator: Generator, tmp_path: Path, config: bytes) -> None:
    folder = save(generator, tmp_path / "checkpoint")
    (folder / "config.json").write_bytes(config)
    _rewrite_manifest(folder)
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("manifest", [b"\xff\xfe", b"[]", b"{}", b'{"sha256": {}}', b'{"sha256": 1}'])
def test_invalid_manifests_are_refused(generator: Generator, tmp_path: Path, manifest: bytes) -> None:
    folder = save(generator, tmp_path / "checkpoint")
    (folder / "MANIFEST.json").write_bytes(manifest)
    with pytest.raises(CheckpointError):
        load(folder)


def _rewrite_manifest(folder: Path) -> None:
    """Write a manifest that matches the files, as an attacker would."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    digests.pop("MANIFEST.json", None)
    (folder / "MANIFEST.json").write_text(json.dumps({"sha256": digests}))


def _torch(content: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _numpy(planted: Planted, *, archive: bool) -> bytes:
    stream = io.BytesIO()
    array = np.array([planted], dtype=object)
    np.savez(stream, **{MARK: array}) if archive else np.save(stream, array)
    return stream.getvalue()


def _script() -> bytes:
    """TorchScript: a program, which torch.load would hand on to its own loader."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


PLANTED: dict[str, Callable[[Planted], bytes]] = {
    "pickle": lambda planted: pickle.dumps({MARK: planted}),
    "oldest pickle": lambda planted: pickle.dumps({MARK: planted}, protocol=0),
    "torch": lambda planted: _torch({MARK: torch.zeros(11), "hook": planted}),
    "torch before 1.6": lambda planted: _torch({MARK: torch.zeros(11), "hook": planted}, zipped=False),
    "npy": lambda planted: _numpy(planted, archive=False),
    "npz": lambda planted: _numpy(planted, archive=True),
    "torchscript": lambda planted: _script(),
}


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin", ".safetensors", ".npz", ".npy", ".pkl", ""])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_payload_is_not_run_under_any_extension(tmp_path: Path, kind: str, ending: str) -> None:
    path, mark = tmp_path / f"weights{ending}", tmp_path / "ran"
    path.write_bytes(PLANTED[kind](Planted(mark)))
    with pytest.raises(CheckpointError, match="weights") as caught:
        load(path)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice is to unpickle without care


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_payload_in_a_checkpoint_folder_is_not_run(
    generator: Generator, tmp_path: Path, kind: str, portable: bool
) -> None:
    write, name = (save_safetensors, "weights.safetensors") if portable else (save, "weights.pt")
    folder, mark = write(generator, tmp_path / "checkpoint"), tmp_path / "ran"
    (folder / name).write_bytes(PLANTED[kind](Planted(mark)))
    _rewrite_manifest(folder)
    with pytest.raises(CheckpointError, match="weights"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("kind", PLANTED)
def test_a_payload_in_an_example_file_is_not_run(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "examples.pt", tmp_path / "ran"
    path.write_bytes(PLANTED[kind](Planted(mark)))
    for open_examples in (
        lambda: ExampleFileSource(path, epoch_examples=1),
        lambda: ExampleFileValidation(path),
    ):
        with pytest.raises(ValueError, match="is not a file of examples") as caught:
            open_examples()
        assert "weights_only" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", sorted(set(PLANTED) - {"torchscript"}))
def test_the_payloads_run_when_unpickled(tmp_path: Path, kind: str) -> None:
    mark, content = tmp_path / "ran", PLANTED[kind](Planted(tmp_path / "ran"))
    if kind.startswith("np"):
        found = np.load(io.BytesIO(content), allow_pickle=True)
        assert kind == "npy" or found[MARK] is not None
    elif "pickle" in kind:
        pickle.loads(content)  # noqa: S301 - bytes of our own
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert mark.is_dir()
