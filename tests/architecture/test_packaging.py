"""The wheel works with the core packages alone, and commands that need more name the extra to install."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import apollo
from tests.support.datasets import encode, music, write

ROOT = Path(__file__).parents[2]
SETS = ("requirements.txt", "requirements-pipeline.txt", "requirements-dev.txt", "requirements-audit.txt")
PIPELINE = "pip install 'apollo-restoration[pipeline]'"


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> dict[str, Distribution]:
    """Return the installed distributions that requirements need, by canonical name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    pending = [Requirement(line) for line in requirements]
    while pending:
        requirement = pending.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        found[canonicalize_name(requirement.name)] = package
        for need in map(Requirement, package.requires or []):
            extras = ("", *requirement.extras)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append(need)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("apollo", "pipelines"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "src")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "src"], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Install the wheel into a folder, beside links to its dependencies and to nothing else."""
    site = wheel.parent / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", site, wheel], check=True, capture_output=True)
    for package in closure(project()["dependencies"]).values():
        for name in {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}:
            if not (site / name).exists():
                (site / name).symlink_to(package.locate_file(name))
    return site


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small generator of random weights."""
    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1))
    return apollo.save(generator, tmp_path_factory.mktemp("checkpoint") / "model")


def run(installed: Path, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run Python with the installed packages alone: -S leaves out this environment's."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-S", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env={**environment, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
    )


def test_the_wheel_holds_both_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"apollo", "pipelines"}
    modules = {
        str(path.relative_to(ROOT))
        for name in ("apollo", "pipelines")
        for path in (ROOT / name).rglob("*.py")
    }
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "pipelines").rglob("templates/*")}
    assert templates
    assets = {
        str(path.relative_to(ROOT))
        for folder in ("apollo/listening", "apollo/web/page")
        for path in (ROOT / folder).iterdir()
        if path.suffix in (".css", ".html", ".js", ".svg")
    }
    assert assets
    assert modules | templates | assets <= names


def test_the_command_restores_a_song_without_the_pipelines_packages(
    installed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = installed / "bin/apollo"
    described = run(installed, command, "--help")
    assert described.returncode == 0, described.stderr
    assert "restore" in described.stdout
    song = encode(write(tmp_path / "song.wav", music(1, 1.0)), tmp_path / "song.mp3", "-b:a", "64k")
    options = ("-o", tmp_path / "out", "--checkpoint", checkpoint, "--json", "--compare")
    restored = run(installed, command, "restore", song, *options)
    assert restored.returncode == 0, restored.stderr
    result = json.loads(restored.stdout)
    assert (result["samples"], result["warnings"]) == (44_100, [])
    assert "player" in (tmp_path / "out/song.compare.html").read_text()
    assert (tmp_path / "out/song.wav").stat().st_size > 8 * 44_100


def test_the_installed_model_restores_a_folder_without_a_network(installed: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"album/{name}.wav", music(1, 1.0))
    arguments = ["restore", str(tmp_path / "album"), "-o", str(tmp_path / "out"), "--jobs", "2", "--json"]
    code = f"""
import socket, sys
def refuse(*_):
    raise OSError("no network")
socket.create_connection = socket.getaddrinfo = refuse
from apollo.__main__ import main
sys.exit(main({arguments!r}))
"""
    restored = run(installed, "-c", code)
    assert restored.returncode == 0, restored.stderr
    assert [json.loads(line)["samples"] for line in restored.stdout.splitlines()] == [44_100] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.wav", "two.wav"]


def test_commands_name_the_extra_that_they_need(installed: Path, checkpoint: Path, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    restore = ["restore", str(song), "-o", str(tmp_path / "out")]
    commands = [
        ["info", str(checkpoint)],
        ["info", "models:/apollo@champion"],
        ["info", "s3://bucket/run"],
        ["info", "some/body"],
        [*restore, "--checkpoint", str(checkpoint), "--picture"],
        ["export", "-o", str(tmp_path / "model.onnx")],
        [*restore, "--backend", "onnx"],
        ["web"],
    ]
    code = f"""
import sys
from apollo.__main__ import main
print([main(arguments) for arguments in {commands!r}])
"""
    result = run(installed, "-c", code)
    assert result.stdout.splitlines()[-1] == "[0, 2, 2, 2, 1, 2, 2, 2]", result.stderr
    _, models, s3, hub, picture, export, onnx, web = ["", *result.stderr.splitlines()]
    assert "models:/apollo@champion" in models
    assert PIPELINE in models
    assert PIPELINE in s3
    assert "pip install 'apollo-restoration[hub]'" in hub
    assert "pip install matplotlib" in picture
    for line in (export, onnx):
        assert "pip install 'apollo-restoration[onnx]'" in line
    assert not list(tmp_path.glob("*.onnx*"))
    assert web == "apollo: web needs more packages: pip install 'apollo-restoration[web]'"


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_jobs_name_the_extra_that_they_need(installed: Path, path: Path) -> None:
    result = run(installed, path, "--help")
    assert result.returncode == 1
    assert PIPELINE in result.stderr.splitlines()[-1]


def pins(name: str) -> dict[str, str]:
    """Return the versions that a file pins, by canonical name, without those of the file that it includes."""
    lines = (ROOT / name).read_text().splitlines()
    pinned = [
        re.fullmatch(r"([\w.-]+)==([\w.]+)(; [\w =\"]+)?", line)  # a marker leaves out what a machine lacks
        for line in lines
        if not line.startswith(("#", "-r "))
    ]
    assert all(pinned), f"{name}: every line is a pin, without a URL"
    return {canonicalize_name(match[1]): match[2] for match in pinned if match}


def test_requirements_include_the_smaller_set_and_pin_each_package_once() -> None:
    for smaller, name in pairwise(SETS):
        assert re.findall(r"^-r (.*)$", (ROOT / name).read_text(), re.MULTILINE) == [smaller]
    assert "-r " not in (ROOT / SETS[0]).read_text()
    assert len({package for name in SETS for package in pins(name)}) == sum(len(pins(name)) for name in SETS)


@pytest.mark.parametrize(
    "extra, files",
    [("", SETS[:1]), ("pipeline", SETS[:2]), ("web", SETS[:2]), ("dev", SETS[:3]), ("onnx", SETS[:3])],
)
def test_direct_dependencies_are_pinned_in_their_set(extra: str, files: tuple[str, ...]) -> None:
    lines = project()["optional-dependencies"][extra] if extra else project()["dependencies"]
    needed = [one for one in map(Requirement, lines) if one.name != "apollo-restoration"]
    pinned = {package: version for name in files for package, version in pins(name).items()}
    for requirement in needed:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("extra, name", [("", SETS[0]), ("pipeline", SETS[1])])
def test_a_set_pins_what_it_needs_and_no_more(extra: str, name: str) -> None:
    lines = project()["dependencies"] + (project()["optional-dependencies"][extra] if extra else [])
    assert set(pins(name)) <= set(closure(lines))
