"""ViSQOL, pictures and clips of a validation's examples, computed in a task of their own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apollo.training.validation import DEGRADED_SUFFIX, VISQOL
from pipelines.audio import visqol
from pipelines.reporting import clips

_SHOWN = 2  # examples with a picture and clips


def review_examples(
    examples: list[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    folder: str,
    sample_rate: int,
    score: bool,
) -> dict[str, Any]:
    """Score and draw examples.

    Args:
        examples: Name, clean, degraded and restored of each, [channels, samples].
        folder: Folder for pictures and clips.
        sample_rate: Hz.
        score: Whether to measure ViSQOL.

    Returns:
        `scores`: mean ViSQOL of restored and degraded over the examples where both are defined, and their
        number; `pictures` and `clips`: paths by name.
    """
    found = {"pictures": {}, "clips": {}, "scores": {}}  # type: dict[str, dict[str, Any]]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, clean, degraded, restored in examples[:_SHOWN]:
        plain = name.replace("/", "-")
        picture = Path(folder) / f"{plain}.png"
        clips.write_picture(picture, clean, degraded, restored, sample_rate)
        found["pictures"][plain] = str(picture)
        for clip in clips.write_clips(folder, plain, clean, degraded, restored, sample_rate):
            found["clips"][clip.stem] = str(clip)
    if score:
        pairs = [
            (visqol.score(clean, restored, sample_rate), visqol.score(clean, degraded, sample_rate))
            for _, clean, degraded, restored in examples
        ]
        defined = [(after, before) for after, before in pairs if after is not None and before is not None]
        found["scores"]["valid/visqol_examples"] = float(len(defined))
        if defined:
            found["scores"][VISQOL] = math.fsum(after for after, _ in defined) / len(defined)
            found["scores"][VISQOL + DEGRADED_SUFFIX] = math.fsum(before for _, before in defined) / len(
                defined
            )
    return found
