"""Layouts: what lies in a folder becomes songs, whatever it is called; only names are looked at."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.musdb import MUSDB_VALIDATION
from pipelines.preprocess.songs import DiscoveryResult, Song
from pipelines.preprocess.stem_names import guess_stem
from pipelines.schema import MIXTURE, STEMS

MUSDB_FILES = ("bass", "drums", "mixture", "other", "vocals")
NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def _touch(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _musdb(root: Path, folder: str, song: str) -> None:
    _touch(root, *[f"{folder}/{song}/{name}.wav" for name in MUSDB_FILES])


def _moises(root: Path, song: str, tracks: dict[str, list[str]] | None = None, **listing: Any) -> None:
    """A MoisesDB song: tracks are by stem; `listing` replaces what data.json says."""
    tracks = {"vocals": ["v1", "v2"], "drums": ["d1"]} if tracks is None else tracks
    for stem, ids in tracks.items():
        _touch(root, *[f"{song}/{stem}/{name}.wav" for name in ids])
    stems = [
        {"stemName": stem, "tracks": [{"id": name, "extension": "wav"} for name in ids]}
        for stem, ids in tracks.items()
    ]
    values = {"artist": "Artist", "song": "Title", "stems": stems} | listing
    _touch(root, f"{song}/data.json", content=json.dumps(values).encode())


def _find(*roots: Path) -> DiscoveryResult:
    return find_songs([str(root) for root in roots])


def _only(root: Path) -> Song:
    (song,) = _find(root).songs
    return song


def _names(song: Song, root: Path) -> dict[str, list[str]]:
    return {
        stem: [os.path.relpath(file.name, root) for file in files] for stem, files in song.sources.items()
    }


# MUSDB18-HQ


def test_musdb_songs_keep_their_official_splits(tmp_path: Path) -> None:
    validation = "Meaxic - Take A Step"
    for folder, song in (("train", "A - One"), ("train", validation), ("test", "B - Two")):
        _musdb(tmp_path, folder, song)
    found = {song.song_id: song for song in _find(tmp_path).songs}
    assert {name: song.split for name, song in found.items()} == {
        "musdb18hq/A - One": "train",
        f"musdb18hq/{validation}": "valid",
        "musdb18hq/B - Two": "test",
    }
    assert (found["musdb18hq/A - One"].artist, found["musdb18hq/A - One"].title) == ("A", "One")
    assert all(set(song.sources) == {*MUSDB_FILES} for song in found.values())


def test_musdb_publishes_14_validation_songs() -> None:
    assert len(MUSDB_VALIDATION) == 14


@pytest.mark.parametrize("depth", ["", "data/musdb18hq"])
def test_musdb_is_found_at_any_depth(tmp_path: Path, depth: str) -> None:
    _musdb(tmp_path / depth, "test", "A - One")
    assert _only(tmp_path).split == "test"


def test_musdb_is_found_when_its_train_folder_is_named(tmp_path: Path) -> None:
    _musdb(tmp_path, "train", "A - One")
    assert (_only(tmp_path / "train").dataset, _only(tmp_path / "train").split) == ("musdb18hq", "train")


def test_musdb_song_without_a_stem_keeps_the_others(tmp_path: Path) -> None:
    _musdb(tmp_path, "train", "A - One")
    (tmp_path / "train" / "A - One" / "bass.wav").unlink()
    assert set(_only(tmp_path).sources) == {*MUSDB_FILES} - {"bass"}


# MoisesDB


def test_moisesdb_song_sums_the_tracks_of_each_stem(tmp_path: Path) -> None:
    _moises(tmp_path, "v/uuid-1")
    song = _only(tmp_path)
    assert (song.song_id, song.artist, song.title, song.split) == (
        "moisesdb/uuid-1",
        "Artist",
        "Title",
        None,
    )
    assert _names(song, tmp_path) == {
        "vocals": ["v/uuid-1/vocals/v1.wav", "v/uuid-1/vocals/v2.wav"],
        "drums": ["v/uuid-1/drums/d1.wav"],
    }


def test_moisesdb_song_named_as_the_data_folder_is_one_song(tmp_path: Path) -> None:
    _moises(tmp_path, "uuid-1")
    song = _only(tmp_path / "uuid-1")
    assert song.song_id == "moisesdb/uuid-1"
    assert set(song.sources) == {"vocals", "drums"}


def test_moisesdb_stem_listed_twice_is_one_source_of_all_its_tracks(tmp_path: Path) -> None:
    _touch(tmp_path, "s/guitar/a.wav", "s/guitar/b.wav")
    stems = [{"stemName": "guitar", "tracks": [{"id": name, "extension": "wav"}]} for name in "ab"]
    _moises(tmp_path, "s", {}, stems=stems)
    assert _names(_only(tmp_path), tmp_path) == {"guitar": ["s/guitar/a.wav", "s/guitar/b.wav"]}


def test_moisesdb_track_listed_twice_is_summed_once(tmp_path: Path) -> None:
    _moises(tmp_path, "s", {"bass": ["a", "a"]})
    assert _names(_only(tmp_path), tmp_path) == {"bass": ["s/bass/a.wav"]}


def test_moisesdb_stem_with_a_missing_track_is_rejected_and_the_others_stay(tmp_path: Path) -> None:
    _moises(tmp_path, "s")
    (tmp_path / "s/vocals/v2.wav").unlink()
    discovered = _find(tmp_path)
    assert set(discovered.songs[0].sources) == {"drums"}
    assert discovered.rejects == [
        ("moisesdb/s/vocals", "data.json names s/vocals/v2.wav, which is missing", "listing")
    ]


@pytest.mark.parametrize("track", ["../../outside", "../other/x", "/etc/outside", "..\\outside", ""])
def test_moisesdb_track_cannot_name_a_file_outside_its_stem(tmp_path: Path, track: str) -> None:
    _touch(tmp_path, "outside.wav", "s/other/x.wav")
    stems = [{"stemName": "drums", "tracks": [{"id": track, "extension": "wav"}]}]
    _moises(tmp_path, "s", {"bass": ["a"]}, stems=stems)
    discovered = _find(tmp_path)
    assert [name for name, *_ in discovered.rejects] == ["moisesdb/s/drums"]
    assert not [song for song in discovered.songs if song.dataset == "moisesdb"]


@pytest.mark.parametrize("stem", ["../s/drums", "kazoo", "", "mixture"])
def test_moisesdb_stem_that_is_no_class_is_rejected(tmp_path: Path, stem: str) -> None:
    _moises(tmp_path, "s", {"drums": ["d"]}, stems=[
        {"stemName": stem, "tracks": [{"id": "d", "extension": "wav"}]},
        {"stemName": "drums", "tracks": [{"id": "d", "extension": "wav"}]},
    ])  # fmt: skip
    discovered = _find(tmp_path)
    assert [reason for _, reason, _ in discovered.rejects] == [
        "data.json names a stem that is not a class of MoisesDB"
    ]
    assert set(discovered.songs[0].sources) == {"drums"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"stems": null}',
        b'{"stems": [{}]}',
        b'{"stems": ["drums"]}',
        b"\xff",
        b'{"stems": [{"stemName": "drums", "tracks": [{"id": 1}]}]}',
        b'{"stems": 5}',
        pytest.param(
            b'{"stems": []}',
        ),
    ],
)
def test_moisesdb_song_with_a_broken_listing_is_rejected_and_the_others_stay(
    tmp_path: Path, content: bytes
) -> None:
    _moises(tmp_path, "good")
    _moises(tmp_path, "bad")
    (tmp_path / "bad/data.json").write_bytes(content)
    discovered = _find(tmp_path)
    assert [song.song_id for song in discovered.songs] == ["moisesdb/good"]
    ((name, _, kind),) = discovered.rejects
    assert (name, kind) == ("moisesdb/bad", "listing")


# loose stems and songs


@pytest.mark.parametrize(
    "name, stem",
    [
        ("vocals", "vocals"),
        ("Lead Vox", "vocals"),
        ("01_BGVox_harmony", "vocals"),
        ("03 - Kick In", "drums"),
        ("Overheads-L", "drums"),
        ("HiHat2", "drums"),
        ("bass", "bass"),
        ("808", "bass"),
        ("Sub_Bass_DI", "bass"),
        ("GTR_L", "guitar"),
        ("elgtr1", "guitar"),
        ("Acoustic Piano", "piano"),
        ("rhodes", "other_keys"),
        ("other_keys", "other_keys"),
        ("Other Plucked", "other_plucked"),
        ("bowed-strings", "bowed_strings"),
        ("drums__crash", "drums"),
        ("other_keys__fx", "other_keys"),
        ("Tambourine", "percussion"),
        ("Alto Sax", "wind"),
        ("FX", "other"),
        ("Mixture", MIXTURE),
        ("final mix", MIXTURE),
        ("take 7", None),
        ("", None),
        ("Sixpence", None),
        ("1234", None),
    ],
)
def test_class_is_guessed_from_the_words_of_a_name(name: str, stem: str | None) -> None:
    assert guess_stem(name) == stem


def test_every_class_is_guessed_from_its_own_name() -> None:
    assert [guess_stem(stem) for stem in (*STEMS, MIXTURE)] == [*STEMS, MIXTURE]


def test_folder_of_loose_stems_is_a_song(tmp_path: Path) -> None:
    _touch(
        tmp_path, *[f"set/A - One/{name}" for name in ("Lead Vox.WAV", "kick.flac", "snare.m4a", "xyz.ogg")]
    )
    song = _only(tmp_path / "set")
    assert (song.dataset, song.song_id, song.artist, song.title) == ("set", "set/A - One", "A", "One")
    assert _names(song, tmp_path / "set/A - One") == {
        "drums": ["kick.flac", "snare.m4a"],
        "other": ["xyz.ogg"],
        "vocals": ["Lead Vox.WAV"],
    }


def test_folders_of_takes_are_stems_of_one_song(tmp_path: Path) -> None:
    _touch(tmp_path, "song/drums/kick.wav", "song/drums/take 2.wav", "song/Vocals/a.wav", "song/bass.wav")
    song = _only(tmp_path)
    assert _names(song, tmp_path / "song") == {
        "bass": ["bass.wav"],
        "drums": ["drums/kick.wav", "drums/take 2.wav"],
        "vocals": ["Vocals/a.wav"],
    }


def test_folder_of_songs_is_a_song_a_file(tmp_path: Path) -> None:
    _touch(tmp_path, "set/A - One.flac", "set/B - Two.mp3", "set/deep/er/Three.opus")
    songs = _find(tmp_path / "set").songs
    assert [(song.song_id, song.artist, song.title, set(song.sources)) for song in songs] == [
        ("set/A - One", "A", "One", {MIXTURE}),
        ("set/B - Two", "B", "Two", {MIXTURE}),
        ("set/deep/er/Three", "", "Three", {MIXTURE}),
    ]


def test_stems_beside_a_mixture_keep_it(tmp_path: Path) -> None:
    _touch(tmp_path, "song/mixture.flac", "song/vocals.flac", "song/drums.flac")
    assert set(_only(tmp_path).sources) == {MIXTURE, "vocals", "drums"}


@pytest.mark.parametrize(
    "names",
    [
        ("Tom Petty - Free Fallin.flac", "Tom Petty - Refugee.flac"),
        ("Alicia Keys - Fallin.mp3", "Alicia Keys - No One.mp3", "Alicia Keys - Karma.mp3"),
        ("One (Master).wav", "Two (Master).wav", "Three (Master).wav"),
    ],
    ids=["tom", "keys", "master"],
)
def test_songs_named_like_instruments_are_still_a_song_a_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    _touch(tmp_path, *names)
    assert len(_find(tmp_path).songs) == len(names)


def test_layouts_lie_side_by_side_below_one_root(tmp_path: Path) -> None:
    _musdb(tmp_path / "musdb18hq", "train", "A - One")
    _moises(tmp_path / "moisesdb", "uuid-1")
    _touch(tmp_path, "loose/song/vocals.wav", "loose/song/piano.wav", "songs/Two.flac")
    assert [song.song_id.partition("/")[0] for song in _find(tmp_path).songs].count(tmp_path.name) == 2
    assert {song.dataset for song in _find(tmp_path).songs} == {"musdb18hq", "moisesdb", tmp_path.name}


# names and file systems


def test_hidden_and_foreign_files_are_ignored_and_counted(tmp_path: Path) -> None:
    _touch(
        tmp_path, "s/vocals.wav", "s/drums.wav", "s/._drums.wav", "s/.hidden.flac", "s/cover.jpg", "s/notes"
    )
    discovered = _find(tmp_path)
    assert _names(discovered.songs[0], tmp_path / "s") == {"drums": ["drums.wav"], "vocals": ["vocals.wav"]}
    assert discovered.ignored_files == 4
    assert not discovered.rejects


def test_composed_and_decomposed_names_give_the_same_id(tmp_path: Path) -> None:
    for folder, name in (("one", NFC), ("two", NFD)):
        _touch(tmp_path, f"{folder}/set/{name}/vocals.wav", f"{folder}/set/{name}/drums.wav")
    first, second = (_only(tmp_path / folder / "set") for folder in ("one", "two"))
    assert first.song_id == second.song_id == f"set/{NFC}"
    assert f"/{NFD}/" in second.sources["vocals"][0].name  # the file is still found under its own name


def test_both_spellings_of_a_name_side_by_side_are_two_songs(tmp_path: Path) -> None:
    _touch(tmp_path, f"{NFC}.flac", f"{NFD}.flac")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes both spellings for one name")
    assert len({song.song_id for song in _find(tmp_path).songs}) == 2


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "new\nline",
        "tab\tand \\",
        'it\'s "quoted" $(rm) `x`; &',
        "-leading dash",
        "%03d",
        "concat:a|b",
        "ö" * 125,
        "*?[x]",
        "a:b",
        "日本語 🎵",
    ],
)
def test_odd_names_are_found_as_they_are(tmp_path: Path, name: str) -> None:
    file = f"{name}.wav"
    assert len(file.encode()) <= 255
    _touch(tmp_path, f"set/{file}")
    song = _only(tmp_path / "set")
    assert song.song_id == f"set/{unicodedata.normalize('NFC', name)}"
    assert song.sources[MIXTURE][0].name == str(tmp_path / "set" / file)
    assert Song.from_json(song.to_json()) == song


def test_name_of_255_bytes_is_found(tmp_path: Path) -> None:
    _touch(tmp_path, "a" * 251 + ".wav")
    assert len(_find(tmp_path).songs) == 1


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"\xff\xfe/vocals.wav"])
def test_name_that_is_no_utf_8_is_rejected_with_a_reason_that_can_be_written(
    tmp_path: Path, name: bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(b"x")
    _touch(tmp_path, "good.wav")
    discovered = _find(tmp_path)
    assert len(discovered.songs) == 1
    ((shown, reason, _),) = discovered.rejects
    assert reason == "the name is not valid UTF-8"
    shown.encode()


def test_broken_link_with_an_undecodable_name_is_rejected_in_text_that_can_be_written(tmp_path: Path) -> None:
    os.symlink(b"nowhere", os.path.join(os.fsencode(tmp_path), b"\xff.wav"))
    ((shown, *_),) = _find(tmp_path).rejects
    shown.encode()


def test_links_are_followed_but_no_folder_is_entered_twice(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/song/vocals.wav", "elsewhere/song/drums.wav", "data/Two.wav")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "linked")
    os.symlink(tmp_path / "data", tmp_path / "elsewhere" / "song" / "loop")
    songs = _find(tmp_path / "data").songs
    assert [song.song_id for song in songs] == ["data/Two", "data/linked/song"]


@pytest.mark.parametrize("target", ["nowhere.wav", "self.wav"])
def test_broken_link_is_rejected(tmp_path: Path, target: str) -> None:
    os.symlink(tmp_path / target, tmp_path / "self.wav")
    _touch(tmp_path, "good.wav")
    discovered = _find(tmp_path)
    assert len(discovered.songs) == 1
    ((name, reason, kind),) = discovered.rejects
    assert name.endswith("self.wav") and reason.startswith("cannot be listed: ")
    assert kind == "unopened"


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores permissions")
def test_folder_that_cannot_be_listed_is_rejected(tmp_path: Path) -> None:
    _touch(tmp_path, "closed/a.wav", "good.wav")
    (tmp_path / "closed").chmod(0)
    try:
        discovered = _find(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert len(discovered.songs) == 1
    assert discovered.rejects == [
        (str(tmp_path / "closed"), "cannot be listed: Permission denied", "unopened")
    ]


# several roots


def test_roots_of_one_name_give_different_ids(tmp_path: Path) -> None:
    for parent in ("one", "two", "three"):
        _touch(tmp_path, f"{parent}/set/Song.flac")
    songs = _find(*[tmp_path / parent / "set" for parent in ("two", "three", "one")]).songs
    assert [song.song_id for song in songs] == ["set/Song", "set/Song (2)", "set/Song (3)"]
    assert len({song.sources[MIXTURE][0].name for song in songs}) == 3


def test_one_name_with_two_endings_is_two_songs(tmp_path: Path) -> None:
    _touch(tmp_path, "Song.flac", "Song.mp3")
    assert len({song.song_id for song in _find(tmp_path).songs}) == 2


def test_number_of_a_twin_does_not_meet_another_songs_name(tmp_path: Path) -> None:
    _touch(tmp_path, "Song.flac", "Song.mp3", "Song (2).flac")
    assert len({song.song_id for song in _find(tmp_path).songs}) == 3


def test_order_of_roots_does_not_matter(tmp_path: Path) -> None:
    _musdb(tmp_path / "m", "train", "A - One")
    _touch(tmp_path, "a/set/Song.flac", "b/set/Song.flac")
    roots = [tmp_path / "m", tmp_path / "a/set", tmp_path / "b/set"]
    assert _find(*roots).songs == _find(*roots[::-1]).songs


@pytest.mark.parametrize("names", [(), ("notes.txt", ".hidden.wav")])
def test_no_audio_is_an_error_with_the_expected_layouts(tmp_path: Path, names: tuple[str, ...]) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(ValueError, match=r"no audio below .* Expected MUSDB18-HQ"):
        _find(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_root_that_is_no_folder_is_an_error(tmp_path: Path, kind: str) -> None:
    _touch(tmp_path, "file")
    with pytest.raises(ValueError, match="no such folder"):
        _find(tmp_path / kind)


def test_relative_root_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "set/Song.flac")
    monkeypatch.chdir(tmp_path)
    (song,) = find_songs(["set"]).songs
    assert song.sources[MIXTURE][0].name == str(tmp_path / "set" / "Song.flac")


def test_uri_finds_the_same_songs_as_a_path(tmp_path: Path) -> None:
    _musdb(tmp_path, "train", "A - One")
    _moises(tmp_path, "uuid-1")
    _touch(tmp_path, "Two.flac")
    local, remote = _find(tmp_path), find_songs([f"file://{tmp_path}"])
    assert [song.song_id for song in remote.songs] == [song.song_id for song in local.songs]
    for song, twin in zip(local.songs, remote.songs, strict=True):
        assert [f"file://{e.name}" for files in song.sources.values() for e in files] == [
            unquote(e.name) for files in twin.sources.values() for e in files
        ]


def test_song_survives_the_way_through_json(tmp_path: Path) -> None:
    _moises(tmp_path, "uuid-1", artist='Bjørk "x"\n')
    song = _only(tmp_path)
    assert Song.from_json(song.to_json()) == song
