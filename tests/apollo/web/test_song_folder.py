"""Songs that somebody removes while others look at them."""

import threading
from pathlib import Path

import pytest

from apollo.web.application import describe_songs
from apollo.web.song_folder import SongFolder, SongGoneError, SongStore


@pytest.fixture
def songs(tmp_path: Path) -> SongStore:
    return SongStore(tmp_path)


def add(songs: SongStore) -> SongFolder:
    song, upload = songs.create("session", "song.wav")
    upload.write_bytes(b"x")
    song.complete(name="song.wav")
    song.write_job("parts", "waiting")
    return song


def look_at(songs: SongStore) -> None:
    """Do all that one visitor's requests do with the songs of others."""
    song, _ = songs.create("session", "song.wav")
    assert songs.make_room(song, 1, 1 << 40)
    song.remove()
    songs.clean(60.0)
    describe_songs(songs, songs.of_session("session"))


def test_songs_may_be_removed_while_all_are_looked_at(songs: SongStore) -> None:
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            add(songs).remove()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            look_at(songs)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_removed_song_has_no_upload(songs: SongStore) -> None:
    song = add(songs)
    assert song.upload.read_bytes() == b"x"
    song.remove()
    with pytest.raises(SongGoneError):
        _ = song.upload


def test_a_song_is_kept_while_it_is_in_the_queue_whatever_its_state_says(songs: SongStore) -> None:
    waiting, abandoned = add(songs), add(songs)
    songs.enqueue(waiting, "parts")
    songs.clean(-1.0)
    assert waiting.exists
    assert not abandoned.path.exists()
    following, _ = songs.create("session", "song.wav")
    assert not songs.make_room(following, 1, 1)
    assert waiting.exists
    songs.dequeue(waiting.id)
    assert songs.make_room(following, 1, 1)
    assert not waiting.path.exists()


def test_room_that_is_reserved_is_not_given_to_others(songs: SongStore) -> None:
    uploaded, other = (songs.create("session", "song.wav")[0] for _ in range(2))
    assert songs.make_room(uploaded, 6_000, 10_000)
    assert not songs.make_room(other, 6_000, 10_000)  # the first one is being uploaded
    uploaded.complete(name="song.wav")
    assert not songs.make_room(other, 6_000, 10_000)  # it is inspected
    songs.enqueue(uploaded, "parts")
    assert songs.make_room(uploaded, 3_000, 10_000)  # for a download
    assert not songs.make_room(other, 2_000, 10_000)
    songs.dequeue(uploaded.id)
    assert songs.make_room(other, 6_000, 10_000)  # the song itself is small
    assert uploaded.exists
