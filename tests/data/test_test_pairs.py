"""data/test_pairs.py: excerpts at fixed positions, and pairs as an evaluation takes them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from apollo.audio.rejects import AudioError
from data import test_pairs
from pipelines.audio.codec import decode
from pipelines.evaluation.items import EvaluationItem
from pipelines.evaluation.pair_items import PairItems
from tests.support import datasets

RATE = datasets.SAMPLE_RATE
ONE = 2 / 65_535


def test_excerpts_are_at_the_centres_of_equal_parts() -> None:
    ramp = np.repeat(np.linspace(0, 0.5, 8 * RATE, dtype=np.float32)[:, None], 2, axis=1)
    first, second = test_pairs.cut(ramp, 2, 1.0)
    assert first.shape == second.shape == (RATE, 2)
    # parts of 4 s, so excerpts from 1.5 and 5.5 s; the ramp rises by 1/16 a second
    assert first[0, 0] / 32_767 == pytest.approx(1.5 / 16, abs=ONE)
    assert second[-1, 1] / 32_767 == pytest.approx(6.5 / 16, abs=2 * ONE)
    with pytest.raises(AudioError, match=r"8\.0 s are too short for 9 excerpts of 1 s"):
        test_pairs.cut(ramp, 9, 1.0)


def test_only_what_exceeds_full_scale_is_scaled_down() -> None:
    sound = np.full((RATE, 2), 0.5, np.float32)
    (unchanged,) = test_pairs.cut(sound, 1, 1.0)
    assert unchanged[0, 0] == 16_384  # 0.5 x 32,767, rounded to even
    sound[7, 1] = -2.0
    (scaled,) = test_pairs.cut(sound, 1, 1.0)
    assert scaled[7, 1] == -32_766
    assert scaled[0, 0] == pytest.approx(8_192, abs=1)


def test_an_evaluation_takes_the_pairs(tmp_path: Path) -> None:
    songs, output = tmp_path / "songs", tmp_path / "pairs"
    datasets.write(songs / "package" / "An artist - A song.wav", datasets.music(1, seconds=3.0))
    datasets.write(songs / "mono.flac", datasets.music(2, seconds=3.0)[:, :1])
    datasets.write(songs / "short.wav", datasets.music(3, seconds=1.0))
    arguments = ["--songs", songs, "--output", output, "--excerpts", "2", "--seconds", "1"]
    arguments += ["--bitrates", "128000", "32000"]
    assert test_pairs.main([str(argument) for argument in arguments]) == 3  # short.wav
    items = PairItems(str(output), (), None)
    assert [tuple(one) for one in items.degradations] == [("32k", 32_000), ("128k", 128_000)]
    assert {one.songs for one in items.items} == {("package-An-artist---A-song",), ("mono",)}
    assert len(items.items) == 8
    loaded = list(items.load(items.indices("128k"), "128k"))
    for one, number in zip(loaded, items.indices("128k"), strict=True):
        assert isinstance(one, EvaluationItem)
        folder = output / items.items[number].name
        assert one.clean.shape == (2, RATE)
        stream = (folder / "degraded.mp3").read_bytes()
        np.testing.assert_allclose(one.degraded.T, decode(stream, frames=RATE), atol=1e-3)
        assert one.gain == pytest.approx(0.95, abs=0.02)  # LAME's, so it is aligned
        assert soundfile.info(folder / "clean.flac").subtype == "PCM_16"


def test_existing_outputs_and_empty_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "songs").mkdir()
    assert test_pairs.main(["--songs", str(tmp_path / "songs"), "--output", str(tmp_path / "out")]) == 1
    assert "holds no songs" in capsys.readouterr().err
    assert test_pairs.main(["--songs", str(tmp_path), "--output", str(tmp_path / "songs")]) == 1
    assert "exists" in capsys.readouterr().err
