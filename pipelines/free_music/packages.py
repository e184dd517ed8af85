"""Packages that hold freely licensed songs: the manifest, the download, and taking the songs out.

Nothing is installed: `apt-get download` fetches a package's file, and only songs are read from it.
"""

import logging
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, cast

import yaml

from apollo.checkpoints.io import file_sha256

_log = logging.getLogger(__name__)
_NOT_DEBIAN = "run on Debian 12 or in a container of it, for example the image debian:bookworm"


class PackageError(RuntimeError):
    """A package cannot be used; the text says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Songs of a package with one licence and author.

    Args:
        files: Glob below the package, or below its archive; * does not cross folders.
        licence: Name of the licence, as SPDX or the package's copyright file has it.
        author: Whom to name.
        use: `train` or `test`.
        artist: Who made these songs, if that is one name; the file's own tag counts where it is empty.
        stems: For songs that are folders of stems: the class of each file by its name.
    """

    files: str
    licence: str
    author: str
    use: str
    artist: str = ""
    stems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package with songs.

    Args:
        name: Name of the package.
        kind: `deb`.
        version: Version that `sha256` belongs to.
        sha256: Checksum of the package's file.
        songs: What of it are songs; the first that matches a file counts.
        archive: Zip file in the package that holds the songs.
        render: `lmms` if the songs are LMMS projects, which must be rendered.
    """

    name: str
    kind: str
    version: str
    sha256: str
    songs: tuple[Files, ...]
    archive: str | None = None
    render: str | None = None

    @property
    def trains(self) -> bool:
        """Whether a song of it is for training."""
        return any(entry.use == "train" for entry in self.songs)

    def find(self, path: str) -> Files | None:
        """Return the entry of `songs` that a file belongs to; None for what is no song."""
        return next((entry for entry in self.songs if _matches(path, entry.files)), None)


Download = Callable[[Package, Path, bool], None]


def read_manifest(path: Path) -> list[Package]:
    """Read and check a manifest such as data/free_music.yaml.

    Raises:
        PackageError: an entry lacks a field, has an unknown one, or has a kind or use that is unknown.
    """
    packages = []
    for entry in yaml.safe_load(path.read_text())["packages"]:
        name = entry.get("name", "an entry without a name")
        shared = {field: entry.pop(field, None) for field in ("licence", "author", "use")}
        try:
            songs = tuple(
                Files(**(shared | {"artist": files.get("author", "")} | files))
                for files in entry.pop("songs")
            )
            package = Package(**entry, songs=songs)
        except (KeyError, TypeError) as error:
            raise PackageError(f"{path}: {name}: {error}") from error
        if package.kind != "deb" or package.render not in (None, "lmms"):
            raise PackageError(f"{path}: {name}: kind must be deb, and render must be lmms or absent")
        if any(files.use not in ("train", "test") for files in songs):
            raise PackageError(f"{path}: {name}: use must be train or test")
        if not all(files.licence and files.author for files in songs):
            raise PackageError(f"{path}: {name}: songs without a licence or an author")
        packages.append(package)
    return packages


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def apt_download(package: Package, folder: Path, any_version: bool) -> None:
    """Download a package's file into a folder with apt-get.

    Raises:
        PackageError: apt-get is missing, or does not find the package.
    """
    program = shutil.which("apt-get")
    if program is None:
        raise PackageError(f"there is no apt-get here: {_NOT_DEBIAN}")
    wanted = package.name if any_version else f"{package.name}={package.version}"
    command = [program, "-q", "-o", "APT::Sandbox::User=root", "download", wanted]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise PackageError(
            f"apt-get download {wanted}: {ended.stderr.strip()}. Run apt-get update first; if only another "
            "version is available, --any-version takes it"
        )


def fetch(
    package: Package, folder: Path, *, any_version: bool = False, download: Download = apt_download
) -> Path:
    """Return a package's file in a folder, after downloading it if it is not there yet.

    Raises:
        PackageError: it cannot be downloaded, or its checksum differs and `any_version` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.name}_*.deb"
    files = {file_sha256(file): file for file in folder.glob(pattern)}
    if package.sha256 not in files and not (any_version and files):
        _log.info("downloading %s %s", package.name, package.version)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            download(package, Path(scratch), any_version)
            for file in Path(scratch).glob(pattern):
                place = file.replace(folder / file.name)
                files[file_sha256(place)] = place
    if package.sha256 in files:
        return files[package.sha256]
    if not files:
        raise PackageError(f"downloading {package.name} left no file {pattern}")
    other = list(files.values())[-1]
    difference = f"{other.name} differs from version {package.version} in the manifest (its sha256)"
    if not any_version:
        raise PackageError(f"{difference}: delete it to download it again, or take it with --any-version")
    _log.warning("%s: its songs may differ too", difference)
    return other


def unpack(package: Package, file: Path, folder: Path) -> None:
    """Write a package's songs and its copyright file into a folder, under the names they have in it.

    Raises:
        PackageError: dpkg-deb is missing or fails, or the manifest's archive is not in the package.
    """
    wanted = {copyright_name(package), package.archive}
    with _open_files(file) as files:
        for member in files:
            name = member.name.removeprefix("./")
            if member.isfile() and (name in wanted or (not package.archive and package.find(name))):
                files.extract(member, folder, filter="data")
    if package.archive is None:
        return
    path = folder / package.archive
    if not path.exists():
        raise PackageError(f"{file.name} holds no {package.archive}")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if package.find(name):
                archive.extract(name, folder)
    path.unlink()


def copyright_name(package: Package) -> str:
    """Return where a Debian package has its copyright file."""
    return f"usr/share/doc/{package.name}/copyright"


@contextmanager
def _open_files(file: Path) -> Iterator[tarfile.TarFile]:
    """Open the files of a Debian package, to be read once from first to last."""
    program = shutil.which("dpkg-deb")
    if program is None:
        raise PackageError(f"there is no dpkg-deb here: {_NOT_DEBIAN}")
    command = [program, "--fsys-tarfile", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
        stream = cast(IO[bytes], process.stdout)
        with tarfile.open(fileobj=stream, mode="r|") as files:
            yield files
        stream.read()  # what pads the end, or dpkg-deb would fail to write it
    if process.returncode:
        raise PackageError(f"{file.name} cannot be unpacked: dpkg-deb failed")
