"""Tags and pictures from every input format to every output format; damaged and oversized ones."""

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import mutagen
import pytest
import torch
from mutagen import id3

from apollo.audio import tag_writing
from apollo.audio.formats import FORMATS
from apollo.audio.tag_reading import read_tags
from apollo.audio.tags import Picture, SongTags, describe_checkpoint
from apollo.audio.writing import AudioWriter
from apollo.model.generator import Generator
from tests.support import tagged_songs
from tests.support.datasets import music, write
from tests.support.identity_generator import one, read
from tests.support.tagged_songs import JPEG, PICTURES, PNG, TAGGERS, TEXTS, make_tagged, make_untagged

CONTAINERS = ["wav16", "flac16", "alac16", "opus", "mp3"]  # a format of each


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tagged")
    return {kind: make_tagged(kind, folder) for kind in TAGGERS}


def write_song(target: Path, format: str, tags: SongTags) -> list[str]:
    """Write a short song and return the warnings."""
    rate = FORMATS[format].choose_rate(44_100)
    writer = AudioWriter(
        target, channels=2, sample_rate=rate, format=format, clip="clamp", frames=None, tags=tags
    )
    with writer:
        writer.write(torch.zeros(2, 4_410))
        writer.commit()
    return writer.warnings


def pictures(tags: SongTags) -> list[tuple[str, int, str, bytes]]:
    return [(one.mime, one.type, one.description, one.data) for one in tags.pictures]


@pytest.mark.parametrize("format", CONTAINERS)
@pytest.mark.parametrize("kind", TAGGERS)
def test_texts_and_pictures_go_from_every_format_to_every_format(
    tagged: dict[str, Path], tmp_path: Path, kind: str, format: str
) -> None:
    before = tagged[kind].read_bytes()
    tags, warnings = read_tags(str(tagged[kind]))
    assert warnings == []
    assert tags.texts == TEXTS
    target = tmp_path / f"out.{FORMATS[format].extension}"
    assert write_song(target, format, tags) == []
    found, warnings = read_tags(str(target))
    assert warnings == []
    assert found.texts == TEXTS
    if format == "alac16" or kind == "m4a":  # without type and description: the first is the front cover
        assert [one.data for one in found.pictures] == [JPEG, PNG]
    else:
        assert pictures(found) == PICTURES
    assert tagged[kind].read_bytes() == before


def test_other_programs_find_the_tags_under_the_names_of_each_format(
    tagged: dict[str, Path], tmp_path: Path
) -> None:
    tags, _ = read_tags(str(tagged["flac"]))
    found: dict[str, Any] = {}
    for format in CONTAINERS:
        target = tmp_path / f"{format}.{FORMATS[format].extension}"
        write_song(target, format, tags)
        found[format] = mutagen.File(target)
    for format in ("mp3", "wav16"):
        frames = found[format].tags
        assert frames["TPE1"].text == TEXTS["ARTIST"]
        assert frames["TRCK"].text == ["3/12"]
        assert frames["UFID:http://musicbrainz.org"].data.decode() == TEXTS["MUSICBRAINZ_TRACKID"][0]
        assert frames["TXXX:MusicBrainz Album Id"].text == TEXTS["MUSICBRAINZ_ALBUMID"]
        assert frames["TXXX:Own tag"].text == TEXTS["Own tag"]
        assert frames["COMM::eng"].text == TEXTS["COMMENT"]
        assert sorted(int(one.type) for one in frames.getall("APIC")) == [3, 4]
    atoms = found["alac16"].tags
    assert (atoms["trkn"], atoms["cpil"], atoms["tmpo"]) == ([(3, 12)], True, [120])
    assert atoms["----:com.apple.iTunes:MusicBrainz Album Id"][0].decode() == TEXTS["MUSICBRAINZ_ALBUMID"][0]
    assert atoms["covr"][0].imageformat == 13
    assert found["opus"]["artist"] == found["flac16"]["artist"] == TEXTS["ARTIST"]
    assert [one.desc for one in found["flac16"].pictures] == ["front ✓", "back"]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_version_of_id3_is_read(tmp_path: Path, version: int) -> None:
    song = make_untagged(tmp_path / "song.mp3")
    if version == 1:
        fields = struct.pack(
            "3s30s30s30s4s28sBBB", b"TAG", b"Title", b"Artist", b"Album", b"1999", b"own", 0, 7, 8
        )
        song.write_bytes(song.read_bytes() + fields)
    elif version == 2:
        texts = {b"TT2": "Title", b"TP1": "Artist", b"TAL": "Album", b"TRK": "7", b"TYE": "1999"}
        frames = b"".join(
            name + (len(text) + 1).to_bytes(3, "big") + b"\0" + text.encode() for name, text in texts.items()
        )
        image = b"\0JPG\x03\0" + JPEG
        frames += b"PIC" + len(image).to_bytes(3, "big") + image
        size = bytes((len(frames) >> shift) & 127 for shift in (21, 14, 7, 0))
        song.write_bytes(b"ID3\x02\0\0" + size + frames + song.read_bytes())
    else:
        tags = id3.ID3()
        for name, text in (("TIT2", "Title"), ("TPE1", "Artist"), ("TALB", "Album"), ("TRCK", "7")):
            tags.add(id3.Frames[name](1, text))
        tags.add(id3.TDRC(1, "1999"))
        tags.add(id3.APIC(1, "image/jpeg", 3, "", JPEG))
        if version == 3:
            tags.update_to_v23()
        tags.save(song, v2_version=version)
    found, warnings = read_tags(str(song))
    names = ("TITLE", "ARTIST", "ALBUM", "TRACKNUMBER", "DATE")
    assert [found.texts[name] for name in names] == [["Title"], ["Artist"], ["Album"], ["7"], ["1999"]]
    assert warnings == []
    assert pictures(found) == ([] if version == 1 else [("image/jpeg", 3, "", JPEG)])


