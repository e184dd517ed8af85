"""ViSQOL against recorded scores, and defined where it has none."""

import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipelines.audio import visqol
from pipelines.audio.visqol import score

RATE = 44_100
TOP = 4.732101253042348  # Google's conformance value of identity
Samples = NDArray[np.float32]


def _noise(seconds: float = 1.5, seed: int = 1, channels: int = 2) -> Samples:
    shape = channels, round(seconds * RATE)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture
def no_scorer() -> Iterator[None]:
    """Forget the scorer of this process, before and after."""
    visqol._load.cache_clear()
    yield
    visqol._load.cache_clear()


@pytest.mark.parametrize(
    "bitrate",
    ["24k", "96k", *(pytest.param(name, marks=pytest.mark.faults) for name in ("32k", "48k", "64k"))],
)
def test_scores_equal_the_recorded_ones(bitrate: str, golden: Path, recordings: Path) -> None:
    scores = json.loads((golden / "metrics_apollo_demo.json").read_text())["scores"]
    folder = recordings / "apollo-demo" / bitrate
    for role in ("degraded", "restored"):
        clean, other = (
            soundfile.read(folder / f"{name}.flac", dtype="float32", always_2d=True)[0].T
            for name in ("clean", role)
        )
        expected = scores[f"{bitrate}/{role}"]["visqol_mos"]
        assert score(clean, other, RATE) == pytest.approx(expected, abs=0.01), role


def test_identity_has_the_top_score() -> None:
    assert score(_noise(), _noise(), RATE) == pytest.approx(TOP, abs=1e-6)


def test_more_noise_scores_lower() -> None:
    clean = _noise()
    scores = [score(clean, clean + share * _noise(seed=2), RATE) for share in (0.0, 0.1, 1.0)]
    assert all(found is not None for found in scores)
    assert sorted(scores, key=lambda found: found or 0.0, reverse=True) == scores
    assert len(set(scores)) == 3


def test_channels_are_averaged_not_interleaved() -> None:
    clean, restored = _noise(), _noise() + 0.3 * _noise(seed=2)
    mono = score(clean.mean(0, keepdims=True), restored.mean(0, keepdims=True), RATE)
    assert score(clean, restored, RATE) == pytest.approx(mono, abs=1e-4)


def _clean_and_bad(kind: str) -> tuple[Samples, Samples]:
    sound, silence = _noise(), np.zeros_like(_noise())
    hole = _noise()
    hole[1, 7] = math.nan if kind == "not a number" else math.inf
    return {
        "silence lost": (sound, silence),
        "sound made up": (silence, sound),
        "both silent": (silence, silence),
        "not a number": (sound, hole),
        "infinite": (hole, sound),
        "channels cancel out": (np.stack([sound[0], -sound[0]]), sound),
        "too short": (sound[:, :9_999], sound[:, :9_999]),
        "shorter than a patch": (sound[:, :42_000], sound[:, :42_000]),
        "one sample": (sound[:, :1], sound[:, :1]),
        "no samples": (sound[:, :0], sound[:, :0]),
        "no channels": (sound[:0], sound[:0]),
        # ViSQOL itself gives noise instead of this one its best score
        "too quiet to judge": (1e-4 * sound, _noise(seed=2)),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "silence lost",
        "sound made up",
        "both silent",
        "not a number",
        "infinite",
        "channels cancel out",
        "too short",
        "shorter than a patch",
        "one sample",
        "no samples",
        "no channels",
        "too quiet to judge",
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_judged_has_no_score(kind: str) -> None:
    assert score(*_clean_and_bad(kind), RATE) is None


def test_shortest_audio_that_has_a_score() -> None:
    sound = _noise(0.97)
    assert score(sound, sound, RATE) == pytest.approx(TOP, abs=1e-6)
    assert score(sound[:, :42_300], sound[:, :42_300], RATE) is None  # 0.959 s


def test_level_of_the_restored_does_not_decide() -> None:
    clean, restored = _noise(), _noise() + 0.3 * _noise(seed=2)
    assert score(clean, 0.01 * restored, RATE) == pytest.approx(score(clean, restored, RATE) or 0, abs=1e-3)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        score(_noise(), _noise(channels=1), RATE)
    with pytest.raises(ValueError, match="two dimensions"):
        score(_noise()[0], _noise()[0], RATE)


def test_threads_wait_for_each_other() -> None:
    """The compiled loops would end the process."""
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda _: score(_noise(1), _noise(1), RATE), range(4)))
    assert scores == [pytest.approx(TOP, abs=1e-6)] * 4


def test_scorer_is_loaded_once_a_process() -> None:
    assert visqol._load() is visqol._load() is not None


@pytest.mark.usefixtures("no_scorer")
def test_without_the_package_the_score_is_none_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "visqol", None)
    assert [score(_noise(), _noise(), RATE) for _ in range(3)] == [None] * 3
    told = capsys.readouterr().err
    assert told.count("ViSQOL is missing") == 1 and "pip install" in told
