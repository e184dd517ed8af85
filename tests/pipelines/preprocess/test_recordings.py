"""Layouts: parts of one recording stay together, sums are no stems, folders named after splits keep them."""

from pathlib import Path

import pytest

from pipelines.errors import UsageError
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.songs import DiscoveryResult, Song
from pipelines.preprocess.stem_names import SUM, guess_stem
from pipelines.schema import MIXTURE

STEMS = ("vocals", "bass", "drums", "other")


def _touch(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _find(*roots: Path) -> DiscoveryResult:
    return find_songs([str(root) for root in roots])


def _by_id(*roots: Path) -> dict[str, Song]:
    return {song.song_id: song for song in _find(*roots).songs}


def _names(song: Song) -> dict[str, list[str]]:
    return {stem: [Path(file.name).name for file in files] for stem, files in song.sources.items()}


# MUSDB18 in other forms


@pytest.mark.parametrize("extension", ["flac", "WAV", "FLAC", "aiff", "m4a"])
@pytest.mark.parametrize("train, test", [("train", "test"), ("Train", "Test")])
def test_musdb_is_recognised_by_names_whatever_the_format(
    tmp_path: Path, extension: str, train: str, test: str
) -> None:
    for folder in (f"{train}/A - One", f"{test}/B - Two", f"{train}/Meaxic - Take A Step"):
        _touch(tmp_path, *[f"{folder}/{stem}.{extension}" for stem in (*STEMS, MIXTURE)])
    songs = _by_id(tmp_path)
    assert {name: song.split for name, song in songs.items()} == {
        "musdb18hq/A - One": "train",
        "musdb18hq/B - Two": "test",
        "musdb18hq/Meaxic - Take A Step": "valid",
    }
    assert all(set(song.sources) == {*STEMS, MIXTURE} for song in songs.values())


def test_musdb_stem_in_two_formats_is_read_once_uncompressed_first(tmp_path: Path) -> None:
    _touch(tmp_path, *[f"test/A - One/{stem}.{e}" for stem in STEMS for e in ("flac", "mp3", "wav")])
    _touch(tmp_path, *[f"test/A - Two/{stem}.{e}" for stem in STEMS for e in ("flac", "aac")])
    songs = _by_id(tmp_path)
    assert _names(songs["musdb18hq/A - One"]) == {stem: [f"{stem}.wav"] for stem in STEMS}
    assert _names(songs["musdb18hq/A - Two"]) == {stem: [f"{stem}.flac"] for stem in STEMS}


def test_other_audio_in_a_musdb_song_is_part_of_its_recording(tmp_path: Path) -> None:
    _touch(tmp_path, *[f"test/A - One/{stem}.wav" for stem in STEMS], "test/A - One/raw/take.wav")
    assert len({song.recording for song in _find(tmp_path).songs} - {""}) == 1


@pytest.mark.parametrize("below", ["", "train"])
def test_stem_files_of_musdb18_are_five_streams_with_its_splits(tmp_path: Path, below: str) -> None:
    names = ["train/A - One.stem.mp4", "train/Leaf - Summerghost.stem.mp4", "test/B - Two.STEM.mp4"]
    _touch(tmp_path, *names)
    songs = {song.song_id: song for song in find_songs([str(tmp_path / below)]).songs}
    splits = {"musdb18/A - One": "train", "musdb18/Leaf - Summerghost": "valid", "musdb18/B - Two": "test"}
    if below:
        del splits["musdb18/B - Two"]
    assert {name: song.split for name, song in songs.items()} == splits
    streams = {stem: file.stream for stem, (file,) in songs["musdb18/A - One"].sources.items()}
    assert streams == {"mixture": 0, "drums": 1, "bass": 2, "other": 3, "vocals": 4}
    assert Song.from_json(songs["musdb18/A - One"].to_json()) == songs["musdb18/A - One"]


def test_other_stem_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    _touch(tmp_path, "sets/A - One.stem.mp4", "sets/B - Two.stem.m4a", "songs/C - Three.flac")
    discovered = _find(tmp_path)
    assert [song.title for song in discovered.songs] == ["Three"]
    assert [name for name, *_ in discovered.rejects] == ["sets/A - One.stem.mp4", "sets/B - Two.stem.m4a"]
    discovered.songs.clear()
    with pytest.raises(UsageError, match=r"2 rejects, the first: sets/A - One.* a file for each stem"):
        discovered.check_songs()


# folders named after splits


@pytest.mark.parametrize(
    "names",
    [
        ("train", "validation", "test"),
        ("Training", "val", "Testing"),
        ("Training Set", "Development Set", "Test Set"),
        ("train_data", "dev-set", "eval"),
        ("trainset", "validset", "Evaluation"),
        ("TRAIN", "VAL", "held-out"),
    ],
)
def test_songs_in_folders_named_after_splits_keep_them_with_a_remark(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for number, name in enumerate(names):
        _touch(tmp_path, f"set/{name}/deep/Song {number}.flac", f"set/{name}/S{number}/guitar.wav")
        _touch(tmp_path, f"set/{name}/S{number}/piano.wav")
    discovered = _find(tmp_path)
    splits = {song.title: song.split for song in discovered.songs}
    for number, split in enumerate(("train", "valid", "test")):
        assert (splits[f"Song {number}"], splits[f"S{number}"]) == (split, split)
    assert discovered.remarks == [
        f"{tmp_path}/set: 6 songs below folders named after splits keep these splits"
    ]


def test_dev_beside_test_alone_is_train(tmp_path: Path) -> None:
    """As in DSD100."""
    _touch(tmp_path, *[f"{kind}/{s}/{s} song/guitar.wav" for kind in ("A", "B") for s in ("Dev", "Test")])
    assert {song.title: song.split for song in _find(tmp_path).songs} == {
        "Dev song": "train",
        "Test song": "test",
    }


def test_folders_and_files_beside_those_of_splits_get_a_remark(tmp_path: Path) -> None:
    _touch(tmp_path, "set/train/One.flac", "set/test/Two.flac", "set/extra/deep/Three.flac", "set/Four.flac")
    discovered = _find(tmp_path)
    splits = {song.title: song.split for song in discovered.songs}
    assert splits == {"One": "train", "Two": "test", "Three": None, "Four": None}
    beside = "its 1 songs may be in any split: they are beside folders named after splits"
    assert discovered.remarks == [
        f"{tmp_path}/set: 2 songs below folders named after splits keep these splits",
        f"{tmp_path}/set: {beside}",
        f"{tmp_path}/set/extra: {beside}",
    ]


def test_roots_named_after_splits_keep_them(tmp_path: Path) -> None:
    _touch(tmp_path, "train/One.flac", "test/Two.flac")
    songs = _find(tmp_path / "train", tmp_path / "test").songs
    assert {song.title: song.split for song in songs} == {"One": "train", "Two": "test"}


def test_a_single_folder_named_after_a_split_is_a_folder_like_others(tmp_path: Path) -> None:
    _touch(tmp_path, "train/One.flac", "other/test/Two.flac")
    discovered = _find(tmp_path)
    assert {song.split for song in discovered.songs} == {None}
    assert discovered.remarks == [
        f"{tmp_path}/other/test: its songs may be in any split: no folder of another split is beside it"
    ]


# a folder for each stem


def test_many_files_in_a_stems_folder_below_the_root_are_songs_of_that_class(tmp_path: Path) -> None:
    files = [f"{stem}/{stem}_{number}.wav" for stem in STEMS for number in range(1, 5)]
    _touch(tmp_path / "set", *files)
    discovered = _find(tmp_path / "set")
    assert [(song.song_id, _names(song)) for song in discovered.songs] == [
        (f"set/{file[:-4]}", {file.partition("/")[0]: [file.rpartition("/")[2]]}) for file in sorted(files)
    ]
    assert not any(song.complete for song in discovered.songs)  # a stem is not the song
    assert len({song.recording for song in discovered.songs}) == 16
    assert discovered.remarks == [
        f"{tmp_path}/set: each file of its folders bass, drums, other, vocals is a song of its own"
    ]


def test_folders_for_stems_below_train_and_test_are_collections_too(tmp_path: Path) -> None:
    _touch(
        tmp_path, *[f"{split}/{stem}/{n}.wav" for split in ("train", "test") for stem in STEMS for n in "12"]
    )
    songs = _find(tmp_path).songs
    assert len(songs) == 16
    assert {song.split for song in songs} == {"train", "test"}


@pytest.mark.parametrize("above", ["stems", "data/set", "train/stems"])
@pytest.mark.parametrize("name", ["{stem}_{n}", "{n}", "Artist {n} - Title {n}"])
def test_folders_for_stems_at_one_place_are_a_collection_at_any_depth(
    tmp_path: Path, above: str, name: str
) -> None:
    for stem in STEMS:
        _touch(tmp_path, *[f"{above}/{stem}/{name.format(stem=stem, n=n)}.wav" for n in "123"])
    discovered = _find(tmp_path)
    assert len(discovered.songs) == 12
    assert all(len(files) == 1 for song in discovered.songs for files in song.sources.values())
    assert len({song.recording for song in discovered.songs}) == (12 if "stem" in name else 3)
    assert (
        f"{tmp_path}/{above}: each file of its folders bass, drums, other, vocals is a song of its own"
        in (discovered.remarks)
    )


def test_folders_for_stems_at_several_places_are_collections_if_titles_are_the_same(tmp_path: Path) -> None:
    for place in ("one", "two"):
        _touch(tmp_path, *[f"{place}/{s}/{t} of {place}.wav" for s in STEMS for t in ("A", "B", "C")])
    songs = _find(tmp_path).songs
    assert len(songs) == 24
    assert len({song.recording for song in songs}) == 6


def test_numbered_takes_in_folders_of_several_songs_are_summed_with_a_remark(tmp_path: Path) -> None:
    for song in ("One", "Two"):
        _touch(tmp_path, *[f"set/{song}/{s}/{s}_{n}.wav" for s in ("drums", "bass") for n in "12"])
    discovered = _find(tmp_path / "set")
    assert [song.song_id for song in discovered.songs] == ["set/One", "set/Two"]
    assert discovered.remarks == [
        "4 stems are the sum of files that may be of different songs by name: "
        "set/One/bass (bass_1.wav + bass_2.wav …)"
    ]


def test_takes_are_summed_without_a_remark(tmp_path: Path) -> None:
    parts = ("Kick In", "Kick Out", "Snare Top", "Gtr L", "Gtr R", "Lead Vox", "Backing Vox", "Bass")
    for song in ("One", "Two"):
        _touch(tmp_path, *[f"set/{song}/{part}.wav" for part in parts])
        _touch(tmp_path, *[f"set/{song} deep/drums/{part}.wav" for part in ("kick", "take 2")])
        _touch(tmp_path, f"set/{song} deep/vocals/a.wav")
    discovered = _find(tmp_path / "set")
    assert [song.song_id for song in discovered.songs] == [
        f"set/{name}" for name in ("One", "One deep", "Two", "Two deep")
    ]
    assert [remark for remark in discovered.remarks if "Kick" in remark] == []


# files named after song and stem in one folder


@pytest.mark.parametrize("folder", ["", "deep/er/"])
@pytest.mark.parametrize(
    "pattern",
    [
        "{song} - {stem}",
        "{song}_{stem}",
        "1_{song}_({stem})",
        "{stem} - {song}",
        "Some Artist With A Long Name - {song} - {stem}",
    ],
)
def test_files_named_after_song_and_stem_are_the_stems_of_these_songs(
    tmp_path: Path, folder: str, pattern: str
) -> None:
    titles = ("Song A", "Say No", "曲")
    names = [pattern.format(song=title, stem=stem) for title in titles for stem in STEMS]
    _touch(tmp_path / "set", *[f"{folder}{name}.wav" for name in names])
    discovered = _find(tmp_path / "set")
    assert {song.title for song in discovered.songs} == {
        pattern.format(song=title, stem="").rpartition("Long Name - ")[2].strip(" -_()") for title in titles
    }
    for song in discovered.songs:
        assert {stem: len(files) for stem, files in song.sources.items()} == dict.fromkeys(STEMS, 1)
        assert song.recording == f"{tmp_path}/{song.song_id}"
    place = f"{tmp_path}/set/{folder}".rstrip("/")
    assert discovered.remarks == [f"{place}: its files are the stems of 3 songs, by their names"]


def test_pairs_of_vocals_and_the_rest_in_one_folder_are_songs(tmp_path: Path) -> None:
    """As separators write them."""
    kinds = ("Vocals", "Instrumental")
    _touch(tmp_path / "set", *[f"{n}_Song {n}_({kind}).wav" for n in "123" for kind in kinds])
    songs = _find(tmp_path / "set").songs
    assert [(song.song_id, _names(song), song.complete) for song in songs] == [
        (f"set/{n}_Song {n}", {"vocals": [f"{n}_Song {n}_(Vocals).wav"]}, False) for n in "123"
    ]


def test_mixes_and_songs_beside_files_named_after_song_and_stem(tmp_path: Path) -> None:
    _touch(tmp_path / "set", *[f"Song {n} - {stem}.wav" for n in "AB" for stem in STEMS])
    _touch(tmp_path / "set", "Song A.wav", "Song B (mix).wav", "Song C.wav", "Song D - vocals.wav")
    songs = _by_id(tmp_path / "set")
    assert {name: set(song.sources) for name, song in songs.items()} == {
        "set/Song A": {*STEMS, MIXTURE},
        "set/Song B": {*STEMS, MIXTURE},
        "set/Song C": {MIXTURE},
        "set/Song D - vocals": {"vocals"},
    }


@pytest.mark.parametrize(
    "numbers, songs",
    [("12", ["set"]), ("123", ["set/1", "set/2", "set/3"])],
    ids=["takes", "songs"],
)
def test_files_named_after_a_stem_and_a_number_are_songs_from_three_on(
    tmp_path: Path, numbers: str, songs: list[str]
) -> None:
    _touch(tmp_path / "set", *[f"{stem}_{n}.wav" for stem in ("vocals", "bass") for n in numbers])
    discovered = _find(tmp_path / "set")
    assert [song.song_id for song in discovered.songs] == songs
    assert len(discovered.remarks) == 1


def test_numbered_takes_of_songs_in_folders_of_their_own_stay_together(tmp_path: Path) -> None:
    for song in ("One", "Two"):
        _touch(tmp_path, *[f"set/{song}/{stem} {n}.wav" for stem in ("vocals", "bass") for n in "123"])
    assert [song.song_id for song in _find(tmp_path / "set").songs] == ["set/One", "set/Two"]


def test_files_of_one_name_in_a_collection_are_one_recording(tmp_path: Path) -> None:
    _touch(tmp_path, *[f"{stem}/{name}.wav" for stem in ("vocals", "instrumental") for name in ("A", "B")])
    recordings = {(song.title, song.recording) for song in _find(tmp_path).songs}
    assert sorted(title for title, _ in recordings) == ["A", "B"]


def test_a_root_that_is_one_song_keeps_its_takes_together(tmp_path: Path) -> None:
    _touch(tmp_path, "drums/kick.wav", "drums/snare.wav", "vocals/vocals.wav", "bass/bass.wav")
    (song,) = _find(tmp_path).songs
    assert _names(song)["drums"] == ["kick.wav", "snare.wav"]


# names of sums


@pytest.mark.parametrize(
    "name, stem",
    [
        ("no_vocals", SUM),
        ("minus-drums", SUM),
        ("without bass", SUM),
        ("Mix minus vocals", SUM),
        ("minus one", SUM),
        ("Instrumental", SUM),
        ("instrumental mix", SUM),
        ("Instrumental (with backing vocals)", SUM),
        ("karaoke", SUM),
        ("accompaniment", SUM),
        ("Backing Track", SUM),
        ("backing vocals", "vocals"),
        ("vocals no fx", "vocals"),
        ("No. 5 Bass", "bass"),
        ("acapella", "vocals"),
        ("a cappella", "vocals"),
        ("no", None),
        ("non-vocals", SUM),
        ("novocals", SUM),
        ("nodrums 2", SUM),
        ("no lead vocal", SUM),
        ("vocals removed", SUM),
        ("Drums removed", SUM),
        ("vocals off", SUM),
        ("drums off axis", "drums"),
        ("kick out", "drums"),
        ("w/o vocals", SUM),
        ("w_o vocals", SUM),
        ("everything but vocals", SUM),
        ("One (everything but the vocals)", SUM),
        ("all except drums", SUM),
        ("Inst", SUM),
        ("One (Instr.)", SUM),
        ("Inst 1", None),
        ("inst guitar", "guitar"),
        ("vocalless", SUM),
        ("Two Guitars - Off", "guitar"),
        ("Say No - Drums", "drums"),
    ],
)
def test_names_that_negate_or_sum_are_understood(name: str, stem: str | None) -> None:
    assert guess_stem(name) == stem


@pytest.mark.parametrize("rest", ["no_vocals", "accompaniment", "1_One_(Instrumental)", "karaoke mix"])
def test_a_file_named_as_a_sum_is_left_out_with_a_remark(tmp_path: Path, rest: str) -> None:
    _touch(tmp_path, *[f"A - One/{name}.wav" for name in (*STEMS, rest)])
    discovered = _find(tmp_path)
    (song,) = discovered.songs
    assert _names(song) == {stem: [f"{stem}.wav"] for stem in STEMS}
    assert song.complete
    assert discovered.ignored_files == 1
    assert discovered.remarks == [
        f"1 files are left out as sums of stems by their names: {tmp_path}/A - One/{rest}.wav …"
    ]


@pytest.mark.parametrize(
    "names",
    [("vocals", "no_vocals"), ("1_One_(Vocals)", "1_One_(Instrumental)"), ("vocals", "accompaniment")],
)
def test_a_stem_beside_the_rest_is_a_song_without_a_mixture(tmp_path: Path, names: tuple[str, str]) -> None:
    _touch(tmp_path, *[f"A - One/{name}.wav" for name in names])
    (song,) = _find(tmp_path).songs
    assert (_names(song), song.complete) == ({"vocals": [f"{names[0]}.wav"]}, False)


@pytest.mark.parametrize(
    "names",
    [
        ("One", "One (Instrumental)", "Two", "Two (Instrumental)"),
        ("One (Instrumental)", "Two (Instrumental)"),
        ("No One", "No Vocals Needed Tonight At All", "Three"),
    ],
)
def test_instrumental_songs_are_songs(tmp_path: Path, names: tuple[str, ...]) -> None:
    _touch(tmp_path, *[f"album/{name}.flac" for name in names])
    assert [set(song.sources) for song in _find(tmp_path).songs] == [{MIXTURE}] * len(names)


# parts of one recording


@pytest.mark.parametrize(
    "files",
    [
        ("mix.flac", "stems/S00.flac", "stems/S01.flac"),
        ("mix.flac", "S00.flac", "S01.flac", "S02.flac"),
        ("Final Mix.wav", "raw/01.wav", "raw/deep/02.wav"),
        ("vocals.wav", "take 1.wav", "take 2.wav"),
        ("vocals.wav", "drums.wav", "raw/01.wav", "raw/02.wav"),
        ("vocals.wav", "drums.wav", "raw/mix.wav", "raw/02.wav"),
        ("drums/kick.wav", "drums/a.wav", "vocals/b.wav", "Lead Gtr/c.wav"),
    ],
)
def test_files_below_one_songs_folder_are_one_recording(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in ("One", "Two"):
        _touch(tmp_path, *[f"set/{name}/{file}" for file in files])
    songs = _find(tmp_path).songs
    assert {song.recording for song in songs} == {f"{tmp_path}/set/One", f"{tmp_path}/set/Two"}


@pytest.mark.parametrize(
    "files",
    [
        ("{0}/{0}.wav", "{0}/stems/01.wav", "{0}/stems/02.wav"),
        ("{0}/{0}.wav", "{0}/01.wav", "{0}/02.wav"),
        ("{0}/{0} (Mix).wav", "{0}/tracks/a.wav", "{0}/raw/b.wav"),
        ("{0}/Other Name.wav", "{0}/stems/a.wav", "{0}/stems/b.wav"),
        ("{0}/Other Name_MIX.wav", "{0}/01.wav", "{0}/02.wav"),
        ("{0}/{0}.wav", "{0}/stems/vocals.wav", "{0}/stems/drums.wav"),
        ("{0}.wav", "{0}/01.wav", "{0}/02.wav"),
        ("{0}.wav", "{0}/vocals.wav", "{0}/drums.wav"),
        ("{0} (Master).wav", "{0}/stems/01.wav", "{0}/stems/02.wav"),
        ("{0}.wav", "{0}_1.wav", "{0}_2.wav"),
        ("x/{0}.wav", "x/{0} 01.wav", "x/{0} 02.wav", "x/Another.wav"),
        ("{0}/stems/01.wav", "{0}/stems/02.wav"),
        ("mixes/{0}.wav", "stems/{0}/01.wav", "stems/{0}/02.wav"),
        ("Full Mixes/{0}.wav", "parts/{0}/vocals.wav", "parts/{0}/drums.wav"),
        ("{0}/{0}_MIX.wav", "{0}/{0}_STEMS/{0}_STEM_01.wav", "{0}/{0}_RAW/{0}_RAW_01_01.wav"),
    ],
)
def test_a_mix_and_stems_whose_names_say_nothing_are_one_recording(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    songs = ("Song 1", "Song 2", "Song 10")
    for song in songs:
        _touch(tmp_path / "set", *[file.format(song) for file in files])
    recordings: dict[str, set[str]] = {}
    for song in _find(tmp_path / "set").songs:
        path = next(iter(song.sources.values()))[0].name
        name = next((name for name in reversed(songs) if name in path), "")
        recordings.setdefault(name, set()).add(song.recording)
    recordings.pop("", None)  # another song in the same folder
    assert all(len(found) == 1 for found in recordings.values())
    assert len(set.union(*recordings.values()) - {""}) == len(songs)


@pytest.mark.parametrize(
    "files",
    [
        ("Thriller/Thriller.flac", "Thriller/Beat It.flac", "Thriller/Billie Jean.flac"),
        ("Single/Single.flac", "Single/B-Side.flac"),
        ("アルバム/アルバム.flac", "アルバム/曲一.flac", "アルバム/曲二.flac"),
        ("tracks/0001.flac", "tracks/0002.flac", "One.flac"),
        ("a/raw/0001.flac", "a/raw/0002.flac", "b/raw/0001.flac", "b/raw/0002.flac"),
        ("Artist.flac", "Artist/Album/One.flac", "Artist/Album/Two.flac"),
        ("One.flac", "One 2.flac"),
        ("album/One (Master).flac", "album/Two (Master).flac", "album/03.flac", "album/04.flac"),
    ],
)
def test_albums_are_songs_of_their_own(tmp_path: Path, files: tuple[str, ...]) -> None:
    _touch(tmp_path / "set", *files)
    songs = _find(tmp_path / "set").songs
    assert len(songs) == len(files)
    assert {song.recording for song in songs} == {""}


def test_a_root_with_a_mix_and_numbered_stems_is_one_recording(tmp_path: Path) -> None:
    _touch(tmp_path, "mix.flac", "S00.flac", "S01.flac")
    assert {song.recording for song in _find(tmp_path).songs} == {f"{tmp_path}/"}


def test_albums_and_a_mix_in_the_root_are_songs_of_their_own(tmp_path: Path) -> None:
    _touch(tmp_path, "mix.mp3", "One.flac", "Two.flac", "album/Three.flac", "album/bonus/Four.flac")
    songs = _find(tmp_path).songs
    assert len(songs) == 5
    assert {song.recording for song in songs} == {""}


# Slakh2100

METADATA = b"""
UUID: 1a81
audio_dir: stems
stems:
  S00: {audio_rendered: true, inst_class: Guitar, is_drum: false, program_num: 30}
  S01: {audio_rendered: true, inst_class: Drums, is_drum: true, program_num: 128}
  S02: {audio_rendered: true, inst_class: Synth Pad, is_drum: false, program_num: 90}
  S03: {audio_rendered: false, inst_class: Piano, is_drum: false, program_num: 0}
  S04: {audio_rendered: true, inst_class: Guitar, is_drum: false, program_num: 25}
"""


def _slakh(root: Path, metadata: bytes = METADATA) -> None:
    _touch(root, "metadata.yaml", content=metadata)
    _touch(root, "mix.flac", "all_src.mid", *[f"stems/S0{n}.flac" for n in (0, 1, 2, 4)])


def test_slakh_has_the_classes_of_its_metadata_and_its_splits(tmp_path: Path) -> None:
    for split in ("train", "validation", "test", "omitted"):
        _slakh(tmp_path / split / f"Track {split}")
    songs = _by_id(tmp_path)
    assert {name: song.split for name, song in songs.items()} == {
        "slakh2100/Track train": "train",
        "slakh2100/Track validation": "valid",
        "slakh2100/Track test": "test",
        "slakh2100/Track omitted": None,
    }
    assert _names(songs["slakh2100/Track train"]) == {
        "guitar": ["S00.flac", "S04.flac"],
        "drums": ["S01.flac"],
        "other_keys": ["S02.flac"],
        MIXTURE: ["mix.flac"],
    }


def test_slakh_song_without_a_rendered_stem_is_not_complete(tmp_path: Path) -> None:
    _slakh(tmp_path / "Track1")
    (tmp_path / "Track1/stems/S01.flac").unlink()
    discovered = _find(tmp_path)
    (song,) = discovered.songs
    assert (set(song.sources), song.complete) == ({"guitar", "other_keys", MIXTURE}, False)
    assert discovered.rejects == [
        ("slakh2100/Track1/S01", "metadata.yaml names a stem that is missing", "listing")
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"stems: 5", b"stems: {S00: x}", b"\xff"])
def test_slakh_song_with_broken_metadata_is_rejected(tmp_path: Path, content: bytes) -> None:
    _slakh(tmp_path / "Track1")
    _slakh(tmp_path / "Track2", content)
    discovered = _find(tmp_path)
    assert [song.song_id for song in discovered.songs] == ["slakh2100/Track1"]
    ((name, reason, kind),) = discovered.rejects
    assert (name, kind) == ("slakh2100/Track2", "listing")
    assert reason.startswith("metadata.yaml cannot be read: ")


def test_slakh_class_of_nested_aliases_is_not_written_out(tmp_path: Path) -> None:
    """Each level has the one before twice: as text it would have 2 to the 60 letters."""
    levels = ["a0: &a0 [x, x]", *[f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]]
    _slakh(tmp_path / "Track1", "\n".join([*levels, "stems: {S00: {inst_class: *a59}}"]).encode())
    assert _names(_find(tmp_path).songs[0]) == {"other": ["S00.flac"], MIXTURE: ["mix.flac"]}


def test_other_metadata_is_ignored_and_counted(tmp_path: Path) -> None:
    _touch(tmp_path, "album/metadata.yaml", "album/One.flac")
    discovered = _find(tmp_path)
    assert ([song.title for song in discovered.songs], discovered.ignored_files) == (["One"], 1)


# MedleyDB

MEDLEY_METADATA = b"""
artist: Some Artist
mix_filename: Art_Title_MIX.wav
stems:
  S01: {component: melody, filename: Art_Title_STEM_01.wav, instrument: female singer}
  S02: {component: bass, filename: Art_Title_STEM_02.wav, instrument: electric bass}
  S03: {component: '', filename: Art_Title_STEM_03.wav, instrument: drum set}
  S04: {component: '', filename: Art_Title_STEM_04.wav, instrument: clean electric guitar}
  S05: {component: '', filename: Art_Title_STEM_05.wav, instrument: bass clarinet}
  S06: {component: '', filename: Art_Title_STEM_06.wav, instrument: vocalists}
  S07: {component: '', filename: Art_Title_STEM_07.wav, instrument: [a, b]}
"""


def _medley(root: Path, metadata: bytes = MEDLEY_METADATA, extension: str = "wav") -> None:
    _touch(root, "Art_Title_METADATA.yaml", content=metadata)
    stems = [f"Art_Title_STEMS/Art_Title_STEM_0{n}.{extension}" for n in range(1, 8)]
    _touch(root, f"Art_Title_MIX.{extension}", *stems, "Art_Title_RAW/Art_Title_RAW_01_01.wav")


@pytest.mark.parametrize("extension", ["wav", "FLAC"])
def test_medleydb_has_the_classes_of_its_metadata(tmp_path: Path, extension: str) -> None:
    _medley(tmp_path / "V1/Art_Title", extension=extension)
    discovered = _find(tmp_path)
    (song,) = discovered.songs
    assert (song.song_id, song.artist, song.title) == ("medleydb/Art_Title", "Art", "Title")
    assert _names(song) == {
        stem: [f"Art_Title_STEM_{n}.{extension}" for n in numbers]
        for stem, numbers in {
            "vocals": ("01", "06"),
            "bass": ("02",),
            "drums": ("03",),
            "guitar": ("04",),
            "wind": ("05",),
            "other": ("07",),
        }.items()
    } | {MIXTURE: [f"Art_Title_MIX.{extension}"]}
    assert (song.complete, discovered.ignored_files) == (True, 1)  # the raw track


@pytest.mark.parametrize("name", ["../Art_Title_MIX.wav", "/etc/outside.wav", "", "[a, b]", "*a"])
def test_medleydb_song_with_a_missing_stem_is_not_complete(tmp_path: Path, name: str) -> None:
    stem = b"filename: Art_Title_STEM_03.wav"
    anchor = b"a: &a [x]" if name == "*a" else b""
    _medley(tmp_path / "A", anchor + MEDLEY_METADATA.replace(stem, f"filename: {name}".encode()))
    discovered = _find(tmp_path)
    (song,) = discovered.songs
    assert ("drums" in song.sources, song.complete) == (False, False)
    assert discovered.rejects == [
        ("medleydb/Art_Title/S03", "Art_Title_METADATA.yaml names a stem that is missing", "listing")
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"stems: 5", b"\xff"])
def test_medleydb_song_with_broken_metadata_is_rejected(tmp_path: Path, content: bytes) -> None:
    _medley(tmp_path / "A", content)
    _touch(tmp_path, "One.flac")
    discovered = _find(tmp_path)
    assert [song.title for song in discovered.songs] == ["One"]
    ((name, reason, kind),) = discovered.rejects
    assert (name, kind) == ("medleydb/Art_Title", "listing")
    assert reason.startswith("Art_Title_METADATA.yaml cannot be read: ")


# URMP


def test_urmp_has_the_classes_of_its_instruments(tmp_path: Path) -> None:
    piece = tmp_path / "Dataset/38_Jerusalem_fl_vn_vn_va_db"
    codes = ("fl", "vn", "vn", "va", "db")
    tracks = [f"AuSep_{n}_{code}_38_Jerusalem.wav" for n, code in enumerate(codes, 1)]
    rest = ("Vid_38_Jerusalem_fl_vn_vn_va_db.mp4", "Sco_38_Jerusalem_fl_vn_vn_va_db.pdf")
    _touch(piece, "AuMix_38_Jerusalem_fl_vn_vn_va_db.wav", *tracks, *rest)
    _touch(tmp_path / "Dataset/01_Jupiter_vn_vc", "AuMix_01_Jupiter_vn_vc.wav")
    _touch(tmp_path / "Dataset/01_Jupiter_vn_vc", "AuSep_1_vn_01_Jupiter.wav", "AuSep_2_vc_01_Jupiter.wav")
    discovered = _find(tmp_path)
    second, first = sorted(discovered.songs, key=lambda song: song.title, reverse=True)
    assert (first.song_id, first.dataset, first.title) == ("urmp/01_Jupiter", "urmp", "01_Jupiter")
    assert _names(first) == {
        "bowed_strings": ["AuSep_1_vn_01_Jupiter.wav", "AuSep_2_vc_01_Jupiter.wav"],
        MIXTURE: ["AuMix_01_Jupiter_vn_vc.wav"],
    }
    assert _names(second) == {
        "wind": tracks[:1],
        "bowed_strings": tracks[1:4],
        "bass": tracks[4:],
        MIXTURE: ["AuMix_38_Jerusalem_fl_vn_vn_va_db.wav"],
    }
    assert (discovered.ignored_files, discovered.rejects) == (2, [])  # the video and the score


def test_pieces_of_urmp_in_one_folder_are_songs_of_their_own(tmp_path: Path) -> None:
    names = ["AuMix_01_Jupiter_vn_vc", "AuSep_1_vn_01_Jupiter", "AuSep_2_vc_01_Jupiter"]
    names += ["AuMix_02_Sonata_vn_vn", "AuSep_1_vn_02_Sonata", "AuSep_2_vn_02_Sonata", "AuSep_1_xy_03_Song"]
    _touch(tmp_path, *(f"{name}.wav" for name in names))
    songs = _find(tmp_path).songs
    assert [song.song_id for song in songs][-2:] == ["urmp/01_Jupiter", "urmp/02_Sonata"]
    assert len({song.recording for song in songs}) == len(songs) == 3