def test_the_output_says_that_it_was_restored_beside_the_users_comment(
    generator: Generator, tmp_path: Path
) -> None:
    song = make_tagged("id3", tmp_path)
    outcome = one(generator, song, format="mp3", strength=0.5)
    tags = mutagen.File(outcome.output).tags
    (text,) = tags["TXXX:RESTORATION"].text
    assert "strength 0.5" in text
    assert "mp3, " in text
    assert " kbps, 44100 Hz" in text
    assert "restored from mp3" in tags["TSSE"].text[0]
    assert tags["COMM::eng"].text == TEXTS["COMMENT"]
    again = one(generator, Path(outcome.output), format="flac16")
    assert len(mutagen.File(again.output)["restoration"]) == 2  # of either restoration


def test_a_checkpoint_is_named_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "first/best").mkdir(parents=True)
    assert describe_checkpoint(str(tmp_path / "first/best")) == "first/best"
    assert describe_checkpoint("models:/apollo@champion") == "models:/apollo@champion"
    assert describe_checkpoint("compact") == "compact"


@pytest.mark.parametrize("format", CONTAINERS)
def test_a_song_without_tags_gets_the_note_alone(generator: Generator, tmp_path: Path, format: str) -> None:
    outcome = one(generator, make_untagged(tmp_path / "song.mp3"), format=format)
    assert outcome.warnings == []
    found, _ = read_tags(outcome.output)
    assert list(found.texts) == ["RESTORATION"]
    assert found.pictures == []


def test_the_info_chunk_of_a_wav_is_read_and_written(generator: Generator, tmp_path: Path) -> None:
    import soundfile

    song = write(tmp_path / "song.wav", music(1, 0.1))
    with soundfile.SoundFile(song, "r+") as file:
        file.title, file.artist = "Title", "Artist"
    with soundfile.SoundFile(one(generator, song).output) as file:
        assert (file.title, file.artist) == ("Title", "Artist")


