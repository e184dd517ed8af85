"""Sources: what is no clean target is left out and says how to take it, and twins become one group."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines import schema
from pipelines.preprocess.songs import Song
from pipelines.preprocess.sources import SourcesConfig, SourceTables, collect_sources
from pipelines.preprocess.splits import SplitsConfig
from pipelines.schema import MIXTURE

WANTED = {"train": 1, "valid": 0, "test": 0}


def _song(name: str, split: str | None = None) -> Song:
    return Song("set", f"set/{name}", "", name, split, {})


def _file(name: str) -> dict[str, Any]:
    path = f"/data/{name}"
    return {
        "path": path,
        "readable": path,
        "scale": 1.0,
        "channels": 2,
        "frames": 9,
        "size": 9,
        "mtime_ns": 9,
    }


def _scan(song: Song, *stems: str, words: int | None = None, **facts: Any) -> dict[str, Any]:
    """A scan in which every source has two windows; `facts` replace what it says of them."""
    sources = [
        {
            "source_id": f"{song.song_id}/{stem}",
            "stem": stem,
            "files": [_file(f"{song.song_id}/{stem}")] if stem != MIXTURE else None,
            "frames": 700_000,
            "lossy": False,
            "bandwidth_hz": 20_000,
            "segments": [[0, 264_600, -20.5, 7], [132_300, 264_600, -30.0, 1]],
            "left_out": None,
        }
        | facts
        for stem in stems
    ]
    seed = words if words is not None else sum(song.song_id.encode())
    prints = np.random.default_rng(seed).integers(1, 1 << 32, 400, np.uint32)
    return {
        "song_id": song.song_id,
        "sources": sources,
        "rejects": [],
        "print": base64.b64encode(prints.astype("<u4").tobytes()).decode(),
    }


def _collect(
    scans: list[tuple[Song, dict[str, Any]]],
    config: SourcesConfig | None = None,
    wanted: dict[str, int] | None = None,
) -> SourceTables:
    return collect_sources(
        [song for song, _ in scans],
        {song.song_id: scan for song, scan in scans},
        config or SourcesConfig(),
        SplitsConfig(),
        wanted or WANTED,
    )


def _left_out(found: SourceTables) -> dict[str, str | None]:
    return {row["source_id"]: row["left_out"] for row in found.rows}


GOOD = _song("good")


def test_usable_sources_have_their_songs_split_and_group_and_their_windows() -> None:
    found = _collect([(GOOD, _scan(GOOD, "drums", "vocals"))])
    (split,) = {row["split"] for row in found.rows}
    assert [row["source_id"] for row in found.usable(split)] == ["set/good/drums", "set/good/vocals"]
    assert {row["group_id"] for row in found.rows} == {"set/good"}
    assert found.segments["set/good/drums"] == [[0, 264_600, -20.5, 7], [132_300, 264_600, -30.0, 1]]


def test_tables_follow_the_documented_schemas() -> None:
    sources, segments = _collect([(GOOD, _scan(GOOD, "drums", MIXTURE))]).tables()
    assert sources.schema.equals(schema.SOURCES) and segments.schema.equals(schema.SEGMENTS)
    assert sources["segments"].to_pylist() == [2, 2]
    assert segments["start"].to_pylist() == [0, 132_300, 0, 132_300]
    assert segments["active_starts"].to_pylist() == [7, 1, 7, 1]


def test_summed_mixture_is_made_of_all_files_of_the_song() -> None:
    rows = {row["stem"]: row for row in _collect([(GOOD, _scan(GOOD, "bass", "drums", MIXTURE))]).rows}
    assert rows[MIXTURE]["files"] == rows["bass"]["files"] + rows["drums"]["files"]


def test_lossy_sources_are_left_out_unless_allowed() -> None:
    song = _song("lossy")
    scans = [(GOOD, _scan(GOOD, "drums")), (song, _scan(song, "drums", lossy=True))]
    assert _left_out(_collect(scans)) == {"set/good/drums": None, "set/lossy/drums": "lossy"}
    assert set(_left_out(_collect(scans, SourcesConfig(allow_lossy=True))).values()) == {None}


def test_band_limited_songs_are_left_out_unless_allowed() -> None:
    song = _song("dull")
    scans = [(GOOD, _scan(GOOD, "drums")), (song, _scan(song, "drums", bandwidth_hz=16_000))]
    assert _left_out(_collect(scans))["set/dull/drums"] == "band-limited: the song ends at 16000 Hz"
    allowed = SourcesConfig(min_bandwidth_hz=16_000)
    assert set(_left_out(_collect(scans, allowed)).values()) == {None}


def test_band_is_that_of_the_songs_widest_source() -> None:
    scan = _scan(GOOD, "bass", "drums")
    scan["sources"][0]["bandwidth_hz"] = 900
    found = _collect([(GOOD, scan)])
    assert [(row["bandwidth_hz"], row["left_out"]) for row in found.rows] == [(20_000, None)] * 2


def test_band_of_lossy_sources_is_not_that_of_the_others() -> None:
    scan = _scan(GOOD, "bass", "drums", "vocals", "piano", MIXTURE)
    bass, drums, vocals, _, mixture = scan["sources"]
    bass["bandwidth_hz"] = 900
    drums |= {"bandwidth_hz": 16_000, "lossy": True}
    vocals |= {"bandwidth_hz": 12_000, "lossy": True}
    mixture |= {"lossy": True}
    rows = _collect([(GOOD, scan)], SourcesConfig(allow_lossy=True, min_bandwidth_hz=0)).rows
    assert [row["bandwidth_hz"] for row in rows] == [20_000, 16_000, 16_000, 20_000, 16_000]


def test_reason_of_the_scan_comes_first() -> None:
    song = _song("silent")
    scans = [(GOOD, _scan(GOOD, "drums")), (song, _scan(song, "drums", lossy=True, left_out="silent"))]
    assert _left_out(_collect(scans))["set/silent/drums"] == "silent"


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"lossy": True}, [r"1 lossy\.", "--sources.allow_lossy true uses lossy files"]),
        ({"bandwidth_hz": 9_000}, ["1 band-limited", "--sources.min_bandwidth_hz 0 uses low-passed ones"]),
        ({"left_out": "silent"}, ["1 silent"]),
    ],
)
def test_no_usable_source_is_an_error_with_reason_and_option(facts: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match="no usable source") as caught:
        _collect([(GOOD, _scan(GOOD, "drums", **facts))])
    assert all(word.replace("\\", "") in str(caught.value) for word in words)


def test_no_usable_source_names_the_first_unreadable_file() -> None:
    scan = _scan(GOOD)
    scan["rejects"] = [
        {"stage": "scan", "id": "set/good/drums", "path": "/data/x.wav", "reason": "the file is empty"}
    ]
    with pytest.raises(ValueError, match=r"1 unreadable \(the first: /data/x\.wav: the file is empty\)"):
        _collect([(GOOD, scan)])


def test_rejects_of_all_scans_are_kept() -> None:
    scans = [(song, _scan(song, "drums")) for song in (_song("a"), _song("b"))]
    for number, (_, scan) in enumerate(scans):
        scan["rejects"] = [{"stage": "scan", "id": str(number), "path": "x", "reason": "y"}]
    assert [reject["id"] for reject in _collect(scans).rejects] == ["0", "1"]


def test_same_recording_in_two_data_sets_is_one_group_in_one_split_with_a_remark() -> None:
    twins = [_song("a", "test"), _song("b")]
    others = [_song(f"other {number}") for number in range(30)]
    scans = [(song, _scan(song, "drums", words=1)) for song in twins]
    scans += [(song, _scan(song, "drums", words=10 + n)) for n, song in enumerate(others)]
    found = _collect(scans)
    rows = {row["song_id"]: row for row in found.rows}
    assert rows["set/a"]["split"] == rows["set/b"]["split"] == "test"
    assert rows["set/a"]["group_id"] == rows["set/b"]["group_id"]
    assert "set/a and set/b are one recording" in found.remarks
    assert len({row["group_id"] for row in found.rows}) == 31


def test_parts_of_one_recording_by_their_place_are_in_one_split() -> None:
    parts = [replace(_song(f"part {number}"), recording="/data/Track1") for number in range(40)]
    songs = (*parts, _song("alone", "train"))
    found = _collect([(song, _scan(song, "drums", words=number)) for number, song in enumerate(songs)])
    rows = {row["song_id"]: row for row in found.rows}
    assert len({rows[song.song_id]["split"] for song in parts}) == 1
    assert len({rows[song.song_id]["group_id"] for song in parts}) == 1
    assert rows["set/alone"]["group_id"] != rows["set/part 0"]["group_id"]
    assert not any("one recording" in remark for remark in found.remarks)  # a remark each would hide others


def test_unusable_song_does_not_fill_a_split() -> None:
    song = _song("lossy")
    scans = [(GOOD, _scan(GOOD, "drums")), (song, _scan(song, "drums", lossy=True))]
    with pytest.raises(ValueError, match="1 usable recordings for 2 splits"):
        _collect(scans, wanted={"train": 1, "test": 1})
