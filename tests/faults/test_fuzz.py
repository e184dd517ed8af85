"""Mutated headers and tags: every file is restored, or fails with a reason: no crash, hang or wrong exit.

Random changes of bytes, and wrong values of the fields that declare lengths: of these files no sample may be
missing or invented without a word. Changes of chunks, which are shrunk to a short example and printed.
APOLLO_FUZZ_SECONDS (`make fuzz`: an hour, divided among the tests) goes on with other seeds. A failure names
the seed; the files of a seed are always the same.
"""

import contextlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from apollo.__main__ import main
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError
from pipelines.preprocess.scan import SongScanner
from pipelines.preprocess.songs import Song, SourceFile
from pipelines.runtime.versions import software_versions
from tests.support import container_mutants, header_mutants, restoration_jobs
from tests.support.datasets import encode, music, write

SECONDS = 0.4
FILES = {  # ten small files: ffmpeg's options
    "a.wav": (),
    "b.flac": (),
    "c.mp3": ("-b:a", "64k", "-metadata", "title=a title", "-metadata", "artist=somebody"),
    "d.ogg": ("-c:a", "libvorbis", "-metadata", "title=a title"),
    "e.opus": ("-c:a", "libopus"),
    "f.m4a": ("-c:a", "aac", "-movflags", "faststart", "-metadata", "title=a title"),
    "g.mka": ("-c:a", "flac", "-metadata", "title=a title"),
    "h.aiff": (),
    "i.caf": (),
    "j.wv": (),
}
MUTANTS = 10  # of each file
LENGTHS = 150  # wrong ones
EXAMPLES = 100  # of changed chunks
TOLERANCE = 1e-4
START, END = 600, 200  # headers and tags are here
MOST_SECONDS = 60.0
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)


def _mutate(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        near_end = chance.random() < 0.2
        at = len(changed) - chance.randrange(1, END) if near_end else chance.randrange(START)
        at = max(min(at, len(changed) - 1), 0)
        kind = chance.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(NUMBERS))
        elif kind == 2:
            changed[at : at + chance.randrange(1, 9)] = chance.randbytes(chance.randrange(9))
        elif kind == 3:
            del changed[at : at + chance.randrange(1, 40)]
        elif kind == 4:
            changed[at:at] = changed[at : at + chance.randrange(1, 200)]
        else:
            changed[at:at] = b"\n  Duration: 99:00:00.00, start: 0\n  Stream #0:0: Audio: flac, 1 Hz, mono"
    return bytes(changed)


def _write_mutants(folder: Path, originals: Path, seed: int) -> None:
    folder.mkdir()
    chance = random.Random(seed)
    for path in sorted(originals.iterdir()):
        for number in range(MUTANTS):
            (folder / f"{number}-{path.name}").write_bytes(_mutate(path.read_bytes(), chance))


