"""The page of the demo: results, songs to listen to, and links to every output."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.redaction import redact
from pipelines.registry.registry import CANDIDATE, CHAMPION, Version
from pipelines.reporting.clips import write_picture
from pipelines.reporting.html import template_environment
from pipelines.runtime.outcome import Outcome
from pipelines.storage.atomic import write_atomic

PAGE = "index.html"
_FOLDER = "pictures"


TITLES = {
    "shards": "music to shards: source activity, random mixes, MP3 at six bitrates",
    "run": "training of the generator",
    "decision": "candidate, champion and MP3 on the validation split",
    "evaluation": "the model and the MP3 on the test split",
    "restored": "MP3s of songs that were never trained on, restored",
}
_PAGES = ("shards", "decision", "evaluation")  # parts with a page of their own


@dataclass(frozen=True)
class Step:
    """A part of the demo that ran.

    Args:
        name: Its name.
        folder: Its output, below the demo's.
        outcome: Its outcome.
        seconds: Wall-clock time of this run.
    """

    name: str
    folder: str
    outcome: Outcome
    seconds: float

    @property
    def title(self) -> str:
        """Its title."""
        return TITLES[self.name]

    @property
    def page(self) -> str:
        """Its own page, below the output; empty where it has none."""
        return quote(f"{self.folder}/report.html") if self.name in _PAGES else ""


def write_page(output: str, steps: Mapping[str, Step], uri: str, model: Version) -> str:
    """Write index.html, which links everything below the output by relative names.

    Args:
        output: Absolute path.
        steps: Parts that ran, by name.
        uri: MLflow's, of a server or database.
        model: What restored the songs.

    Returns:
        The page's path.
    """
    decision, evaluation = (
        json.loads(Path(output, steps[name].folder, "result.json").read_bytes())
        for name in ("decision", "evaluation")
    )
    restored = Path(output, steps["restored"].folder)
    content = (
        template_environment()
        .get_template("demo.html")
        .render(
            verdicts=evaluation["verdicts"],
            decision=decision,
            steps=steps,
            figure=quote(f"{steps['evaluation'].folder}/figure2.png"),
            songs=[_song(output, restored, name) for name in _songs(output)],
            is_database=uri.startswith("sqlite"),
            uri=shlex.quote(redact(uri)),
            model=model.label,
            name=f"models:/{model.name}@{CHAMPION if decision['champion'] else CANDIDATE}",
        )
    )
    target = os.path.join(output, PAGE)
    write_atomic(target, content.encode())
    return target


def _songs(output: str) -> list[str]:
    return sorted(path.stem for path in Path(output, "songs").glob("*.mp3"))


def _song(output: str, results: Path, name: str) -> dict[str, Any]:
    """Draw a song's picture, and name its three versions; a song that was not restored has two."""
    files = {
        "clean": Path(output, "songs-clean", f"{name}.flac"),
        "MP3": Path(output, "songs", f"{name}.mp3"),
        "restored": results / f"{name}.flac",
    }
    there = {role: path for role, path in files.items() if path.exists()}
    picture = Path(output, _FOLDER, f"{name}.png")
    if len(there) == len(files):
        clean, sample_rate = _read(files["clean"])
        degraded, restored = _read(files["MP3"])[0], _read(files["restored"])[0]
        shortest = min(samples.shape[1] for samples in (clean, degraded, restored))
        picture.parent.mkdir(exist_ok=True)
        write_picture(
            picture, clean[:, :shortest], degraded[:, :shortest], restored[:, :shortest], sample_rate
        )
    return {
        "name": name,
        "versions": {role: _link(output, path) for role, path in there.items()},
        "picture": _link(output, picture) if picture.exists() else "",
    }


def _read(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read a file as [channels, samples], with its sample rate."""
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, sample_rate


def _link(output: str, path: Path) -> str:
    """Give a relative link that any name survives."""
    return quote(str(path.relative_to(output)))
