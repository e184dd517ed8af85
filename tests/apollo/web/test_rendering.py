"""Jobs without a server: models without noise, songs that cannot be restored, and removed ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import apollo
from apollo.web.jobs import PARTS
from apollo.web.rendering import Renderer
from apollo.web.settings import ModelOptions
from apollo.web.song_folder import SongFolder, SongStore
from tests.support.datasets import music, write


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A renderer with a small network that adds no noise and changes nothing."""
    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1, output="correction"))
    checkpoint = apollo.save(generator, tmp_path_factory.mktemp("checkpoint") / "model")
    return Renderer(ModelOptions(checkpoint=str(checkpoint)), 10.0)


def add_song(folder: Path, seconds: float) -> tuple[SongStore, SongFolder]:
    store = SongStore(folder)
    song, path = store.create("session", "song.wav")
    write(path, music(1, seconds, channels=1))
    song.complete(name="song.wav", bytes=path.stat().st_size, inspection={})
    store.enqueue(song, PARTS)
    return store, song


def test_a_model_without_noise_has_no_noise_part_and_no_strength(renderer: Renderer, tmp_path: Path) -> None:
    assert renderer.describe() | {"has_noise": False, "strength": None} == renderer.describe()
    _, song = add_song(tmp_path, 9.0)
    renderer.run(str(song.path), PARTS)
    made = song.read_job(PARTS)
    assert (made["status"], made["parts"], made["pieces"]) == ("ready", ["before", "deterministic"], 3)
    assert made["output_gains"] == [1.0]
    for number in range(3):
        before, after = (soundfile.read(song.piece(part, number))[0] for part in made["parts"])
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_song_beyond_the_limit_has_failed(renderer: Renderer, tmp_path: Path) -> None:
    _, song = add_song(tmp_path, 12.0)
    for job in (PARTS, "flac24-default"):
        renderer.run(str(song.path), job)
        assert song.read_job(job) == {"status": "failed", "reason": "longer than 10 s", "kind": "too_long"}
    assert not list((song.path / "results").iterdir())


def test_a_song_that_cannot_be_read_has_failed_with_the_reason(renderer: Renderer, tmp_path: Path) -> None:
    _, song = add_song(tmp_path, 1.0)
    song.upload.write_bytes(b"nothing")
    for job in (PARTS, "flac24-default"):
        renderer.run(str(song.path), job)
        assert "no audio" in song.read_job(job)["reason"]


@pytest.mark.parametrize("job", [PARTS, "flac24-default"])
def test_nothing_is_left_of_a_song_that_is_removed_meanwhile(
    renderer: Renderer, tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, song = add_song(tmp_path, 5.0)
    write_job, calls = SongFolder.write_job, []

    def remove_later(self: SongFolder, *arguments: object, **facts: object) -> None:
        write_job(self, *arguments, **facts)  # type: ignore[arg-type]
        calls.append(facts)
        if len(calls) == 2:
            store.remove(song)

    monkeypatch.setattr(SongFolder, "write_job", remove_later)
    renderer.run(str(song.path), job)
    assert len(calls) == 2
    assert not song.path.exists()
    assert store.queue() == []


def test_a_worker_without_a_song_does_nothing(renderer: Renderer, tmp_path: Path) -> None:
    renderer.run(str(tmp_path / ("0" * 48)), PARTS)
    assert not list(tmp_path.iterdir())