def _restore(folder: Path, output: Path, weights: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "apollo", "restore", str(folder), "-o", str(output), "--json"]
    command += ["--checkpoint", str(weights), "--device", "cpu"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _check(result: "subprocess.CompletedProcess[str]", output: Path) -> None:
    assert "Traceback" not in result.stderr, result.stderr[-3_000:]
    assert result.returncode in (0, 1, 3), (result.returncode, result.stderr[-3_000:])
    songs = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(songs) == len(FILES) * MUTANTS
    failed = [song for song in songs if song["status"] == "failed"]
    assert result.returncode == (0 if not failed else 1 if len(failed) == len(songs) else 3)
    assert all(song["reason"] and song["reason"].isprintable() for song in failed)
    for song in songs:
        assert song["elapsed_seconds"] < MOST_SECONDS, song
        if song["status"] == "restored":
            assert soundfile.info(song["output"]).frames == song["samples"] > 0, song
    assert len(list(output.iterdir())) == len(songs) - len(failed)


def _seeds() -> Iterator[int]:
    """Yield 0, or new seeds for a quarter of APOLLO_FUZZ_SECONDS."""
    seconds = float(os.environ.get("APOLLO_FUZZ_SECONDS", "0")) / 4
    end = time.monotonic() + seconds
    seed = 0 if seconds < 1 else int(time.time())
    while True:
        print(f"seed {seed}")
        yield seed
        seed += 1
        if time.monotonic() > end:
            return


def _write_originals(folder: Path) -> Path:
    wav = write(folder / "in.wav", music(1, SECONDS))
    for name, options in FILES.items():
        encode(wav, folder / "originals" / name, *options)
    return folder / "originals"


@pytest.mark.timeout(7_200)
def test_mutated_headers_and_tags_are_restored_or_refused(tmp_path: Path) -> None:
    weights = restoration_jobs.save_generator(tmp_path / "weights")
    originals = _write_originals(tmp_path)
    for seed in _seeds():
        folder, output = tmp_path / f"songs {seed}", tmp_path / f"out {seed}"
        _write_mutants(folder, originals, seed)
        _check(_restore(folder, output, weights), output)
        for path in (*folder.iterdir(), *output.iterdir()):
            path.unlink()


def _read(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    start = time.monotonic()
    with AudioReader(str(path), 44_100) as song:
        samples = torch.cat(list(song.blocks(44_100)), 1).numpy()
    assert time.monotonic() - start < MOST_SECONDS, path
    return samples, song.warnings


@pytest.mark.timeout(7_200)
def test_wrong_lengths_in_headers_lose_and_invent_no_sample_without_a_word(tmp_path: Path) -> None:
    header_mutants.write_originals(tmp_path)
    intact = {path.name: _read(path) for path in tmp_path.iterdir()}
    assert not any(warnings for _, warnings in intact.values())
    for seed in _seeds():
        chance = random.Random(seed)
        for _ in range(LENGTHS):
            mutant = header_mutants.make_mutant(tmp_path, chance)
            path = tmp_path / f"mutant {mutant.original}"
            path.write_bytes(mutant.content)
            try:
                samples, warnings = _read(path)
            except AudioError:
                continue  # a refusal
            expected, _ = intact[mutant.original]
            kept = samples.shape == expected.shape and np.abs(samples - expected).max() < TOLERANCE
            assert kept or warnings, (seed, mutant.name, samples.shape, expected.shape)


def _scan(scanner: SongScanner, path: Path) -> None:
    """Scan a song of one file: it is measured, or rejected with a reason."""
    status = path.stat()
    file = SourceFile(str(path), status.st_size, status.st_mtime_ns)
    start = time.monotonic()
    result = scanner.scan(Song("songs", f"songs/{path.name}", "", path.name, None, {"vocals": (file,)}))
    assert time.monotonic() - start < MOST_SECONDS, path.name
    assert len([row for row in result["sources"] if row["stem"] == "vocals"]) + len(result["rejects"]) == 1
    assert all(reject["reason"].isprintable() and reject["kind"] for reject in result["rejects"])


@pytest.mark.timeout(7_200)
def test_scans_of_preprocess_measure_or_reject_the_same_files(tmp_path: Path) -> None:
    originals = _write_originals(tmp_path)
    header_mutants.write_originals(tmp_path / "lengths")
    scanner = SongScanner(
        str(tmp_path / "output"), str(tmp_path / "cache"), 10**9, None, software_versions(None)
    )
    for seed in _seeds():
        folder = tmp_path / f"songs {seed}"
        _write_mutants(folder, originals, seed)
        chance = random.Random(seed)
        for number in range(LENGTHS):
            mutant = header_mutants.make_mutant(tmp_path / "lengths", chance)
            (folder / f"{number} {mutant.original}").write_bytes(mutant.content)
        for path in sorted(folder.iterdir()):
            _scan(scanner, path)
            path.unlink()
        for path in (tmp_path / "cache").iterdir():
            path.unlink()


def _run(*arguments: str) -> tuple[int, str]:
    """Run the command in this process, which is faster; return its exit code and output."""
    output, errors = io.StringIO(), io.StringIO()
    start = time.monotonic()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(arguments)
    assert time.monotonic() - start < MOST_SECONDS, arguments
    assert "Traceback" not in errors.getvalue(), errors.getvalue()[-3_000:]
    return code, output.getvalue()


@pytest.mark.timeout(7_200)
def test_files_with_changed_chunks_are_restored_inspected_and_scanned_or_refused(tmp_path: Path) -> None:
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path / "hypothesis")
    weights = str(restoration_jobs.save_generator(tmp_path / "weights"))
    originals = {path.name: path.read_bytes() for path in _write_originals(tmp_path).iterdir()}
    scanner = SongScanner(
        str(tmp_path / "output"), str(tmp_path / "cache"), 10**9, None, software_versions(None)
    )

    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=tuple(hypothesis.HealthCheck),
    )
    @hypothesis.given(container_mutants.mutants(originals))
    def check(mutant: container_mutants.Mutant) -> None:
        path, restored = tmp_path / mutant.original, tmp_path / "restored"
        for left in (*restored.glob("*"), *(tmp_path / "cache").glob("*")):
            left.unlink()
        path.write_bytes(mutant.make(originals[mutant.original]))
        options = ("-o", str(restored), "--json", "--force", "--overwrite", "--device", "cpu")
        code, printed = _run("restore", str(path), *options, "--checkpoint", weights)
        song = json.loads(printed)
        assert code == (0 if song["status"] == "restored" else 1), song
        if code:
            assert song["reason"] and song["reason"].isprintable(), song
        else:
            assert soundfile.info(song["output"]).frames == song["samples"] > 0, song
        code, printed = _run("inspect", str(path), "--json")
        (facts,) = json.loads(printed)
        assert code == (1 if facts["problem"] else 0), facts
        _scan(scanner, path)

    for seed in _seeds():
        hypothesis.seed(seed)(check)()
