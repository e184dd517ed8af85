"""The built-in album: generated multitrack songs in the layouts of MoisesDB and MUSDB18-HQ.

It lets the demo and the tests run on real files before any data set is downloaded. It is no training
material: its sounds are sums of harmonics and shaped noise.
"""

import logging
from itertools import product
from pathlib import Path

from pipelines.demo.album.composer import Song, compose
from pipelines.demo.album.layouts import write_moisesdb_song, write_musdb_song
from pipelines.demo.album.styles import STYLES

__all__ = ["MOISESDB", "MUSDB", "album_folders", "compose_songs", "write_album"]

logger = logging.getLogger(__name__)

MOISESDB, MUSDB = (0, 1), (2,)  # which artists of every style record in which layout


def compose_songs(artists: tuple[int, ...], *, seed: int = 0, seconds: float = 24.0) -> list[Song]:
    """Compose a song of about the given length by each of some artists of every style, by turns."""
    turns = enumerate(product(artists, STYLES))
    return [
        compose(style, (seed, artist, index), *style.artists[artist], seconds=seconds)
        for index, (artist, style) in turns
    ]


def write_album(
    destination: Path, *, seed: int = 0, songs: tuple[int, int, int] = (8, 3, 1), seconds: float = 24.0
) -> list[Path]:
    """Write the album; songs that exist already are left as they are.

    The same arguments and package versions give the same bytes. A song's path does not depend on `seconds`:
    after changing it, write to an empty destination.

    Args:
        destination: Gets `moisesdb/moisesdb_v0.1/<uuid>/` and `musdb18hq/{train,test}/<Artist - Title>/`.
        seed: From 0; another seed gives other music under the same titles.
        songs: Numbers of songs in MoisesDB's layout, and in MUSDB18-HQ's to train and to test.
        seconds: Approximate length of each song, 12 or more.

    Returns:
        The songs' folders.
    """
    num_moisesdb, num_train, num_test = songs
    folder = destination / "moisesdb" / "moisesdb_v0.1"
    moisesdb = compose_songs(MOISESDB, seed=seed, seconds=seconds)[:num_moisesdb]
    musdb = compose_songs(MUSDB, seed=seed, seconds=seconds)[: num_train + num_test]
    paths = [write_moisesdb_song(song, folder) for song in moisesdb]
    for index, song in enumerate(musdb):
        subset = "train" if index < num_train else "test"
        paths.append(write_musdb_song(song, destination / "musdb18hq" / subset))
    return paths


def album_folders(destination: Path) -> list[str]:
    """Write the album where it does not exist yet and return its folders, one a layout."""
    logger.info(f"built-in album: 12 generated songs in {destination}")
    write_album(destination)
    return [str(destination / layout) for layout in ("musdb18hq", "moisesdb")]
