"""Small files that claim, or hold, hours: whatever decodes them stays small, and says what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support import datasets, evaluation_jobs

Said = tuple[dict[str, dict[str, str]], dict[str, list[float]]]
TEN_HOURS = 10 * 3600 * datasets.SAMPLE_RATE
MOST_MB = 250  # ten hours are 12,700; the rest is a block of 5 s, the network's state and libraries
_PROBE = """
import base64, json, os, resource, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from pipelines.runtime.versions import software_versions
from pipelines.runtime.run import check_fingerprint, lock_output
from apollo.checkpoints.checkpoint import load
from apollo.audio.formats import SongsConfig
from apollo.audio.songs import SongJob, restore_songs
from pipelines.audio.codec import CodecError, decode
from pipelines.preprocess.songs import Song, SourceFile
from pipelines.evaluation.pair_items import PairItems
from pipelines.preprocess.scan import SongScanner
from pipelines.registry.pyfunc_model import RequestError, RestorationModel

folder, model = Path(sys.argv[1]), sys.argv[2]
generator = load(model)

def scan(path):
    scanner = SongScanner(str(folder / "out"), str(folder / "cache"), 1 << 30, None, software_versions(None))
    entry = SourceFile(str(path), path.stat().st_size, 0)
    song = Song("set", path.name, "", path.name, None, {"mixture": (entry,)})
    found = scanner.scan(song)
    reasons = [reject["reason"] for reject in found["rejects"]]
    return " | ".join(reasons) or f"{found['sources'][0]['frames']} frames"

def restore(path):
    jobs = [SongJob(path, folder / "restored.wav")]
    (outcome,) = restore_songs(generator, jobs, SongsConfig(overwrite=True, picture=path.suffix == ".flac"))
    return outcome.reason or " | ".join([*outcome.warnings, f"{outcome.samples} frames"])

def pair(path):
    place = folder / f"pair {path.name}" / "item"
    place.mkdir(parents=True)
    for role in ("clean", "degraded"):
        os.link(path, place / f"{role}{path.suffix}")
    (found,) = PairItems(str(place.parent), (), None).load([0], "given")
    return found if isinstance(found, str) else f"{found.clean.shape[1]} frames"

def serve(path):
    served = RestorationModel()
    served.load_context(type("Context", (), {"artifacts": {"checkpoint": model}}))
    try:
        return f"{len(served.predict([path.read_bytes()])[0])} bytes"
    except RequestError as error:
        return error.message

def row(path):
    try:
        return f"{len(decode(path.read_bytes(), frames=132_300))} frames"
    except CodecError as error:
        return str(error)

def megabytes():
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return [resource.getrusage(one).ru_maxrss / 1024 for one in both]

entries = {one.__name__: one for one in (scan, restore, pair, serve, row)}
told, sizes = {}, {}
for place in ("sound", "claims"):
    for path in sorted((folder / place).iterdir()):
        told[path.name] = {name: entry(path) for name, entry in entries.items()}
    sizes[place] = megabytes()
print(json.dumps([told, sizes]))
"""


def _checked(page: bytearray) -> bytes:
    """Put an Ogg page's checksum in its place."""
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    page[22:26] = checksum.to_bytes(4, "little")
    return bytes(page)


