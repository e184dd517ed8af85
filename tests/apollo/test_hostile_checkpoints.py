"""Files that are no checkpoint in every way there is: one kind of error, at once, and nothing is run."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch

from apollo.checkpoint import CheckpointError, load, save
from apollo.config import GeneratorConfig
from apollo.generator import Generator
from apollo.published import to_published


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(GeneratorConfig(dim=16, layers=1))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02R.", b"root:x:0:0:root:/root\n", bytes(1_000), b"PK\x03\x04"]
)
def test_bytes_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load(path)


def test_an_archive_without_content(tmp_path: Path) -> None:
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
def test_entries_that_no_generator_has(
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
def test_configurations_that_make_no_generator(generator: Generator, tmp_path: Path, config: bytes) -> None:
    folder = save(generator, tmp_path / "checkpoint")
    (folder / "config.json").write_bytes(config)
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "weights.pt")
    }
    (folder / "MANIFEST.json").write_text(json.dumps({"sha256": digests}))
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("manifest", [b"\xff\xfe", b"[]", b"{}", b'{"sha256": {}}', b'{"sha256": 1}'])
def test_manifests_that_promise_nothing(generator: Generator, tmp_path: Path, manifest: bytes) -> None:
    folder = save(generator, tmp_path / "checkpoint")
    (folder / "MANIFEST.json").write_bytes(manifest)
    with pytest.raises(CheckpointError):
        load(folder)
