"""README and docs name files, functions and pages that exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.test_imports import LAYERS

ROOT = Path(__file__).parents[2]
MAPS = [ROOT / "README.md", ROOT / "docs" / "architecture.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = {"apollo", "pipelines", "jobs", "tests", "docs", "benchmarks", "kubernetes", "data", ".ci"}
SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt"}
_CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_NAME_AFTER_LINK = re.compile(r"\]\(([\w./-]+\.py)\): `([\w.]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return _CODE_BLOCK.sub("", page.read_text())


def named_paths(page: Path) -> list[tuple[str, str]]:
    """Return (path, name in it or "") of everything in backticks that is a path of this repository."""
    found = []
    for code in _CODE.findall(prose(page)):
        path, _, name = code.partition("::")
        known_folder = path.split("/")[0] in FOLDERS and "/" in path
        if known_folder or (Path(path).suffix in SUFFIXES and re.fullmatch(r"[\w./-]+", path)):
            found.append((path, name))
    return found + _NAME_AFTER_LINK.findall(prose(page))


def defined_names(path: Path) -> set[str]:
    """Return the names that a module defines: `function`, `Class`, `Class.method`, `CONSTANT`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return names


def missing_names(page: Path) -> list[str]:
    missing = []
    for path, name in named_paths(page):
        if not (ROOT / path).exists():
            missing.append(path)
        elif name and name not in defined_names(ROOT / path):
            missing.append(f"{path}::{name}")
    return missing


def broken_links(page: Path) -> list[str]:
    links = [link.partition("#")[0] for link in _LINK.findall(prose(page)) if "://" not in link]
    return [link for link in links if link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.name)
def test_named_files_and_functions_exist(page: Path) -> None:
    assert not missing_names(page)


def test_the_map_names_many_functions() -> None:
    assert sum(bool(name) for _, name in named_paths(ROOT / "docs" / "architecture.md")) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    assert not broken_links(page)


def test_missing_names_and_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`apollo/training/gan.py::Gan.step` `apollo/training/gan.py::Gan.walk` `apollo/gone.py`\n"
        "[a](page.md) [b](b.md#c) [c](apollo/metrics.py): `snr` [d](apollo/metrics.py): `snor`"
    )
    assert missing_names(page) == [
        "apollo/training/gan.py::Gan.walk",
        "apollo/gone.py",
        "apollo/metrics.py::snor",
    ]
    assert broken_links(page) == ["b.md", "apollo/metrics.py", "apollo/metrics.py"]


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_layers_are_those_of_the_imports(package: str) -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition(f"| {package} | what |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].replace(",", "").split() for row in rows] == [
        names.split() for names in LAYERS[package]
    ]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 7_000


def test_docs_requirements_are_pinned_beside_those_of_dev() -> None:
    lines = (ROOT / "requirements-docs.txt").read_text().splitlines()[1:]
    assert lines[0] == "-r requirements-dev.txt"
    pins = [re.fullmatch(r"([\w.-]+)==[\w.]+", line) for line in lines[1:]]
    assert all(pins)
    others = "".join((ROOT / f"requirements{name}.txt").read_text() for name in ("", "-pipeline", "-dev"))
    assert not [pin[1] for pin in pins if pin and f"\n{pin[1]}==".lower() in others.lower()]


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"]
    assert not [page for page in pages if not re.search(rf": {re.escape(page)}$", navigation, re.MULTILINE)]