def _short_id3(song: Path) -> None:
    """Declare half of the tag: the rest stands before the audio."""
    tagged_songs.TAGGERS["id3"][1](song)
    content = bytearray(song.read_bytes())
    size = id3.ID3(song).size
    content[6:10] = _synchsafe(size // 2)
    song.write_bytes(content)


def _garbage_frames(song: Path) -> None:
    song.write_bytes(
        b"ID3\x04\0\0\0\0\x07\x76" + b"TIT2\xff\xff\xff\xff\0\0" + bytes(range(256)) * 4 + song.read_bytes()
    )


def _unknown_version(song: Path) -> None:
    song.write_bytes(b"ID3\x09\0\0\0\0\0\x0aTIT2\0\0\0\0\0\0" + song.read_bytes())


@pytest.mark.parametrize("damage", [_short_id3, _garbage_frames, _unknown_version])
def test_a_damaged_tag_does_not_end_a_song(generator: Generator, tmp_path: Path, damage: Any) -> None:
    song = make_untagged(tmp_path / "song.mp3")
    expected = read(one(generator, song, format="flac16"))
    damage(song)
    found = read(one(generator, song, format="flac16", overwrite=True))
    # the samples, or those with the encoder's delay and padding where damage hides the gapless tag
    assert 0 <= len(found) - len(expected) <= 3 * 1_152


@pytest.mark.parametrize("value", ["%%% no base64", "AAAA"])
def test_a_damaged_picture_is_a_warning_and_the_texts_stay(
    generator: Generator, tmp_path: Path, value: str
) -> None:
    song = make_untagged(tmp_path / "song.ogg")
    file = mutagen.File(song)
    file["title"], file["metadata_block_picture"] = "Title", value
    file.save()
    outcome = one(generator, song, format="mp3")
    assert "a picture cannot be read" in str(outcome.warnings)
    assert mutagen.File(outcome.output).tags["TIT2"].text == ["Title"]


def test_a_picture_of_200_mb_is_left_out_where_the_format_has_no_room(
    generator: Generator, tmp_path: Path
) -> None:
    song = make_untagged(tmp_path / "song.mp3")
    audio, size = song.read_bytes(), 200_000_000
    image = b"\0image/jpeg\0\x03huge\0"
    title = b"TIT2" + _synchsafe(6) + b"\0\0\x03Title"
    small = b"\0image/png\0\x04small\0" + PNG
    small = b"APIC" + _synchsafe(len(small)) + b"\0\0" + small
    huge = b"APIC" + _synchsafe(len(image) + size) + b"\0\0" + image
    with song.open("wb") as file:
        file.write(b"ID3\x04\0\0" + _synchsafe(len(title + small + huge) + size) + title + small + huge)
        file.seek(size, 1)  # a hole
        file.write(audio)
    outcome = one(generator, song, format="flac16")
    (warning,) = outcome.warnings
    assert f"{size} bytes" in warning
    assert "16 MiB in FLAC" in warning
    file = mutagen.File(outcome.output)
    assert (file["title"], [picture.desc for picture in file.pictures]) == (["Title"], ["small"])


@pytest.mark.parametrize("format", CONTAINERS)
def test_the_limit_of_pictures_is_that_of_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    for name in ("_FLAC_BLOCK_BYTES", "_OPUS_BYTES", "_ID3_BYTES", "_MP4_BYTES"):
        monkeypatch.setattr(tag_writing, name, 1 << 16)
    images = [JPEG + bytes(size) for size in (40_000, 80_000)]
    tags = SongTags({"TITLE": ["Title"]}, [Picture(image, "image/jpeg") for image in images])
    (warning,) = write_song(tmp_path / "song", format, tags)
    assert f"a picture of {len(images[1])} bytes was left out: the limit is" in warning
    found, _ = read_tags(str(tmp_path / "song"))
    assert found.texts == {"TITLE": ["Title"]}
    assert [picture.data for picture in found.pictures] == images[:1]


def test_a_picture_that_an_m4a_cannot_hold_is_a_warning(tmp_path: Path) -> None:
    tags = SongTags({"TITLE": ["Title"]}, [Picture(b"text", "image/jpeg"), Picture(PNG, "image/png")])
    (warning,) = write_song(tmp_path / "song.m4a", "alac16", tags)
    assert "neither JPEG, PNG nor BMP" in warning
    assert [one.data for one in read_tags(str(tmp_path / "song.m4a"))[0].pictures] == [PNG]


def test_a_compressed_frame_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apollo.audio.id3_tags.MAX_DECOMPRESSED_BYTES", 1 << 20)
    song = make_untagged(tmp_path / "song.mp3")
    content = song.read_bytes()
    for size, kept in ((1 << 19, True), (1 << 21, False)):
        text = zlib.compress(b"\x03" + b"x" * size)
        frame = b"TIT2" + _synchsafe(len(text) + 4) + b"\0\x09" + _synchsafe(size + 1) + text
        title = b"TPE1" + _synchsafe(2) + b"\0\0\x03A"
        song.write_bytes(b"ID3\x04\0\0" + _synchsafe(len(frame) + len(title)) + frame + title + content)
        found, _ = read_tags(str(song))
        assert ("TITLE" in found.texts) == kept
        assert found.texts["ARTIST"] == ["A"]


def _synchsafe(number: int) -> bytes:
    return bytes((number >> shift) & 127 for shift in (21, 14, 7, 0))


def test_names_differ_by_more_than_capitals_and_many_are_read_in_linear_time() -> None:
    tags = SongTags()
    tags.add("Own tag", ["a"])
    tags.add("OWN TAG", ["b"])
    tags.add("album artist", ["c"])
    assert tags.texts == {"Own tag": ["a", "b"], "ALBUMARTIST": ["c"]}
    began = time.process_time()
    for number in range(20_000):
        tags.add(f"name {number}", ["value"])
        tags.add("one", [number])
    assert time.process_time() - began < 5  # 0.1 s; 40 s with a search among all names


def test_no_more_than_the_limit_is_read_of_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = make_tagged("id3", tmp_path)
    monkeypatch.setattr("apollo.audio.tag_reading.MAX_READ_BYTES", 1 << 10)
    found, warnings = read_tags(str(song))
    assert found.texts == {}
    assert any("more than" in warning for warning in warnings)


def test_an_error_of_the_tags_leaves_the_audio_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, tags: SongTags) -> None:
        raise struct.error("does not fit")

    monkeypatch.setitem(tag_writing._WRITERS, "FLAC", fail)
    warnings = write_song(tmp_path / "song.flac", "flac16", SongTags({"TITLE": ["Title"]}))
    assert warnings == ["tags cannot be written: does not fit"]
    assert (tmp_path / "song.flac").stat().st_size > 0


