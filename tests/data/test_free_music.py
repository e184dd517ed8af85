"""data/free_music.py with small packages that the tests build; nothing is downloaded."""

import csv
import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from numpy.typing import NDArray

from data import free_music
from pipelines.free_music.packages import Package, PackageError, apt_download, read_manifest
from pipelines.preprocess.discovery import find_songs

RATE = 44_100
_CAP_SYS_NICE = 23  # the right to real-time priority, in linux/capability.h
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here")


def noise(seconds: float = 4.0, *, edge_hz: float = 22_050, channels: int = 2, seed: int = 0) -> Any:
    """Make white noise that ends at a frequency: [frames, channels]."""
    spectrum = np.fft.rfft(
        np.random.default_rng(seed).normal(0, 0.1, (int(seconds * RATE), channels)), axis=0
    )
    spectrum[int(edge_hz * seconds) :] = 0
    samples: NDArray[np.float64] = np.fft.irfft(spectrum, axis=0)
    return samples


def write(path: Path, samples: Any, **tags: str) -> None:
    """Write a FLAC with tags under any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", RATE, samples.shape[1], format="FLAC") as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(samples)


class Archive:
    """Packages as a Debian archive would have them, and a manifest of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries, self.downloads = folder, [], 0  # type: ignore[var-annotated]

    def add(self, name: str, *songs: dict[str, Any], use: str = "train", **fields: Any) -> Path:
        """Build a package from the tree that lies in the folder of its name; return its file."""
        tree = self.folder / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1-1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: songs\n"
        )
        (tree / f"usr/share/doc/{name}").mkdir(parents=True)
        (tree / f"usr/share/doc/{name}/copyright").write_text("free")
        file = self.folder / f"{name}_1-1_all.deb"
        command = ["dpkg-deb", "-Znone", "--build", tree, file]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entry = {"name": name, "kind": "deb", "version": "1-1", "sha256": digest, "use": use}
        entry |= {"licence": "CC-BY-4.0", "author": "Ada", "songs": list(songs)}
        self.entries.append(entry | fields)
        return file

    def download(self, package: Package, folder: Path, any_version: bool) -> None:
        """Stand in for apt-get download."""
        self.downloads += 1
        shutil.copy(self.folder / f"{package.name}_1-1_all.deb", folder)

    def run(self, output: Path, *arguments: str) -> int:
        """Run the script."""
        manifest = self.folder / "manifest.yaml"
        manifest.write_text(yaml.safe_dump({"packages": self.entries}))
        options = ["--output", str(output), "--manifest", str(manifest), "--min-seconds", "3", *arguments]
        return free_music.main(options, download=self.download)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an archive without packages."""
    return Archive(tmp_path / "archive")


def rows(output: Path) -> dict[str, dict[str, str]]:
    """Read songs.csv by song."""
    with (output / "songs.csv").open(newline="") as file:
        return {row["song"]: row for row in csv.DictReader(file)}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_songs_are_laid_out_and_what_is_no_good_is_listed_with_its_reason(
    archive: Archive, tmp_path: Path
) -> None:
    music = archive.folder / "tunes/usr/share/tunes"
    write(music / "wide.ogg", noise(seed=1), artist="Bach", title="Air")
    write(music / "again.ogg", noise(seed=1), artist="Bach", title="Air")
    write(music / "dull.ogg", noise(edge_hz=12_000))
    write(music / "short.ogg", noise(1.0))
    write(music / "narrow.ogg", noise(channels=1))
    (music / "broken.ogg").write_bytes(b"OggS, but nothing follows")
    write(music / "sounds/click.ogg", noise(seed=2))  # below a folder that no glob names
    archive.add("tunes", {"files": "usr/share/tunes/*.ogg"})
    output = tmp_path / "out"
    assert archive.run(output) == 0
    assert files_below(output / "songs") == {"tunes/Bach - again.ogg"}
    found = rows(output)
    assert found["again"]["left_out"] == "" and found["again"]["files"] == "songs/tunes/Bach - again.ogg"
    assert found["wide"]["left_out"] == "the same as again"
    assert found["dull"]["left_out"].startswith("low-passed: ends at 1")
    assert found["short"]["left_out"] == "too short: 1 s"
    assert found["narrow"]["left_out"] == "mono"
    assert found["broken"]["left_out"].startswith("broken: ")
    edge_hz = int(found["dull"]["bandwidth_hz"])
    assert 11_950 < edge_hz < 12_200  # side lobes of the analysis window reach some bins higher
    assert float(found["again"]["seconds"]) == 4.0
    assert "click" not in found
    text = (output / "ATTRIBUTION.md").read_text()
    assert "Debian package tunes 1-1" in text and "Ada, CC-BY-4.0: again (Bach)" in text
    assert "dull" not in text
    assert (output / "licences/tunes.txt").read_text() == "free"


def test_the_bandwidth_limit_is_an_option(archive: Archive, tmp_path: Path) -> None:
    write(archive.folder / "tunes/music/dull.ogg", noise(edge_hz=12_000))
    archive.add("tunes", {"files": "music/*.ogg"})
    assert archive.run(tmp_path / "out", "--min-bandwidth-hz", "11000") == 0
    assert files_below(tmp_path / "out/songs") == {"tunes/dull.ogg"}
    assert archive.run(tmp_path / "out") == 0  # other limits: measured again
    assert files_below(tmp_path / "out/songs") == set()


def test_songs_in_an_archive_within_the_package(archive: Archive, tmp_path: Path) -> None:
    tree = archive.folder / "game"
    write(tree / "a.ogg", noise(seed=3))
    with zipfile.ZipFile(tree / "music.pk3", "w") as packed:
        packed.write(tree / "a.ogg", "music/Anna01.ogg")
        packed.write(tree / "a.ogg", "sound/step.ogg")
    songs = {"files": "music/Anna*.ogg", "author": "Anna", "licence": "MIT"}
    archive.add("game", songs, archive="music.pk3")
    assert archive.run(tmp_path / "out") == 0
    assert files_below(tmp_path / "out/songs") == {"game/Anna - Anna01.ogg"}
    assert "Anna, MIT: Anna01" in (tmp_path / "out/ATTRIBUTION.md").read_text()


def test_stems_become_a_song_that_preprocess_takes_as_stems(archive: Archive, tmp_path: Path) -> None:
    song = archive.folder / "band/songs/Loud"
    write(song / "guitar.ogg", noise(seed=4, edge_hz=9_000))
    write(song / "song.ogg", noise(seed=5))
    (song / "notes.mid").write_bytes(b"MThd")
    stems = {"guitar.ogg": "guitar", "song.ogg": "other"}
    archive.add("band", {"files": "songs/*/*.ogg", "stems": stems, "artist": "Band"})
    assert archive.run(tmp_path / "out") == 0
    assert files_below(tmp_path / "out/songs") == {
        "band/Band - Loud/guitar.ogg",
        "band/Band - Loud/other.ogg",
    }
    assert int(rows(tmp_path / "out")["Loud"]["bandwidth_hz"]) > 21_000  # of the sum
    [found] = find_songs([str(tmp_path / "out/songs")]).songs
    assert found.artist == "Band" and set(found.sources) == {"guitar", "other"}


def test_songs_for_testing_need_an_option_and_never_lie_among_those_for_training(
    archive: Archive, tmp_path: Path
) -> None:
    write(archive.folder / "tunes/music/a.ogg", noise(seed=6))
    archive.add("tunes", {"files": "music/*.ogg"})
    write(archive.folder / "trial/music/b.ogg", noise(seed=7, edge_hz=12_000))
    archive.add("trial", {"files": "music/b.ogg"}, use="test")
    output = tmp_path / "out"
    assert archive.run(output) == 0
    assert not (output / "test").exists() and set(rows(output)) == {"a"}
    assert archive.run(output, "--test") == 0
    assert files_below(output / "songs") == {"tunes/a.ogg"}
    assert files_below(output / "test") == {"trial/b.ogg"}
    assert rows(output)["b"]["use"] == "test"


def test_a_second_run_neither_downloads_nor_measures_again(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(archive.folder / "tunes/music/a.ogg", noise(seed=8))
    archive.add("tunes", {"files": "music/*.ogg"})
    output = tmp_path / "out"
    assert archive.run(output) == 0
    before = rows(output)
    (output / "songs.csv").unlink()
    monkeypatch.setattr(free_music, "lay_out", None)
    assert archive.run(output) == 0
    assert rows(output) == before and archive.downloads == 1


def test_a_song_that_was_deleted_is_made_again(archive: Archive, tmp_path: Path) -> None:
    write(archive.folder / "tunes/music/a.ogg", noise(seed=9))
    archive.add("tunes", {"files": "music/*.ogg"})
    output = tmp_path / "out"
    assert archive.run(output) == 0
    (output / "songs/tunes/a.ogg").unlink()
    assert archive.run(output) == 0
    assert (output / "songs/tunes/a.ogg").exists() and archive.downloads == 1


def test_another_version_is_refused_unless_any_version_is_set(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(archive.folder / "tunes/music/a.ogg", noise(seed=10))
    archive.add("tunes", {"files": "music/*.ogg"})
    archive.entries[0]["sha256"] = "0" * 64
    output = tmp_path / "out"
    assert archive.run(output) == 1
    assert "differs from version 1-1" in capsys.readouterr().err
    assert not (output / "songs").exists()
    assert archive.run(output, "--any-version") == 0
    assert "differs from version 1-1" in caplog.text
    assert files_below(output / "songs") == {"tunes/a.ogg"}


def test_only_takes_the_packages_that_it_names(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("one", "two")):
        write(archive.folder / name / "music/a.ogg", noise(seed=20 + number))
        archive.add(name, {"files": "music/*.ogg"})
    assert archive.run(tmp_path / "out", "--only", "two") == 0
    assert files_below(tmp_path / "out/songs") == {"two/a.ogg"}
    assert archive.run(tmp_path / "out", "--only", "three") == 1
    assert "choose from one, two" in capsys.readouterr().err


def test_projects_are_rendered_and_loud_ones_do_not_clip(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of lmms, a program copies the project, a WAV here, and refuses an empty one."""
    projects = archive.folder / "studio/projects"
    projects.mkdir(parents=True)
    loud = noise(seed=12).astype(np.float32)
    loud *= 3 / np.abs(loud).max()
    soundfile.write(projects / "Loud.mmpz", loud, RATE, "FLOAT", format="WAV")
    soundfile.write(projects / "Quiet-Test.mmp", loud / 30, RATE, "FLOAT", format="WAV")
    (projects / "Faulty.mmpz").write_bytes(b"")
    program = tmp_path / "bin/lmms"
    program.parent.mkdir()
    capabilities = tmp_path / "capabilities"
    program.write_text(
        f'#!/bin/sh\ngrep CapEff /proc/self/status > "{capabilities}"\n'
        'test "$1 $2" = "--allowroot render" && test -s "$3" && cp "$3" "$5"\n'
    )
    program.chmod(0o755)
    archive.add(
        "studio", {"files": "projects/*-Test*", "use": "test"}, {"files": "projects/*"}, render="lmms"
    )
    output = tmp_path / "out"
    assert archive.run(output) == 0
    assert not rows(output)  # only with --render
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert archive.run(output, "--render") == 0
    assert files_below(output / "songs") == {"studio/Loud.flac"}
    assert files_below(output / "test") == {"studio/Quiet-Test.flac"}
    assert rows(output)["Faulty"]["left_out"].startswith("broken: ")
    written, _ = soundfile.read(output / "songs/studio/Loud.flac")
    np.testing.assert_allclose(written, loud * 0.99 / 3, atol=2**-22)  # two steps of 24 bits
    assert not int(capabilities.read_text().split()[1], 16) >> _CAP_SYS_NICE & 1
    written, _ = soundfile.read(output / "test/studio/Quiet-Test.flac")
    np.testing.assert_allclose(written, loud / 30, atol=2**-22)


