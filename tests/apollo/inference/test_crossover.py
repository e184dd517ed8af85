"""Below the frequency the input, above it the network's output, at any chunking and level."""

import random

import pytest
import torch
from torch import Tensor, nn

from apollo.checkpoints.checkpoint import load
from apollo.inference.crossover import ATTENUATION_DB, TRANSITION_HZ, Crossover
from apollo.inference.restoration import restore
from apollo.inference.streaming import StreamRestorer
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions

RATE = 44_100
ROUNDING = 1e-5  # of the output's RMS: float32 sums in another order


def _generator(causal: bool = False) -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(dim=16, layers=1, causal=causal))
    for group in generator.trunk.merge.groups:
        nn.init.normal_(group.weight, std=0.2)
    return generator.eval().requires_grad_(False)


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _response(hertz: float) -> tuple[Tensor, Tensor]:
    """Return frequencies, and the gains of the low-pass without its delay."""
    taps, size = Crossover(hertz, RATE).taps, 1 << 17
    gains = torch.fft.rfft(taps, size)
    at = torch.arange(size // 2 + 1) * RATE / size
    return at, (gains * torch.exp(2j * torch.pi * at / RATE * (len(taps) // 2))).real


def _band(samples: Tensor, low_hz: float, high_hz: float) -> Tensor:
    """Return what lies between two frequencies, of the middle of the samples."""
    spectrum = torch.fft.rfft(samples.double() * torch.hann_window(samples.shape[-1], dtype=torch.float64))
    at = torch.fft.rfftfreq(samples.shape[-1], 1 / RATE)
    return spectrum[..., (at >= low_hz) & (at < high_hz)]


@pytest.mark.parametrize("hertz", [150.0, 8_000.0, 15_500.0, 21_900.0])
def test_lowpass_has_the_documented_transition_and_attenuation(hertz: float) -> None:
    at, gains = _response(hertz)
    ripple = 10 ** (-ATTENUATION_DB / 20)
    assert (gains[at <= hertz - TRANSITION_HZ / 2] - 1).abs().max() <= ripple
    assert gains[at >= hertz + TRANSITION_HZ / 2].abs().max() <= ripple
    assert gains[(at - hertz).abs().argmin()] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("hertz", [4_000.0, 15_000.0])
def test_below_is_the_input_and_above_is_the_network(hertz: float) -> None:
    generator, samples = _generator(), _noise(2, 60_000)
    kept, network = restore(generator, samples, keep_below_hz=hertz), restore(generator, samples)
    assert _band(network - samples, 200, hertz - 200).norm() > 0.1 * _band(samples, 200, hertz - 200).norm()
    # the Hann window mixes the neighbours of the transition
    for other, low, high in ((samples, 0, hertz - 110), (network, hertz + 110, RATE / 2)):
        assert _band(kept - other, low, high).norm() <= 2e-4 * _band(other, low, high).norm()


def test_equal_signals_are_passed_as_they_are() -> None:
    crossover, samples = Crossover(8_000, RATE), _noise(2, 5_000)
    first, state = crossover.push(crossover.start(samples[:, :0]), samples, samples)
    assert torch.equal(torch.cat((first, crossover.finish(state, samples[:, :0])), 1), samples)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 441, 630, 1_300, 5_000, 30_011])
def test_chunks_and_streams_equal_the_whole(samples: int, causal: bool) -> None:
    generator, degraded = _generator(causal), _noise(2, samples)
    whole = restore(generator, degraded, keep_below_hz=9_000, chunk_seconds=10)
    assert whole.shape == degraded.shape
    scale = ROUNDING * whole.square().mean().sqrt()
    for chunk in (100, 441, 4_999):
        chunked = restore(generator, degraded, keep_below_hz=9_000, chunk_seconds=(chunk + 0.5) / RATE)
        assert (chunked - whole).abs().max() <= scale
    restorer = StreamRestorer(generator, NoiseOptions(channels=2), keep_below_hz=9_000)
    state, parts, draw = restorer.start(2), [], random.Random(samples)
    received = returned = 0
    while received < samples:
        piece = degraded[:, received : received + draw.choice([0, 1, 7, 441, 3_000])]
        part, state = restorer.push(state, piece)
        received, returned = received + piece.shape[1], returned + part.shape[1]
        assert received - restorer.latency_samples <= returned <= received
        parts.append(part)
    assert (torch.cat([*parts, restorer.finish(state)], 1) - whole).abs().max() <= scale


def test_result_has_the_level_of_the_input() -> None:
    generator, samples = load(), _noise(2, 20_000)
    once = restore(generator, samples, keep_below_hz=9_000)
    for gain in (1e-3, 30.0):
        scaled = restore(generator, gain * samples, keep_below_hz=9_000)
        assert (scaled / gain - once).abs().max() <= 1e-4 * once.square().mean().sqrt()


def test_silence_stays_silence_and_equal_channels_stay_equal() -> None:
    generator, samples = load(), _noise(1, 20_000)
    assert not restore(generator, torch.zeros(2, 20_000), keep_below_hz=9_000).any()
    mono = restore(generator, samples, keep_below_hz=9_000)
    both = restore(generator, samples.expand(2, -1), keep_below_hz=9_000)
    assert (both - mono).abs().max() <= ROUNDING * mono.square().mean().sqrt()


def test_a_state_may_be_used_again() -> None:
    restorer, samples = StreamRestorer(_generator(), keep_below_hz=9_000), _noise(1, 12_000)
    _, state = restorer.push(restorer.start(1), samples[:, :7_000])
    first, _ = restorer.push(state, samples[:, 7_000:])
    _ = restorer.push(state, 10 * samples), restorer.finish(state)
    assert torch.equal(restorer.push(state, samples[:, 7_000:])[0], first)


def test_float64_stays_float64() -> None:
    restored = restore(_generator().double(), _noise(1, 3_000).double(), keep_below_hz=9_000)
    assert restored.dtype == torch.float64


@pytest.mark.parametrize("hertz", [0.0, -1.0, float("nan"), float("inf"), 22_050.0, 48_000.0])
def test_frequencies_outside_the_band_are_refused(hertz: float) -> None:
    with pytest.raises(ValueError, match="less than 22050 Hz"):
        restore(_generator(), _noise(1, 100), keep_below_hz=hertz)
