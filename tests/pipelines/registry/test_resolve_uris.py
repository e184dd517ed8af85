"""Checkpoints in buckets: found in runs, downloaded once, refused when incomplete."""

import shutil
from pathlib import Path

import pytest
import torch

from apollo.checkpoints import checkpoint
from apollo.checkpoints.checkpoint import CheckpointError
from apollo.model.generator import Generator
from pipelines.evaluation.models import load_models
from pipelines.registry.resolve_uris import resolve
from pipelines.storage.object_store import ATTEMPTS
from tests.support.restoration_jobs import save_generator
from tests.support.s3_server import Bucket


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(ATTEMPTS, "2")
    return tmp_path / "cache/apollo/stores"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_generator(tmp_path / "weights")


def assert_same(first: Generator, second: Generator) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_run_its_best_and_a_checkpoint_resolve_alike(bucket: Bucket, weights: Path, cache: Path) -> None:
    bucket.upload(weights, "runs/paper/checkpoints/step-00000012")
    bucket.put("runs/paper/best", b"checkpoints/step-00000012")
    bucket.upload(weights, "copied/best")
    expected = checkpoint.load(weights)
    names = ("runs/paper", "runs/paper/", "runs/paper/best", "runs/paper/checkpoints/step-00000012", "copied")
    for name in names:
        assert_same(checkpoint.load(bucket.uri(name)), expected)
    assert bucket.proxy.count(r"GET \S+weights\.pt") == 1, "it is downloaded once"
    assert len(list(cache.iterdir())) == 1
    (model,) = load_models([bucket.uri("runs/paper/best")], [])[1:]
    assert model.name == "paper"


def test_a_damaged_cached_checkpoint_is_downloaded_again(bucket: Bucket, weights: Path, cache: Path) -> None:
    uri = bucket.upload(weights, "w")
    found = resolve(uri)
    (found / "weights.pt").write_bytes(b"")
    assert_same(checkpoint.load(uri), checkpoint.load(weights))
    assert len(list(cache.iterdir())) == 1


def test_a_file_of_weights_is_downloaded_once(bucket: Bucket, weights: Path, tmp_path: Path) -> None:
    generator = checkpoint.load(weights)
    torch.save(generator.state_dict(), tmp_path / "community.ckpt")
    bucket.put("files/community.ckpt", (tmp_path / "community.ckpt").read_bytes())
    for _ in range(2):
        found = resolve(bucket.uri("files/community.ckpt"))
        assert found.read_bytes() == (tmp_path / "community.ckpt").read_bytes()
    assert found.suffix == ".ckpt"
    assert bucket.proxy.count("GET .*community.ckpt") == 1


def test_incomplete_and_damaged_checkpoints_are_refused(bucket: Bucket, weights: Path, cache: Path) -> None:
    """Without a manifest, or with other weights than it promises."""
    bucket.upload(weights, "half")
    bucket.delete("half/MANIFEST.json")
    bucket.upload(weights, "other")
    bucket.put("other/weights.pt", (weights / "weights.pt").read_bytes()[:-1])
    bucket.put("run/checkpoints/step-00000003/config.json", b"{}")
    with pytest.raises(CheckpointError, match=r"s3://.*/half.*no checkpoint"):
        checkpoint.load(bucket.uri("half"))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(bucket.uri("other"))
    with pytest.raises(CheckpointError, match="no run with a best checkpoint"):
        checkpoint.load(bucket.uri("run"))
    with pytest.raises(CheckpointError, match="no file of weights"):
        checkpoint.load(bucket.uri("nowhere.ckpt"))
    assert not list(cache.iterdir())


def test_an_unreachable_store_is_named(bucket: Bucket, weights: Path) -> None:
    uri = bucket.upload(weights, "w")
    bucket.proxy.fail("refuse", "GET", times=float("inf"))
    with pytest.raises(CheckpointError, match=r"cannot look for s3://.*/w/.*AWS Error"):
        checkpoint.load(uri)
    bucket.proxy.heal()
    shutil.rmtree(weights)
    assert checkpoint.load(uri).config.layers == 1


def test_credentials_in_a_name_are_not_repeated() -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load("s3://KEY:SECRET@bucket/run")
    assert "SECRET@" not in str(caught.value)
