"""Short files of every format with tags as other programs write them: the names are each format's own."""

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import soundfile
from mutagen import apev2, asf, flac, id3, mp4

from tests.support.datasets import encode, music

TEXTS = {  # by the common names, which are those of Vorbis comments
    "TITLE": ["Ünï ✓ 日本 𝄞"],
    "ARTIST": ["First", "Second"],
    "ALBUM": ["Album: a/b"],
    "ALBUMARTIST": ["Various"],
    "TRACKNUMBER": ["3"],
    "TRACKTOTAL": ["12"],
    "DISCNUMBER": ["1"],
    "DISCTOTAL": ["2"],
    "DATE": ["2001-02-03"],
    "GENRE": ["Jazz", "Own genre"],
    "COMPOSER": ["Composer"],
    "COMMENT": ["the user's own"],
    "LYRICS": ["one\ntwo"],
    "COMPILATION": ["1"],
    "BPM": ["120"],
    "ISRC": ["QZ0000000001"],
    "COPYRIGHT": ["© somebody"],
    "ARTISTSORT": ["First, The"],
    "MUSICBRAINZ_TRACKID": ["0f9d1c3e-0000-4000-8000-000000000001"],
    "MUSICBRAINZ_ALBUMID": ["0f9d1c3e-0000-4000-8000-000000000002"],
    "Own tag": ["x", "ÿ"],
}
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
PICTURES = [("image/jpeg", 3, "front ✓", JPEG), ("image/png", 4, "back", PNG)]


def _flac_pictures() -> list[flac.Picture]:
    found = []
    for mime, kind, description, data in PICTURES:
        picture = flac.Picture()
        picture.mime, picture.type, picture.desc, picture.data = mime, kind, description, data
        found.append(picture)
    return found


def add_id3(tags: Any) -> None:
    """Add TEXTS and PICTURES as ID3 frames, and frames about levels and the encoder."""
    simple = {
        **{"TIT2": "TITLE", "TPE1": "ARTIST", "TALB": "ALBUM", "TPE2": "ALBUMARTIST", "TDRC": "DATE"},
        **{"TCON": "GENRE", "TCOM": "COMPOSER", "TCMP": "COMPILATION", "TBPM": "BPM", "TSRC": "ISRC"},
        **{"TCOP": "COPYRIGHT", "TSOP": "ARTISTSORT"},
    }
    for frame, name in simple.items():
        tags.add(id3.Frames[frame](3, TEXTS[name]))
    tags.add(id3.TRCK(3, "3/12"))
    tags.add(id3.TPOS(3, "1/2"))
    tags.add(id3.COMM(3, "eng", "", TEXTS["COMMENT"]))
    tags.add(id3.COMM(3, "eng", "iTunNORM", " 00001111"))
    tags.add(id3.COMM(3, "eng", "iTunSMPB", " 00000000 00000210"))
    tags.add(id3.USLT(3, "deu", "", TEXTS["LYRICS"][0]))
    tags.add(id3.UFID("http://musicbrainz.org", TEXTS["MUSICBRAINZ_TRACKID"][0].encode()))
    tags.add(id3.TXXX(3, "MusicBrainz Album Id", TEXTS["MUSICBRAINZ_ALBUMID"]))
    tags.add(id3.TXXX(3, "Own tag", TEXTS["Own tag"]))
    tags.add(id3.TXXX(3, "replaygain_track_gain", "-3 dB"))
    tags.add(id3.TLEN(3, "1000"))
    tags.add(id3.TSSE(3, "LAME"))
    tags.add(id3.RVA2("track", 1, -3.0, 0.5))
    for mime, kind, description, data in PICTURES:
        tags.add(id3.APIC(3, mime, kind, description, data))


def _add_vorbis(tags: Any) -> None:
    for name, values in TEXTS.items():
        tags[name] = values
    tags["REPLAYGAIN_ALBUM_GAIN"], tags["R128_TRACK_GAIN"], tags["ENCODER"] = "-3 dB", "-256", "somebody's"


def _tag_flac(path: Path) -> None:
    song = flac.FLAC(path)
    _add_vorbis(song)
    for picture in _flac_pictures():
        song.add_picture(picture)
    song.save()


def _tag_ogg(path: Path) -> None:
    song = mutagen.File(path)
    _add_vorbis(song)
    blocks = [base64.b64encode(picture.write()).decode() for picture in _flac_pictures()]
    song["METADATA_BLOCK_PICTURE"] = blocks
    song.save()


def _tag_id3(path: Path) -> None:
    song = mutagen.File(path)
    if song.tags is None:
        song.add_tags()
    add_id3(song.tags)
    song.save()


