"""The page at the end of the road: what was reached, what to listen to, and where everything lies."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import soundfile

from pipelines.runs import Outcome
from pipelines.storage import write_locally
from pipelines.tracking_uri import shown
from pipelines.validation_media import write_picture

PAGE = "index.html"
_FOLDER = "pictures"


TITLES = {
    "shards": "music to shards: source activity, random mixes, MP3 at six bitrates",
    "run": "training: the generator against its discriminator",
    "decision": "candidate, champion and MP3 on the validation split",
    "evaluation": "the model and the MP3 on the test split",
    "restored": "MP3s of songs that were never trained on, restored",
}
_PAGES = ("shards", "decision", "evaluation")  # parts with a page of their own


@dataclass(frozen=True)
class Step:
    """A part of the road that was walked.

    Args:
        name: Of it, and of its folder.
        outcome: How it ended.
        seconds: How long it took now.
    """

    name: str
    outcome: Outcome
    seconds: float

    @property
    def title(self) -> str:
        """What it does."""
        return TITLES[self.name]

    @property
    def page(self) -> str:
        """Its own page, below the output; empty where it has none."""
        return f"{self.name}/report.html" if self.name in _PAGES else ""


def write_page(output: str, steps: Sequence[Step], uri: str, model: str) -> str:
    """Write index.html, which links everything below the output by relative names.

    Args:
        output: Absolute path.
        steps: What was walked.
        uri: MLflow's, of a server or database.
        model: Name of the model that restored the songs.

    Returns:
        The page's path.
    """
    decision = json.loads(Path(output, "decision", "result.json").read_bytes())
    evaluation = json.loads(Path(output, "evaluation", "result.json").read_bytes())
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipelines"), autoescape=True)
    content = environment.get_template("road.html").render(
        verdicts=evaluation["verdicts"],
        decision=decision,
        steps=steps,
        songs=[_song(output, name) for name in _songs(output)],
        is_database=uri.startswith("sqlite"),
        uri=shown(uri),
        model=model,
        output=output,
    )
    target = os.path.join(output, PAGE)
    write_locally(target, content.encode())
    return target


def _songs(output: str) -> list[str]:
    return sorted(path.stem for path in Path(output, "songs").glob("*.mp3"))


def _song(output: str, name: str) -> dict[str, Any]:
    """Draw a song's picture, and name its three versions; a song that was not restored has two."""
    files = {
        "clean": Path(output, "songs-clean", f"{name}.flac"),
        "MP3": Path(output, "songs", f"{name}.mp3"),
        "restored": Path(output, "restored", f"{name}.flac"),
    }
    there = {role: path for role, path in files.items() if path.exists()}
    picture = Path(output, _FOLDER, f"{name}.png")
    if len(there) == len(files):
        sound = [soundfile.read(path, dtype="float32", always_2d=True) for path in there.values()]
        shortest = min(len(samples) for samples, _ in sound)
        picture.parent.mkdir(exist_ok=True)
        clean, degraded, restored = (samples[:shortest].T for samples, _ in sound)
        write_picture(picture, clean, degraded, restored, sound[0][1])
    return {
        "name": name,
        "versions": {role: _link(output, path) for role, path in there.items()},
        "picture": _link(output, picture) if picture.exists() else "",
    }


def _link(output: str, path: Path) -> str:
    """Give a relative link that any name survives."""
    return quote(str(path.relative_to(output)))
