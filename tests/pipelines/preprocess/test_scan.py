"""Scanning songs: what is measured, and that a bad stem costs that stem and the sum alone."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines import schema
from pipelines.audio import transcoding
from pipelines.audio.activity import find_segments, frame_power
from pipelines.audio.fingerprints import FingerprintExtractor
from pipelines.audio.reading import SourceReader
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.scan import SongScanner, cache_names, find_uncached_songs, read_scans, scan_name
from pipelines.preprocess.songs import Song
from pipelines.runtime.versions import software_versions
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes

RATE = 44_100


def _playing(seconds: float, seed: int) -> NDArray[np.float32]:
    """Noise whose level changes from moment to moment, so that most of it is above the quantile."""
    generator = np.random.default_rng(seed)
    frames = int(seconds * RATE)
    level = np.repeat(generator.uniform(0.02, 0.1, frames // 4_410 + 1), 4_410)[:frames, None]
    return (generator.normal(0, 1, (frames, 2)) * level).astype(np.float32)


def _scanner(folder: Path, cache_bytes: int = 10**9) -> SongScanner:
    return SongScanner(
        str(folder / "output"), str(folder / "cache"), cache_bytes, None, software_versions(None)
    )


def _song(folder: Path, stems: dict[str, NDArray[np.float32]], subtype: str = "FLOAT") -> Song:
    """A song of loose WAV stems."""
    (folder / "data/song").mkdir(parents=True, exist_ok=True)
    for name, samples in stems.items():
        soundfile.write(folder / f"data/song/{name}.wav", samples, RATE, subtype=subtype)
    return _found(folder)


def _found(folder: Path) -> Song:
    (song,) = find_songs([str(folder / "data")]).songs
    return song


def _by_stem(scan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {source["stem"]: source for source in scan["sources"]}


def _segments(samples: NDArray[np.float32]) -> list[list[Any]]:
    return [
        [s.start, s.frames, round(s.rms_db, 2), s.active_starts] for s in find_segments(frame_power(samples))
    ]


def _words(samples: NDArray[np.float32]) -> NDArray[np.uint32]:
    extractor = FingerprintExtractor()
    extractor.add(samples)
    return extractor.sub_fingerprints()


def test_stems_and_their_sum_are_measured_as_if_read_whole(tmp_path: Path) -> None:
    drums, bass = _playing(14, 0), _playing(10.5, 1)
    total = drums.copy()
    total[: len(bass)] += bass
    scan = _scanner(tmp_path).scan(_song(tmp_path, {"drums": drums, "bass": bass}))
    sources = _by_stem(scan)
    assert scan["rejects"] == []
    assert set(sources) == {"drums", "bass", MIXTURE}
    for stem, samples in (("drums", drums), ("bass", bass), (MIXTURE, total)):
        assert sources[stem]["segments"] == _segments(samples)
        assert sources[stem]["segments"]
        assert sources[stem]["source_id"] == f"data/song/{stem}"
        assert (sources[stem]["left_out"], sources[stem]["lossy"]) == (None, False)
    assert (sources["drums"]["frames"], sources["bass"]["frames"]) == (14 * RATE, int(10.5 * RATE))
    assert sources[MIXTURE]["files"] is None
    assert np.array_equal(np.frombuffer(base64.b64decode(scan["print"]), "<u4"), _words(total))


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_file_that_is_the_sum_of_others_is_no_stem(tmp_path: Path, subtype: str) -> None:
    """Whatever it is called: a mix among the stems, the song without its vocals, a bus beside its parts."""
    parts = {name: _playing(7, seed) for seed, name in enumerate(("vocals", "bass", "kick", "snare"))}
    stems = {
        **parts,
        "drums bus": parts["kick"] + parts["snare"],
        "rest": parts["kick"] + parts["snare"] + parts["bass"],
        "guitar": sum(parts.values(), np.zeros_like(parts["bass"])),
    }
    song = _song(tmp_path, stems, subtype)
    scan = _scanner(tmp_path).scan(song)
    sources = _by_stem(scan)
    assert {
        stem: [Path(file["path"]).stem for file in source["files"] or []] for stem, source in sources.items()
    } == {
        "vocals": ["vocals"],
        "bass": ["bass"],
        "drums": ["kick", "snare"],
        MIXTURE: [],
    }
    assert scan["rejects"] == []
    assert scan["remarks"] == [
        "data/song: drums bus.wav is left out: it is the sum of kick.wav, snare.wav",
        "data/song: rest.wav is left out: it is the sum of bass.wav, kick.wav, snare.wav",
        "data/song: guitar.wav is left out: it is the sum of bass.wav, kick.wav, snare.wav, vocals.wav",
    ]
    if subtype == "FLOAT":
        assert sources[MIXTURE]["segments"] == _segments(stems["guitar"])


@pytest.mark.parametrize("gain", [0.1, 0.8, 1.5])
def test_file_that_is_a_sum_at_another_gain_is_no_stem(tmp_path: Path, gain: float) -> None:
    """Files normalised by themselves; a mix hides the others, as it is a sum of them too."""
    parts = {name: _playing(7, seed) for seed, name in enumerate(("vocals", "bass", "drums"))}
    rest = parts["bass"] + parts["drums"]
    stems = {**parts, "guitar": gain * rest, "piano": 0.6 * (rest + parts["vocals"])}
    scan = _scanner(tmp_path).scan(_song(tmp_path, stems))
    assert set(_by_stem(scan)) == {"vocals", "bass", "drums", MIXTURE}
    assert sorted(scan["remarks"]) == [
        "data/song: guitar.wav is left out: it is the sum of bass.wav, drums.wav",
        "data/song: piano.wav is left out: it is the sum of bass.wav, drums.wav, vocals.wav",
    ]


def test_stems_that_are_no_sums_stay(tmp_path: Path) -> None:
    """A copy, a sum of unequal gains, a sum with something of its own, and silence."""
    bass, drums, voice = (_playing(7, seed) for seed in range(3))
    stems = {
        "bass": bass,
        "drums": drums,
        "bass 2": bass,
        "guitar": 1.5 * bass + drums,
        "piano": bass + drums + 0.1 * voice,
        "fx": np.zeros_like(bass),
    }
    scan = _scanner(tmp_path).scan(_song(tmp_path, stems))
    assert scan["remarks"] == []
    assert sum(len(source["files"] or []) for source in scan["sources"]) == len(stems)


def test_mixture_file_takes_the_place_of_the_sum(tmp_path: Path) -> None:
    mixture = _playing(8, 5)
    scan = _scanner(tmp_path).scan(
        _song(tmp_path, {"drums": _playing(8, 0), "vocals": _playing(8, 1), "mixture": mixture})
    )
    source = _by_stem(scan)[MIXTURE]
    assert [Path(file["path"]).name for file in source["files"]] == ["mixture.wav"]
    assert source["segments"] == _segments(mixture)


def test_files_of_one_stem_are_summed(tmp_path: Path) -> None:
    kick, snare = _playing(8, 0), _playing(7, 1)
    total = kick.copy()
    total[: len(snare)] += snare
    scan = _scanner(tmp_path).scan(_song(tmp_path, {"kick": kick, "snare": snare}))
    assert _by_stem(scan)["drums"]["segments"] == _segments(total)
    assert _by_stem(scan)["drums"]["frames"] == len(kick)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "nan-late", "inf-early"])
def test_bad_stem_is_rejected_with_the_sum_and_the_others_stay(tmp_path: Path, damage: str) -> None:
    stems = {name: _playing(12, seed) for seed, name in enumerate(("drums", "vocals", "bass"))}
    if damage.startswith(("nan", "inf")):
        at = 9 * RATE if damage.endswith("late") else 10
        stems["vocals"][at] = np.nan if damage.startswith("nan") else np.inf
    song = _song(tmp_path, stems)
    path = tmp_path / "data/song/vocals.wav"
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"text", "truncated": content[:100_000]}.get(damage, content))
    scan = _scanner(tmp_path).scan(song)
    ((reject),) = scan["rejects"]
    assert (reject["stage"], reject["id"], reject["path"]) == ("scan", "data/song/vocals", str(path))
    expected = {"empty": "empty", "text": "no audio", "truncated": "truncated"}.get(damage, "non-finite")
    assert expected in reject["reason"]
    sources = _by_stem(scan)
    assert set(sources) == {"drums", "bass"}
    assert all(sources[stem]["segments"] == _segments(stems[stem]) for stem in sources)


def test_what_a_header_declares_wrongly_is_a_remark_of_the_scan(tmp_path: Path) -> None:
    song = _song(tmp_path, {"drums": _playing(7, 0), "bass": _playing(7, 1)}, "PCM_16")
    paths = [Path(files[0].name) for files in song.sources.values()]
    for path, size in zip(paths, (14 * RATE, 0), strict=True):  # half of the samples, and none
        content = bytearray(path.read_bytes())
        at = content.find(b"data") + 4
        content[at : at + 4] = size.to_bytes(4, "little")
        path.write_bytes(content)
    for _ in range(2):  # the second time, the decoded file is in the cache
        scan = _scanner(tmp_path).scan(song)
        assert [remark.partition(", ")[0] for remark in scan["remarks"]] == [
            f"{paths[0]}: header declares {14 * RATE} bytes of samples",
            f"{paths[1]}: unfinished: header declares no samples; the {28 * RATE} bytes present were read",
        ]
        assert scan["rejects"] == []


def test_bad_mixture_file_costs_itself_alone(tmp_path: Path) -> None:
    song = _song(tmp_path, {name: _playing(7, 0) for name in ("drums", "vocals", "mixture")})
    (tmp_path / "data/song/mixture.wav").write_bytes(b"text")
    scan = _scanner(tmp_path).scan(song)
    assert set(_by_stem(scan)) == {"drums", "vocals"}
    assert [reject["id"] for reject in scan["rejects"]] == ["data/song/mixture"]


def test_song_of_bad_files_alone_has_no_sources_and_a_reason_for_each(tmp_path: Path) -> None:
    song = _song(tmp_path, {"drums": _playing(7, 0), "vocals": _playing(7, 1)})
    for name in ("drums", "vocals"):
        (tmp_path / f"data/song/{name}.wav").write_bytes(b"")
    scan = _scanner(tmp_path).scan(song)
    assert (scan["sources"], scan["print"], len(scan["rejects"])) == ([], "", 2)


def test_reject_of_a_stem_of_several_files_names_the_first_and_their_number(tmp_path: Path) -> None:
    song = _song(tmp_path, {"kick": _playing(7, 0), "snare": _playing(7, 1)})
    (tmp_path / "data/song/snare.wav").unlink()
    ((reject),) = _scanner(tmp_path).scan(song)["rejects"]
    assert reject["path"].endswith("kick.wav (+1 more)")


@pytest.mark.parametrize(
    "seconds, level, reason", [(2.9, 0.1, "shorter than 3 s"), (5, 0.0, "silent"), (5, 1e-5, "silent")]
)
def test_source_that_cannot_be_mixed_is_left_out_with_its_reason(
    tmp_path: Path, seconds: float, level: float, reason: str
) -> None:
    quiet = _playing(seconds, 0) * np.float32(level * 10)
    scan = _scanner(tmp_path).scan(_song(tmp_path, {"drums": quiet, "bass": _playing(7, 1)}))
    assert _by_stem(scan)["drums"]["left_out"] == reason
    assert _by_stem(scan)["bass"]["left_out"] is None
    assert scan["rejects"] == []


@pytest.mark.parametrize("edge_hz", [4_000, 11_025, 16_000, 20_000])
def test_bandwidth_of_low_passed_noise_is_its_cutoff(tmp_path: Path, edge_hz: int) -> None:
    spectrum = np.fft.rfft(_playing(7, 0), axis=0)
    spectrum[np.fft.rfftfreq(7 * RATE, 1 / RATE) > edge_hz] = 0
    samples = np.fft.irfft(spectrum, axis=0).astype(np.float32)
    path = tmp_path / "data/song/drums.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, samples, RATE, subtype="PCM_16")  # rounding noise above the edge does not count
    found = _by_stem(_scanner(tmp_path).scan(_found(tmp_path)))["drums"]["bandwidth_hz"]
    assert found == pytest.approx(edge_hz, abs=110)  # ten bins: the Hann window leaks


def test_bandwidth_of_noise_is_nyquist_and_of_silence_zero(tmp_path: Path) -> None:
    song = _song(tmp_path, {"drums": _playing(7, 0), "bass": np.zeros((7 * RATE, 2), np.float32)})
    sources = _by_stem(_scanner(tmp_path).scan(song))
    assert sources["drums"]["bandwidth_hz"] == 22_050
    assert sources["bass"]["bandwidth_hz"] == 0


def _compressed(folder: Path) -> Song:
    path = folder / "data/song/drums.ogg"
    path.parent.mkdir(parents=True)
    soundfile.write(path, _playing(7, 0), 48_000)
    soundfile.write(path.with_name("bass.flac"), _playing(7, 1), RATE)
    return _found(folder)


def test_compressed_file_is_decoded_into_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = _compressed(tmp_path)
    first = _scanner(tmp_path).scan(song)
    source = _by_stem(first)["drums"]
    ((file),) = source["files"]
    assert source["lossy"] and _by_stem(first)[MIXTURE]["lossy"] and not _by_stem(first)["bass"]["lossy"]
    assert (file["scale"], file["frames"]) == (transcoding.HEADROOM, round(7 * RATE * RATE / 48_000))
    assert (tmp_path / "cache" / file["readable"]).is_file()
    assert Path(file["readable"]).name in cache_names([song])

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(transcoding, "transcode", refuse)
    assert _scanner(tmp_path).scan(song) == first


def test_cache_over_its_limit_stops_the_scan(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"sources\.cache_gb"):
        _scanner(tmp_path, cache_bytes=1_000).scan(_compressed(tmp_path))


def test_scan_is_left_in_the_output_and_read_back(tmp_path: Path) -> None:
    song = _song(tmp_path, {"drums": _playing(7, 0), "bass": _playing(7, 1)})
    assert _scanner(tmp_path)({"song": song.to_json()}) == {"song_id": "data/song", "rejects": 0}
    output = Folder(str(tmp_path / "output"))
    assert output.exists(scan_name(song))
    assert read_scans(output) == {"data/song": json.loads(json.dumps(_scanner(tmp_path).scan(song)))}


def test_songs_whose_decoded_files_went_away_are_named(tmp_path: Path) -> None:
    song = _compressed(tmp_path)
    scan = _scanner(tmp_path).scan(song)
    rows = [
        {"source_id": source["source_id"], "song_id": song.song_id, "files": source["files"]}
        for source in scan["sources"]
        if source["files"]
    ]
    output, cache = Folder(str(tmp_path / "output")), Folder(str(tmp_path / "cache"))
    output.write("sources.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema.SOURCES)))
    assert find_uncached_songs(output, cache) == set()
    cache.delete(Path(_by_stem(scan)["drums"]["files"][0]["readable"]).name)
    assert find_uncached_songs(output, cache) == {song.song_id}


_STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")


def _write_stem_file(folder: Path, streams: int) -> dict[str, NDArray[np.float32]]:
    """Write a stem file as MUSDB18 has them, of AAC streams; return what each holds."""
    stems = {stem: _playing(7, seed) for seed, stem in enumerate(_STREAMS)}
    command = [find_ffmpeg(), "-loglevel", "error"]
    for stem in _STREAMS[:streams]:
        soundfile.write(folder / f"{stem}.wav", stems[stem], RATE)
        command += ["-i", str(folder / f"{stem}.wav")]
    maps = [text for number in range(streams) for text in ("-map", f"{number}:a")]
    target = folder / "data/train/A - One.stem.mp4"
    target.parent.mkdir(parents=True)
    subprocess.run([*command, *maps, "-c:a", "aac", "-b:a", "256k", str(target)], check=True)
    return stems


def test_streams_of_a_stem_file_are_the_sources_of_its_song(tmp_path: Path) -> None:
    stems = _write_stem_file(tmp_path, 5)
    song = _found(tmp_path)
    scan = _scanner(tmp_path).scan(song)
    assert scan["rejects"] == []
    sources = _by_stem(scan)
    assert set(sources) == set(_STREAMS) and all(source["lossy"] for source in sources.values())
    assert {Path(path).name for path in cache_names([song])} == {
        file["readable"] for source in sources.values() for file in source["files"]
    }
    reader = SourceReader(str(tmp_path / "cache"))
    for stem, source in sources.items():
        read = reader.read(source["files"], RATE, 5 * RATE)
        similar = {
            other: np.vdot(read, samples[RATE : 6 * RATE]) / np.linalg.norm(read) / np.linalg.norm(samples)
            for other, samples in stems.items()
        }
        assert max(similar, key=lambda other: similar[other]) == stem
    reader.close()


def test_stem_file_with_too_few_streams_costs_those_that_it_lacks(tmp_path: Path) -> None:
    _write_stem_file(tmp_path, 3)
    scan = _scanner(tmp_path).scan(_found(tmp_path))
    assert {reject["id"]: reject["reason"] for reject in scan["rejects"]} == {
        "musdb18/A - One/other": "has 3 audio streams, 4 are needed",
        "musdb18/A - One/vocals": "has 3 audio streams, 5 are needed",
    }
    assert set(_by_stem(scan)) == {MIXTURE, "drums", "bass"}


@pytest.mark.timeout(60)
def test_a_stem_that_claims_days_is_rejected_without_waiting_for_them(tmp_path: Path) -> None:
    _song(tmp_path, {"vocals": _playing(4, 1), "drums": _playing(4, 2)})
    path = tmp_path / "data/song/bass.flac"
    soundfile.write(path, _playing(4, 3), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] |= 8  # 2^35 samples, in the STREAMINFO
    path.write_bytes(content)
    scan = _scanner(tmp_path).scan(_found(tmp_path))
    assert [reject["path"].rpartition("/")[2] for reject in scan["rejects"]] == ["bass.flac"]
    assert {source["stem"] for source in scan["sources"]} == {"vocals", "drums"}
    assert all(source["frames"] == 4 * RATE for source in scan["sources"])
