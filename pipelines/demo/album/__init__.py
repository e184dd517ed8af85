"""The built-in album: generated multitrack songs in the layouts of MoisesDB and MUSDB18-HQ.

It lets the demo and the tests run on real files before any data set is downloaded. It is no training
material: its sounds are sums of harmonics and shaped noise.
"""

import logging
from pathlib import Path

from pipelines.demo.album.composer import Song, compose
from pipelines.demo.album.layouts import write_moisesdb_song, write_musdb_song
from pipelines.demo.album.styles import STYLES

__all__ = ["MINIMUM_SECONDS", "MOISESDB", "MUSDB", "album_folders", "plan_songs", "write_album"]

logger = logging.getLogger(__name__)

MINIMUM_SECONDS = 12.0
MOISESDB, MUSDB = (0, 1), (2,)  # which artists of every style record in which layout


def plan_songs(artists: tuple[int, ...], *, num_songs: int, seed: int, seconds: float) -> list[Song]:
    """Compose songs in all styles by turns.

    Args:
        artists: Indices of the artists of every style: MOISESDB or MUSDB.
        num_songs: Number of songs; beyond one an artist, titles are numbered.
        seed: From 0; another seed gives other music under the same titles.
        seconds: Approximate length of each song.
    """
    songs = []
    for index in range(num_songs):
        volume, place = divmod(index, len(artists) * len(STYLES))
        turn, style = divmod(place, len(STYLES))
        artist, title = STYLES[style].artists[artists[turn]]
        title += f" {volume + 1}" if volume else ""
        song_seed = (seed, artists[turn], index)
        songs.append(compose(STYLES[style], seed=song_seed, artist=artist, title=title, seconds=seconds))
    return songs


def write_album(
    destination: Path,
    *,
    seed: int = 0,
    moisesdb_songs: int = 8,
    musdb_songs: tuple[int, int] = (3, 1),
    seconds: float = 24.0,
) -> list[Path]:
    """Write the album; songs that exist already are left as they are.

    The same arguments and package versions give the same bytes. A song's path does not depend on `seconds`:
    after changing it, write to an empty destination.

    Args:
        destination: Gets `moisesdb/moisesdb_v0.1/<uuid>/` and `musdb18hq/{train,test}/<Artist - Title>/`.
        seed: From 0; another seed gives other music.
        moisesdb_songs: Number of songs in MoisesDB's layout.
        musdb_songs: Numbers of songs in MUSDB18-HQ's layout, train and test.
        seconds: Approximate length of each song; at least MINIMUM_SECONDS.

    Returns:
        The songs' folders.

    Raises:
        ValueError: an argument is out of range.
    """
    num_train, num_test = musdb_songs
    if seconds < MINIMUM_SECONDS:
        raise ValueError(f"seconds is {seconds}: a song needs at least {MINIMUM_SECONDS}")
    if min(seed, moisesdb_songs, num_train, num_test) < 0:
        raise ValueError(
            f"seed {seed}, moisesdb_songs {moisesdb_songs} and musdb_songs {musdb_songs} must be 0 or more"
        )
    folder = destination / "moisesdb" / "moisesdb_v0.1"
    songs = plan_songs(MOISESDB, num_songs=moisesdb_songs, seed=seed, seconds=seconds)
    paths = [write_moisesdb_song(song, folder) for song in songs]
    songs = plan_songs(MUSDB, num_songs=num_train + num_test, seed=seed, seconds=seconds)
    for index, song in enumerate(songs):
        subset = "train" if index < num_train else "test"
        paths.append(write_musdb_song(song, destination / "musdb18hq" / subset))
    return paths


def album_folders(destination: Path) -> list[str]:
    """Write the album where it does not exist yet and return its folders, one a layout."""
    logger.info(f"built-in album: 12 generated songs in {destination}")
    write_album(destination)
    return [str(destination / layout) for layout in ("musdb18hq", "moisesdb")]
