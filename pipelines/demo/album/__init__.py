"""The built-in album: invented multitrack songs, composed and rendered on the spot, in two layouts.

The layouts are MoisesDB's and MUSDB18-HQ's. It lets the demo and the tests run on real files before any data
set is downloaded.
"""

from pathlib import Path

from pipelines.demo.album.composer import Song, compose
from pipelines.demo.album.layouts import write_moisesdb_song, write_musdb_song
from pipelines.demo.album.moisesdb_styles import MOISESDB_STYLES
from pipelines.demo.album.musdb_styles import MUSDB_STYLES
from pipelines.demo.album.soundfont import SoundFont
from pipelines.demo.album.styles import Style
from pipelines.demo.album.synthesizer import default_soundfont

__all__ = ["MINIMUM_SECONDS", "plan_songs", "write_album"]

MINIMUM_SECONDS = 12.0


def plan_songs(styles: tuple[Style, ...], *, num_songs: int, seed: int, seconds: float) -> list[Song]:
    """Compose songs in the given styles by turns.

    Args:
        styles: the bands, each with its titles.
        num_songs: how many songs; beyond one for each title, titles are numbered.
        seed: from 0; another seed gives other music under the same titles.
        seconds: length of each song, about.
    """
    songs = []
    for index in range(num_songs):
        round_number, style_index = divmod(index, len(styles))
        style = styles[style_index]
        volume, title_index = divmod(round_number, len(style.titles))
        title = style.titles[title_index] + (f" {volume + 1}" if volume else "")
        song_seed = (seed, (MOISESDB_STYLES, MUSDB_STYLES).index(styles), index)
        songs.append(compose(style, seed=song_seed, title=title, seconds=seconds))
    return songs


def write_album(
    destination: Path,
    *,
    seed: int = 0,
    moisesdb_songs: int = 8,
    musdb_songs: tuple[int, int] = (3, 1),
    seconds: float = 24.0,
    soundfont: Path | None = None,
) -> list[Path]:
    """Write the album; songs that are already there are left as they are.

    The same arguments, package versions and SoundFont give the same bytes. A song's path does not tell with
    which arguments it was made: after changing one, write to an empty destination.

    Args:
        destination: gets `moisesdb/moisesdb_v0.1/<uuid>/` and `musdb18hq/{train,test}/<Artist - Title>/`.
        seed: from 0; another seed gives other music.
        moisesdb_songs: number of songs in MoisesDB's layout.
        musdb_songs: numbers of songs in MUSDB18-HQ's layout, train and test.
        seconds: length of each song, about; at least MINIMUM_SECONDS.
        soundfont: a SoundFont 2 file with the General MIDI programs; None for the one that pretty_midi ships.

    Returns:
        The songs' directories.

    Raises:
        ValueError: if an argument is out of range or the SoundFont cannot be read.
    """
    num_train, num_test = musdb_songs
    if seconds < MINIMUM_SECONDS:
        raise ValueError(
            f"seconds is {seconds}, a song needs at least {MINIMUM_SECONDS}; ask for longer songs"
        )
    if min(seed, moisesdb_songs, num_train, num_test) < 0:
        raise ValueError(
            f"seed {seed}, moisesdb_songs {moisesdb_songs} and musdb_songs {musdb_songs} must be 0 or more"
        )
    recordings = SoundFont(default_soundfont() if soundfont is None else soundfont)
    moisesdb = plan_songs(MOISESDB_STYLES, num_songs=moisesdb_songs, seed=seed, seconds=seconds)
    musdb = plan_songs(MUSDB_STYLES, num_songs=num_train + num_test, seed=seed, seconds=seconds)
    songs_directory = destination / "moisesdb" / "moisesdb_v0.1"
    paths = [write_moisesdb_song(song, recordings, songs_directory) for song in moisesdb]
    for index, song in enumerate(musdb):
        subset = "train" if index < num_train else "test"
        paths.append(write_musdb_song(song, recordings, destination / "musdb18hq" / subset))
    return paths
