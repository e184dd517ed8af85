"""The example of docs/portable.md runs without torch and restores what `apollo restore` restores."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from apollo.__main__ import main
from tests.support.datasets import music, write

PAGE = Path(__file__).parents[3] / "docs/portable.md"
EXAMPLE, NOISE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
DRAWN = "random.uniform(-(3**0.5), 3**0.5, (2, chunk.shape[2])).astype(np.float32)"
FULL_SCALE = 1e-4


def run(folder: Path, code: str, *options: str) -> np.ndarray:
    """Export a model beside a song, run code with torch blocked, and return what it wrote."""
    write(folder / "song.wav", music(1, 2.345), subtype="FLOAT")
    assert main(["export", "-o", str(folder / "model.onnx"), *options]) == 0
    blocked = "import sys\nsys.modules['torch'] = sys.modules['apollo'] = None\n"
    subprocess.run([sys.executable, "-c", blocked + code], check=True, cwd=folder)
    return soundfile.read(folder / "restored.wav", dtype="float32")[0]


def with_noise_of_apollo(code: str) -> str:
    (drawn,) = re.findall(r'`inputs\["noise"\] = (.*?)`', PAGE.read_text())
    assert DRAWN in code
    return NOISE.replace("import hashlib\n", "import hashlib\nimport numpy as np\n") + code.replace(
        DRAWN, drawn
    )


def restore(folder: Path) -> np.ndarray:
    command = ["restore", str(folder / "song.wav"), "-o", str(folder / "out"), "--force"]
    assert main([*command, "--precision", "float32"]) == 0
    samples: np.ndarray = soundfile.read(folder / "out/song.wav", dtype="float32")[0]
    return samples


@pytest.mark.parametrize("options", [(), ("--int8",)])
def test_the_example_restores_a_song_without_torch(tmp_path: Path, options: tuple[str, ...]) -> None:
    found, expected = run(tmp_path, EXAMPLE, *options), restore(tmp_path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() > FULL_SCALE  # it draws other noise
    assert np.square(found - expected).mean() < 0.05 * np.square(expected).mean()


def test_with_the_same_noise_it_equals_apollo_restore(tmp_path: Path) -> None:
    found = run(tmp_path, with_noise_of_apollo(EXAMPLE))
    assert np.abs(found - restore(tmp_path)).max() <= FULL_SCALE


def test_the_example_is_about_thirty_lines() -> None:
    assert sum(bool(line) for line in EXAMPLE.splitlines()) <= 35
