"""What the documents say to type is understood by the jobs."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipelines.runtime.command_line import with_underscores

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*.yaml"), *ROOT.glob("jobs/*.py")]
_COMMAND = re.compile(r"\bpython jobs/(\w+)\.py (.*)")
_ENTRYPOINT = re.compile(r"\bjob\.sh jobs/(\w+)\.py ([^']*)'")


def commands() -> set[tuple[str, str, tuple[str, ...]]]:
    """Find the commands that are written out: file, job, and arguments."""
    found = set()
    for document in DOCUMENTS:
        text = re.sub(r"\\\n[#\s]*", "", document.read_text())
        for job, rest in _COMMAND.findall(text):
            if "…" not in rest and "`" not in rest:
                found.add((document.name, job, tuple(shlex.split(rest, comments=True))))
    for manifest in (ROOT / "kubernetes").glob("*/kustomization.yaml"):
        for patch in yaml.safe_load(manifest.read_text()).get("patches", []):
            entrypoints = [change["value"] for change in yaml.safe_load(patch["patch"]) if "value" in change]
            for job, rest in _ENTRYPOINT.findall("\n".join(map(str, entrypoints))):
                found.add((f"kubernetes/{manifest.parent.name}", job, tuple(shlex.split(rest))))
    return found


@pytest.mark.parametrize("document, job, arguments", sorted(commands()))
def test_a_job_understands_the_command(
    document: str, job: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # configurations are named from there
    specification = importlib.util.spec_from_file_location(job, ROOT / f"jobs/{job}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    parser = module.build_parser()
    parser.parse_args(with_underscores(parser, arguments))