def write_claims(sound: Path, claims: Path) -> None:
    """Write sound files of four seconds, and files of all kinds whose headers say ten hours."""
    claims.mkdir()
    wav = datasets.write(sound / "a.wav", datasets.music(0, seconds=4.0))
    datasets.write(sound / "a.flac", datasets.music(0, seconds=4.0))
    for ending, options in {
        "mp3": ("-b:a", "128k"),
        "ogg": (),
        "stem.mp4": ("-c:a", "aac"),
    }.items():
        datasets.encode(wav, sound / f"a.{ending}", *options)
    content = {path.name.partition(".")[2]: bytearray(path.read_bytes()) for path in sound.iterdir()}

    total = int.from_bytes(content["flac"][18:26], "big")
    content["flac"][18:26] = (total >> 36 << 36 | TEN_HOURS).to_bytes(8, "big")
    size = content["wav"].index(b"data") + 4
    content["wav"][size : size + 4] = (0x7FFE_0000).to_bytes(4, "little")
    count = max(content["mp3"].find(b"Xing"), content["mp3"].find(b"Info")) + 8
    content["mp3"][count : count + 4] = (TEN_HOURS // 1152).to_bytes(4, "big")
    page = content["ogg"].rfind(b"OggS")
    content["ogg"][page + 6 : page + 14] = TEN_HOURS.to_bytes(8, "little")
    content["ogg"][page:] = _checked(content["ogg"][page:])
    stem = content["stem.mp4"]
    times = stem.index(b"stts") + 12
    frames = int.from_bytes(stem[times : times + 4], "big")
    stem[times + 4 : times + 8] = (TEN_HOURS // frames).to_bytes(4, "big")
    for box, place in ((b"mdhd", 20), (b"mvhd", 20), (b"tkhd", 28)):
        at = stem.index(box) + place
        stem[at : at + 4] = TEN_HOURS.to_bytes(4, "big")
    for name in ("mp3", "ogg", "wav"):  # two are enough to see that sound ones are taken
        (sound / f"a.{name}").unlink()
    for name, changed in content.items():
        (claims / f"claims.{name}").write_bytes(changed)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What every entry says of every file, and the most memory, MB, of the process and of its children."""
    folder = tmp_path_factory.mktemp("sizes")
    model = evaluation_jobs.write_model(folder / "model")
    write_claims(folder / "sound", folder / "claims")
    silence = np.zeros((70 * datasets.SAMPLE_RATE, 1), np.int16)
    soundfile.write(folder / "claims/silence.flac", silence, datasets.SAMPLE_RATE)
    soundfile.write(folder / "claims/slow.wav", np.zeros(1_000_000, np.int16), 1, subtype="PCM_U8")
    soundfile.write(folder / "claims/wide.wav", np.zeros((500, 1_000), np.int16), datasets.SAMPLE_RATE)
    assert all(path.stat().st_size <= 1 << 20 for path in (folder / "claims").iterdir())
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "APOLLO_SERVE_MAX_SECONDS": "60",
    }
    ended = subprocess.run(
        [sys.executable, "-c", _PROBE, str(folder), str(model)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    told, sizes = json.loads(ended.stdout.splitlines()[-1])
    return told, sizes


def test_memory_does_not_follow_what_is_claimed(said: Said) -> None:
    _, sizes = said
    grown = [after - before for before, after in zip(sizes["sound"], sizes["claims"], strict=True)]
    assert max(grown) < MOST_MB, sizes


@pytest.mark.parametrize("name", ["a.flac", "a.stem.mp4"])
def test_sound_files_are_taken_and_a_row_that_is_longer_is_not(said: Said, name: str) -> None:
    told = said[0][name]
    assert [told[entry] for entry in ("scan", "restore", "pair")] == ["176400 frames"] * 3
    assert told["serve"].endswith("bytes")
    assert "132300 expected" in told["row"] or "cannot be decoded" in told["row"]


REASONS = {
    # what: of scanning; of restoring; of a pair; of a served model; of a row of a shard
    "claims.flac": (
        "claims.flac",
        "header declares 1587600000 samples",
        "longer than 60 s",
        "bytes",
        "1587600000 samples",
    ),
    "claims.mp3": (
        "frames are missing",
        "frames are missing",
        "longer than 60 s",
        "bytes",
        "132300 expected",
    ),
    "claims.ogg": ("36000.00 s expected", "of 36000.00 s", "longer than 60 s", "bytes", "1587600000 samples"),
    "claims.wav": ("truncated", "truncated", "176400 frames", "bytes", "132300 expected"),
    "claims.stem.mp4": ("no samples", "no samples", "no samples", "no samples", "cannot be decoded"),
    "silence.flac": (
        "3087000 frames",
        "3087000 frames",
        "longer than 60 s",
        "longer than 60 s",
        "3087000 samples",
    ),
    "slow.wav": ("sample rate 1 Hz is below the minimum",) * 4 + ("at 1 Hz",),
    "wide.wav": ("Too many channels",) + ("1000 channels, more than 32",) * 3 + ("of 1000 channels",),
}


@pytest.mark.parametrize("name", REASONS)
def test_every_entry_says_what_is_wrong(said: Said, name: str) -> None:
    told = said[0][name]
    for reason, entry in zip(REASONS[name], ("scan", "restore", "pair", "serve", "row"), strict=True):
        assert reason in told[entry], (entry, told[entry])
