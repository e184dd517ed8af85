"""Songs through HTTP: what is heard and downloaded is what `apollo restore` writes."""

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.web.song_folder import SongStore
from apollo.web.worker import LocalWorker
from tests.support.datasets import encode, music, write
from tests.support.web_server import Client

Restore = Callable[..., bytes]
ROUNDING = 2.0**-19  # of two parts of 24 bit at an eighth of the level, the second times 1.5


@pytest.fixture
def client(port: int) -> Client:
    return Client(port)


def read_part(client: Client, song: Any, part: str) -> NDArray[np.float32]:
    """Return all pieces of a part, at its level."""
    pieces = []
    for number in range(song["listening"]["pieces"]):
        answer = client.ask("GET", f"/api/songs/{song['id']}/parts/{part}/{number}")
        assert answer.headers["content-type"] == "audio/flac"
        pieces.append(soundfile.read(io.BytesIO(answer.body), dtype="float32", always_2d=True)[0])
    assert {len(piece) for piece in pieces[:-1]} <= {song["listening"]["piece_samples"]}
    whole: NDArray[np.float32] = song["listening"]["gain"] * np.concatenate(pieces)
    return whole


@pytest.mark.parametrize(
    "choice, options",
    [
        ({"format": "flac", "strength": 0.8}, ["--format", "flac24", "--strength", "0.8"]),
        ({"format": "mp3"}, ["--format", "mp3"]),
        ({"format": "opus", "strength": 0}, ["--format", "opus", "--strength", "0"]),
        ({"format": "wav16", "strength": 1.5}, ["--format", "wav16", "--strength", "1.5"]),
    ],
)
def test_a_download_has_the_bytes_of_apollo_restore(
    client: Client, song: Path, tmp_path: Path, restore: Restore, choice: dict[str, Any], options: list[str]
) -> None:
    added = client.upload("song.mp3", song.read_bytes())
    assert added.status == 201
    assert added.json["inspection"]["verdict"] == "lossy"
    assert client.result(added.json["id"], **choice) == restore(song, tmp_path / "out", *options)


def test_parts_mixed_at_a_strength_are_the_restored_song(
    client: Client, song: Path, tmp_path: Path, restore: Restore
) -> None:
    added = client.upload("song.mp3", song.read_bytes()).json
    ready = client.finish(added["id"])
    before, deterministic, noise = (
        read_part(client, ready, part) for part in ("before", "deterministic", "noise")
    )
    assert len(before) == ready["listening"]["samples"] == len(deterministic) == len(noise)
    decoded, _ = soundfile.read(encode(song, tmp_path / "in.wav", "-c:a", "pcm_f32le"), dtype="float32")
    np.testing.assert_allclose(before[: len(decoded)], decoded, atol=ROUNDING)
    for number, strength in enumerate((0.0, 0.5, 1.5)):
        options = ("--strength", str(strength), "--format", "float")
        restored = restore(song, tmp_path / f"out{number}", *options)
        expected, _ = soundfile.read(io.BytesIO(restored), dtype="float32")
        np.testing.assert_allclose(deterministic + strength * noise, expected, atol=ROUNDING)


def test_a_song_beyond_full_scale_is_heard_at_the_gain_of_its_file(
    client: Client, tmp_path: Path, restore: Restore
) -> None:
    samples = music(2, 1.0)
    loud = write(tmp_path / "loud.wav", samples / np.abs(samples).max() * 1.4, subtype="FLOAT")
    ready = client.finish(client.upload("loud.wav", loud.read_bytes()).json["id"])
    gains = ready["listening"]["output_gains"]
    assert len(gains) == 31 and max(gains) < 0.9
    mixed = read_part(client, ready, "deterministic") + 0.5 * read_part(client, ready, "noise")
    restored = restore(loud, tmp_path / "out", "--strength", "0.5")
    expected, _ = soundfile.read(io.BytesIO(restored), dtype="float32")
    np.testing.assert_allclose(gains[10] * mixed, expected, atol=ROUNDING)


