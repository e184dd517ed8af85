"""Options of `apollo restore`: what they change in the result, and which values are usage errors."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import apollo
from apollo.__main__ import main
from tests.support.datasets import music, write


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1, causal=True))
    return apollo.save(generator, tmp_path_factory.mktemp("checkpoints") / "causal")


def restore(song: Path, checkpoint: Path, *options: str) -> int:
    output = ("-o", str(song.parent / "out"), "--checkpoint", str(checkpoint), "--precision", "float32")
    return main(["restore", str(song), *output, *options])


@pytest.mark.parametrize("hertz", ["0", "-1", "nan", "inf", "22050", "48000"])
def test_keep_below_outside_the_band_is_a_usage_error(
    hertz: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    assert restore(song, checkpoint, "--keep-below", hertz) == 2
    said = capsys.readouterr().err
    assert "keep" in said and "more than 0" in said and "half the" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_keep_below_restores_only_above(rate: int, checkpoint: Path, tmp_path: Path) -> None:
    samples = music(1, 0.5)[:: 44_100 // rate]
    song = write(tmp_path / "song.wav", samples, rate, subtype="FLOAT")
    assert restore(song, checkpoint, "--keep-below", "6000", "--clip", "none") == 0
    found, found_rate = soundfile.read(tmp_path / "out/song.wav", dtype="float32")
    assert found_rate == 44_100  # the frequency is one of the network's rate, whatever the input's
    if rate == found_rate:
        degraded = torch.from_numpy(samples.T.astype(np.float32))
        expected = apollo.restore(apollo.load(checkpoint), degraded, keep_below_hz=6_000)
        np.testing.assert_allclose(found.T, expected, atol=1e-5)
    else:
        spectrum, original = (np.abs(np.fft.rfft(one[:, 0])) for one in (found, samples))
        band = slice(50, 2_500)  # of 2 Hz: up to 5 kHz
        np.testing.assert_allclose(spectrum[band] / 2, original[band], atol=0.01 * original.max())