def test_the_content_and_not_the_extension_says_what_the_tags_are(
    generator: Generator, tmp_path: Path
) -> None:
    names = {"flac": "mp3", "id3": "flac", "m4a": "ogg", "opus": "wav"}
    for kind, extension in names.items():
        song = make_tagged(kind, tmp_path / kind).rename(tmp_path / kind / f"song.{extension}")
        outcome = one(generator, song, format="flac16")
        assert mutagen.File(outcome.output)["title"] == TEXTS["TITLE"], kind


def test_files_that_have_no_place_for_tags_are_no_warning(tmp_path: Path) -> None:
    wav = make_untagged(tmp_path / "song.wav").read_bytes()
    contents = {
        "not ended by its recorder": wav[:4] + bytes(4) + wav[8:40] + bytes(4) + wav[44:],
        "AIFF to a pipe": b"FORM" + bytes(4) + b"AIFFSSND" + bytes(200),
        "AVI": b"RIFF" + struct.pack("<I", 204) + b"AVI LIST" + bytes(196),
        "8SVX": b"FORM" + struct.pack(">I", 204) + b"8SVXVHDR" + bytes(196),
        "BW64": b"BW64\xff\xff\xff\xffWAVE" + bytes(200),
        "RIFX": b"RIFX" + struct.pack(">I", 204) + b"WAVE" + bytes(200),
        "RF64": b"RF64\xff\xff\xff\xffWAVE" + bytes(200),
        "nothing": b"",
        "text": b"some text",
    }
    for name, content in contents.items():
        (tmp_path / "file").write_bytes(content)
        assert read_tags(str(tmp_path / "file")) == (SongTags(), []), name


def test_frames_that_only_id3_has_are_kept_there(tmp_path: Path) -> None:
    song = make_untagged(tmp_path / "song.mp3")
    tags = id3.ID3()
    tags.add(id3.CHAP("one", 0, 100, sub_frames=[id3.TIT2(3, "Chapter")]))
    tags.add(id3.POPM("somebody", 255, 3))
    tags.add(id3.TIPL(3, [["producer", "P"], ["mix", "M"]]))
    tags.add(id3.TMCL(3, [["piano", "Player"]]))
    tags.add(id3.WOAR("http://example.org"))
    tags.add(id3.PRIV("AverageLevel", b"\0\0"))
    tags.save(song)
    found, _ = read_tags(str(song))
    assert found.texts["PERFORMER"] == ["Player (piano)"]
    write_song(tmp_path / "out.mp3", "mp3", found)
    kept = mutagen.File(tmp_path / "out.mp3").tags
    assert sorted(kept) == ["CHAP:one", "POPM:somebody", "TIPL", "TMCL", "WOAR:http://example.org"]
    assert kept["TMCL"].people == [["piano", "Player"]]