def test_six_channels_are_heard_as_one_and_downloaded_as_six(client: Client, tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.wav", music(3, 1.0, channels=6))
    added = client.upload("wide.wav", wide.read_bytes()).json
    ready = client.finish(added["id"])
    assert read_part(client, ready, "before").shape == (44_100, 1)
    content = client.result(added["id"], format="flac24")
    assert soundfile.info(io.BytesIO(content)).channels == 6
    path = f"/api/songs/{added['id']}/results?format=mp3"
    client.ask("POST", path)
    (_, failed) = client.finish(added["id"])["results"]
    assert "cannot hold 6 channels" in failed["reason"]
    assert client.ask("GET", path).status == 404


def test_one_request_restores_a_song_and_leaves_nothing(
    client: Client, store: SongStore, song: Path, tmp_path: Path, restore: Restore
) -> None:
    before = {path.name for path in (store.root / "songs").iterdir()}
    path = "/api/restore?format=flac24&strength=0.3&name=My%20song.mp3"
    answer = client.ask("POST", path, song.read_bytes())
    assert answer.status == 200
    options = ("--strength", "0.3", "--format", "flac24")
    assert answer.body == restore(song, tmp_path / "out", *options)
    assert "My%20song.flac" in answer.headers["content-disposition"]
    end = time.monotonic() + 10
    while {path.name for path in (store.root / "songs").iterdir()} != before:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert client.ask("POST", path, b"no audio").status == 415
    assert {path.name for path in (store.root / "songs").iterdir()} == before


def test_pictures_are_those_of_before_and_after(client: Client, song: Path) -> None:
    added = client.finish(client.upload("song.mp3", song.read_bytes()).json["id"])
    pictures = [
        client.ask("GET", f"/api/songs/{added['id']}/spectrograms/{part}") for part in ("before", "after")
    ]
    assert all(picture.body.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0].body != pictures[1].body


def test_a_removed_song_is_cancelled_within_a_chunk(
    client: Client, store: SongStore, song: Path, tmp_path: Path
) -> None:
    long = write(tmp_path / "long.wav", np.tile(music(4, 5.0, channels=1), (40, 1)))
    added = client.upload("long.wav", long.read_bytes()).json
    client.until(added["id"], lambda one: one["listening"].get("seconds", 0) > 1)
    waiting = client.upload("song.mp3", song.read_bytes()).json
    assert (
        client.song(waiting["id"])["listening"] | {"position": 1, "status": "waiting"}
        == (client.song(waiting["id"])["listening"])
    )
    assert client.ask("DELETE", f"/api/songs/{added['id']}").status == 204
    began = time.monotonic()
    assert client.finish(waiting["id"])["listening"]["status"] == "ready"
    assert time.monotonic() - began < 5
    assert not (store.root / "songs" / added["id"]).exists()
    assert client.ask("GET", f"/api/songs/{added['id']}").status == 404


def test_a_song_that_kills_its_process_has_failed_and_the_next_is_restored(
    client: Client, worker: LocalWorker, song: Path, tmp_path: Path
) -> None:
    long = write(tmp_path / "long.wav", np.tile(music(5, 5.0, channels=1), (40, 1)))
    added = client.upload("long.wav", long.read_bytes()).json
    client.until(added["id"], lambda one: one["listening"]["status"] == "working")
    process = worker._renderer._process
    assert process is not None and process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    failed = client.finish(added["id"])["listening"]
    assert failed["status"] == "failed"
    assert "killed" in failed["reason"]
    following = client.upload("song.mp3", song.read_bytes()).json
    assert client.finish(following["id"])["listening"]["status"] == "ready"


def test_a_visitor_sees_only_the_own_songs(port: int, song: Path) -> None:
    one, other = Client(port), Client(port)
    added = one.upload("song.mp3", song.read_bytes()).json
    other.upload("other.mp3", song.read_bytes())
    assert [found["name"] for found in one.ask("GET", "/api/songs").json] == ["song.mp3"]
    assert [found["name"] for found in other.ask("GET", "/api/songs").json] == ["other.mp3"]
    assert Client(port).ask("GET", "/api/songs").json == []
    assert len(added["id"]) == 48
