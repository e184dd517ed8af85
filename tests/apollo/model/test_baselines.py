"""Models without parameters: the untouched input, and copies of the band that the codec kept."""

import torch

import apollo
from apollo.inference.restoration import restore
from apollo.model.baselines import ROLL_OFF_DB
from apollo.model.config import PACKAGED, PRESETS
from tests.apollo.model.test_outputs import error, music

RATE, CUT_HZ = 44_100, 6_000


def _limited(samples: int = 88_200) -> torch.Tensor:
    """White noise below a frequency, and nothing above; [1, samples]."""
    spectrum = torch.fft.rfft(torch.randn(1, samples, generator=torch.Generator().manual_seed(0)))
    spectrum[:, int(CUT_HZ * samples / RATE) :] = 0
    return 0.1 * torch.fft.irfft(spectrum, samples)


def _level_db(samples: torch.Tensor, low_hz: float, high_hz: float) -> float:
    power = torch.fft.rfft(samples).abs().square()
    bins = [int(hertz * samples.shape[-1] / RATE) for hertz in (low_hz, high_hz)]
    return float(10 * power[:, bins[0] : bins[1]].mean().log10())


def test_packaged_models_are_their_presets() -> None:
    for name in PACKAGED:
        generator = apollo.load(name)
        assert generator.config == PRESETS[name]
        assert sum(1 for _ in generator.parameters()) == 0 or name == "compact"


def test_codec_changes_nothing() -> None:
    degraded = music(30_000)
    assert error(restore(apollo.load("codec"), degraded), degraded) < 1e-6


def test_replication_keeps_the_band_and_fills_the_rest_at_its_roll_off() -> None:
    degraded = _limited()
    restored = restore(apollo.load("replication"), degraded)
    added = restored - degraded
    assert _level_db(added, 0, CUT_HZ - 200) < _level_db(degraded, 0, CUT_HZ - 200) - 60
    below = _level_db(degraded, CUT_HZ / 2, CUT_HZ - 100)
    for octaves in (0.5, 1.0, 1.5):
        centre = CUT_HZ * 2**octaves
        found = _level_db(restored, 0.95 * centre, 1.05 * centre)
        assert abs(found - (below - ROLL_OFF_DB * octaves)) < 3.0


def test_replication_follows_the_level_and_leaves_silence_and_equal_channels() -> None:
    generator, degraded = apollo.load("replication"), _limited(30_000).expand(2, -1)
    expected = restore(generator, degraded)
    assert torch.equal(expected[0], expected[1])
    for gain in (2.0**-10, 2.0**4):  # exact, as the edge is one bin or the next
        assert error(restore(generator, gain * degraded) / gain, expected) < 1e-6
    assert not restore(generator, torch.zeros(2, 10_000)).any()


def test_replication_of_a_full_band_is_no_change() -> None:
    degraded = torch.randn(1, 30_000, generator=torch.Generator().manual_seed(1))
    assert error(restore(apollo.load("replication"), degraded), degraded) < 1e-5
