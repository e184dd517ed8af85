"""One server for all tests of a process, and the command that its songs are compared with."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apollo.__main__ import main
from apollo.cli.options import load_generator
from apollo.web.application import create_application
from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import SongStore
from apollo.web.worker import LocalWorker
from tests.support.datasets import encode, music, write
from tests.support.web_server import serve

SECONDS = 4.5  # a whole piece and the beginning of another


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> SongStore:
    return SongStore(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="session")
def worker(store: SongStore) -> Iterator[LocalWorker]:
    worker = LocalWorker(store, ModelOptions(), WebSettings())
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def port(store: SongStore, worker: LocalWorker) -> Iterator[int]:
    with serve(create_application(store, worker, WebSettings(max_seconds=300.0))) as port:
        yield port


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("song")
    samples = write(folder / "song.wav", music(1, SECONDS))
    return encode(samples, folder / "song.mp3", "-b:a", "64k", "-metadata", "title=Tïtle")


@pytest.fixture(scope="session")
def restore() -> Callable[..., bytes]:
    """Return what restores a song with the command, and returns the result; the model is loaded once."""
    loaded = load_generator(
        argparse.Namespace(checkpoint="compact", device="auto", precision="auto", backend="auto")
    )

    def run(song: Path, folder: Path, *options: str) -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("apollo.cli.restore.load_generator", lambda _: loaded)
            assert main(["restore", str(song), "-o", str(folder), "--force", *options]) == 0
        (result,) = folder.iterdir()
        return result.read_bytes()

    return run