def _tag_mp4(path: Path) -> None:
    song = mp4.MP4(path)
    simple = {
        **{"©nam": "TITLE", "©ART": "ARTIST", "©alb": "ALBUM", "aART": "ALBUMARTIST", "©day": "DATE"},
        **{"©gen": "GENRE", "©wrt": "COMPOSER", "©cmt": "COMMENT", "©lyr": "LYRICS", "cprt": "COPYRIGHT"},
        "soar": "ARTISTSORT",
    }
    for atom, name in simple.items():
        song[atom] = TEXTS[name]
    song["trkn"], song["disk"], song["cpil"], song["tmpo"] = [(3, 12)], [(1, 2)], True, [120]
    freeform = {
        **{"MusicBrainz Track Id": "MUSICBRAINZ_TRACKID", "MusicBrainz Album Id": "MUSICBRAINZ_ALBUMID"},
        **{"ISRC": "ISRC", "Own tag": "Own tag"},
    }
    for atom, name in freeform.items():
        song[f"----:com.apple.iTunes:{atom}"] = [value.encode() for value in TEXTS[name]]
    song["----:com.apple.iTunes:iTunNORM"], song["----:com.apple.iTunes:iTunSMPB"] = b" 0000", b" 0000"
    song["©too"] = "Lavf"
    song["covr"] = [mp4.MP4Cover(JPEG, 13), mp4.MP4Cover(PNG, 14)]
    song.save()


def _tag_ape(path: Path) -> None:
    names = {"ALBUMARTIST": "Album Artist", "DATE": "Year", "TITLE": "Title"}
    tags = apev2.APEv2()
    for name, values in TEXTS.items():
        if name not in ("TRACKNUMBER", "TRACKTOTAL", "DISCNUMBER", "DISCTOTAL"):
            tags[names.get(name, name)] = values
    tags["Track"], tags["Disc"], tags["MP3GAIN_MINMAX"] = "3/12", "1/2", "100,200"
    for key, (_, _, description, data) in zip(
        ("Cover Art (Front)", "Cover Art (Back)"), PICTURES, strict=True
    ):
        tags[key] = apev2.APEValue(description.encode() + b"\0" + data, apev2.BINARY)
    tags.save(path)


def _tag_wma(path: Path) -> None:
    song = asf.ASF(path)
    names = {
        **{"Title": "TITLE", "Author": "ARTIST", "WM/AlbumTitle": "ALBUM", "WM/AlbumArtist": "ALBUMARTIST"},
        **{"WM/Year": "DATE", "WM/Genre": "GENRE", "WM/Composer": "COMPOSER", "Description": "COMMENT"},
        **{"WM/Lyrics": "LYRICS", "WM/ISRC": "ISRC", "Copyright": "COPYRIGHT", "Own tag": "Own tag"},
        **{"WM/ArtistSortOrder": "ARTISTSORT", "WM/BeatsPerMinute": "BPM"},
        **{"MusicBrainz/Track Id": "MUSICBRAINZ_TRACKID", "MusicBrainz/Album Id": "MUSICBRAINZ_ALBUMID"},
    }
    for own, name in names.items():
        song[own] = TEXTS[name]
    song["WM/TrackNumber"], song["WM/PartOfSet"] = "3/12", "1/2"
    song["WM/IsCompilation"] = asf.ASFBoolAttribute(True)
    song["WM/Picture"] = [
        asf.ASFByteArrayAttribute(
            struct.pack("<BI", kind, len(data)) + f"{mime}\0{description}\0".encode("utf-16-le") + data
        )
        for mime, kind, description, data in PICTURES
    ]
    song.save()


_SOUND = {
    "mp3": {"format": "MP3"},
    "flac": {},
    "wav": {},
    "aiff": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
TAGGERS: dict[str, tuple[str, Callable[[Path], None]]] = {  # by input: extension and what adds the tags
    "id3": ("mp3", _tag_id3),
    "ape": ("mp3", _tag_ape),
    "flac": ("flac", _tag_flac),
    "ogg": ("ogg", _tag_ogg),
    "opus": ("opus", _tag_ogg),
    "wav": ("wav", _tag_id3),
    "aiff": ("aiff", _tag_id3),
    "m4a": ("m4a", _tag_mp4),
    "wma": ("wma", _tag_wma),
}


def make_untagged(path: Path, seconds: float = 0.2) -> Path:
    """Write a short file in the format of its extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 48_000 if path.suffix == ".opus" else 44_100
    samples = music(1, seconds, rate).astype(np.float32)
    options = _SOUND.get(path.suffix[1:])
    if options is not None:
        soundfile.write(path, samples, rate, **options)
        return path
    wav = path.with_name(f"{path.name}.in.wav")
    soundfile.write(wav, samples, rate)
    encode(wav, path, *(("-map_metadata", "-1")))
    wav.unlink()
    return path


def make_tagged(kind: str, folder: Path) -> Path:
    """Write a short file with TEXTS and PICTURES."""
    extension, tag = TAGGERS[kind]
    path = make_untagged(folder / f"{kind}.{extension}")
    tag(path)
    return path
