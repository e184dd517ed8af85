"""Make training music: download Debian packages that hold freely licensed songs, and lay the songs out.

    python data/free_music.py --output /data/free-music
    python data/free_music.py --output /data/free-music --only hyperrogue-music pushover-data
    python data/free_music.py --output /data/free-music --test

The packages, their versions, checksums, licences and authors are in free_music.yaml. Nothing is installed.
--render adds LMMS's demonstration projects, rendered by `lmms`, which must be installed. OUTPUT then holds
`songs/` and, with --test, `test/`, each as jobs/preprocess.py takes it as --data; songs.csv with what was
measured of every song and why some are left out; ATTRIBUTION.md and licences/. Packages stay in `packages/`
and may be deleted. Run the same command again to continue a run that was stopped.
"""

import argparse
import hashlib
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pipelines.free_music.packages import (
    Download,
    Package,
    PackageError,
    apt_download,
    copyright_name,
    fetch,
    read_manifest,
    unpack,
)
from pipelines.free_music.rendering import render_projects
from pipelines.free_music.songs import Limits, Song, attribution, lay_out, read_songs, write_songs

MANIFEST = Path(__file__).with_suffix(".yaml")
_log = logging.getLogger("free_music")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="free_music", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for songs, packages and lists")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="take these packages only")
    parser.add_argument("--test", action="store_true", help="take the songs for testing too")
    parser.add_argument("--render", action="store_true", help="take LMMS projects too, and render them")
    parser.add_argument("--any-version", action="store_true", help="take other versions of the packages too")
    limits = Limits()
    parser.add_argument("--min-bandwidth-hz", type=int, default=limits.min_bandwidth_hz, metavar="HZ")
    parser.add_argument("--min-kbps", type=float, default=limits.min_kbps, metavar="KBPS")
    parser.add_argument("--min-seconds", type=float, default=limits.min_seconds, metavar="SECONDS")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="another list of packages")
    return parser


def choose(packages: list[Package], only: list[str] | None, *, test: bool, render: bool) -> list[Package]:
    """Return the packages that a run takes.

    Raises:
        PackageError: a name is not in the manifest, or its package needs `test` or `render`.
    """
    allowed = [
        package for package in packages if (test or package.trains) and (render or package.render is None)
    ]
    unknown = set(only or []) - {package.name for package in allowed}
    if unknown:
        names = ", ".join(package.name for package in allowed)
        raise PackageError(
            f"--only {' '.join(sorted(unknown))}: choose from {names} (--test and --render add more)"
        )
    return [package for package in allowed if only is None or package.name in only]


def make(
    package: Package, output: Path, limits: Limits, *, any_version: bool, download: Download
) -> list[Song]:
    """Return a package's songs, made in the output unless an earlier run has made them with these limits."""
    decides = hashlib.sha256(repr((package, limits)).encode()).hexdigest()[:16]
    record = output / "packages" / f"{package.name}-{decides}.csv"
    if record.exists():
        songs = read_songs(record)
        if all((output / name).exists() for song in songs for name in song.files.split("|") if name):
            return songs
    file = fetch(package, output / "packages", any_version=any_version, download=download)
    for use in ("songs", "test"):
        shutil.rmtree(output / use / package.name, ignore_errors=True)  # of a run with other limits
    with tempfile.TemporaryDirectory(dir=output, prefix="unpacked-") as scratch:
        unpack(package, file, Path(scratch))
        if package.render:
            render_projects(package, Path(scratch))
        songs = lay_out(package, Path(scratch), output, limits)
        copyright_file = Path(scratch, copyright_name(package))
        if copyright_file.exists():
            (output / "licences").mkdir(exist_ok=True)
            shutil.copyfile(copyright_file, output / "licences" / f"{package.name}.txt")
    for old in record.parent.glob(f"{package.name}-*.csv"):
        old.unlink()
    write_songs(record, songs)
    return songs


def main(arguments: list[str] | None = None, *, download: Download = apt_download) -> int:
    """Run from a command line and return the exit code: 0 done, 1 failed."""
    values = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limits = Limits(
        min_bandwidth_hz=values.min_bandwidth_hz, min_kbps=values.min_kbps, min_seconds=values.min_seconds
    )
    output: Path = values.output
    try:
        packages = choose(read_manifest(values.manifest), values.only, test=values.test, render=values.render)
        output.mkdir(parents=True, exist_ok=True)
        for package in packages:
            began = time.monotonic()
            made = make(package, output, limits, any_version=values.any_version, download=download)
            used = [song for song in made if not song.left_out]
            _log.info(
                "%s: %d of %d songs, %.1f minutes (%.0f s)",
                package.name,
                len(used),
                len(made),
                sum(song.seconds for song in used) / 60,
                time.monotonic() - began,
            )
    except (PackageError, OSError) as error:
        print(f"free_music: {error}", file=sys.stderr)
        return 1
    songs = [song for record in sorted(output.glob("packages/*.csv")) for song in read_songs(record)]
    write_songs(output / "songs.csv", songs)
    (output / "ATTRIBUTION.md").write_text(attribution(songs))
    minutes = sum(song.seconds for song in songs if not song.left_out and song.use == "train") / 60
    _log.info("%.0f minutes to train on; preprocess takes them as --data %s", minutes, output / "songs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