def test_a_system_without_lmms_is_named(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(archive.folder / "studio/projects/a.mmpz", noise(seed=13))
    archive.add("studio", {"files": "projects/*"}, render="lmms")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dpkg-deb").symlink_to(str(shutil.which("dpkg-deb")))
    monkeypatch.setenv("PATH", str(programs))
    assert archive.run(tmp_path / "out", "--render") == 1
    assert "there is no lmms here: apt-get install" in capsys.readouterr().err


def test_a_system_without_apt_is_named(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(archive.folder / "tunes/music/a.ogg", noise(seed=11))
    archive.add("tunes", {"files": "music/*.ogg"})
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(yaml.safe_dump({"packages": archive.entries}))
    [package] = read_manifest(manifest)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="no apt-get here: run on Debian"):
        apt_download(package, tmp_path, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rpm"}, "kind must be deb"),
        ({"render": "sox"}, "render must be lmms or absent"),
        ({"use": "valid"}, "use must be train or test"),
        ({"size": 3}, "unexpected keyword argument 'size'"),
        ({"author": None}, "without a licence or an author"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entry = {"name": "a", "kind": "deb", "version": "1", "sha256": "0", "use": "train"}
    entry |= {"licence": "MIT", "author": "Ada", "songs": [{"files": "*.ogg"}]}
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump({"packages": [entry | change]}))
    with pytest.raises(PackageError, match=message):
        read_manifest(path)


def test_the_projects_manifest_keeps_test_music_apart() -> None:
    packages = read_manifest(free_music.MANIFEST)
    names = [package.name for package in packages]
    assert len(set(names)) == len(names)
    for_testing = {package.name for package in packages if not package.trains}
    assert for_testing == {"lincity-ng-data", "trackballs-data", "xmoto-data", "neverball-common"}
    [lmms] = [package for package in packages if package.render]
    for name in ("EsoXLB-CPU.flac", "Impulslogik-Zen.flac"):
        found = lmms.find(f"usr/share/lmms/projects/demos/{name}")
        assert found is not None and found.use == "test"
    assert all(len(package.sha256) == 64 for package in packages)
