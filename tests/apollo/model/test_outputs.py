"""Every trunk with every output: chunks equal the whole, level, silence, channels, noise."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from apollo.inference.restoration import receptive_field_frames, restore
from apollo.inference.streaming import StreamRestorer
from apollo.model import stft
from apollo.model.config import OUTPUTS, PRESETS, GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions
from apollo.model.outputs import POWER_FLOOR, combine

NETWORKS = ("band_sequence", "frame_convolution", "gated_convolution")
COMBINATIONS = [
    *itertools.product(NETWORKS, OUTPUTS, (False, True)),
    *(("replication", "correction", causal) for causal in (False, True)),
]
NORMALIZED = [
    one for one in COMBINATIONS
    if one[0] in ("frame_convolution", "gated_convolution")
    or one[1] in ("mask_and_noise", "magnitude_and_phase")
]  # fmt: skip
RELATIVE = 1e-5  # of the output's RMS


def make(trunk: str, output: str, causal: bool = False) -> Generator:
    """Return a small generator whose output differs from its input."""
    torch.manual_seed(0)
    config = GeneratorConfig(dim=16, layers=2, heads=2, trunk=trunk, output=output, causal=causal)
    generator = Generator(config).eval()
    with torch.no_grad():
        for value in generator.parameters():
            value += 0.05 * torch.randn_like(value)
    return generator


def music(samples: int, seed: int = 0) -> Tensor:
    """Return [2, samples] of noise that decays towards the highs, louder on the left, with silent ends."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, samples, generator=generator)
    noise[1] = 0.5 * noise[0] + 0.4 * noise[1]
    spectrum = torch.fft.rfft(noise) / (1 + torch.arange(samples // 2 + 1) / 500)
    return torch.fft.irfft(spectrum, samples) * torch.hann_window(samples).clamp_min(1e-4)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the RMS of the difference relative to that of what is expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize(("trunk", "output", "causal"), COMBINATIONS)
@pytest.mark.parametrize("samples", [1, 440, 441, 5_000, 60_001])
def test_chunks_equal_the_whole(trunk: str, output: str, causal: bool, samples: int) -> None:
    generator, degraded = make(trunk, output, causal), music(max(samples, 2))[:, :samples] + 1e-3
    with torch.no_grad():
        whole = generator(degraded)
    for chunk_seconds in (0.009, 0.37, 10.0):
        assert error(restore(generator, degraded, chunk_seconds=chunk_seconds), whole) < RELATIVE


@pytest.mark.parametrize(("trunk", "output", "causal"), COMBINATIONS)
def test_streams_equal_the_whole_at_the_stated_latency(trunk: str, output: str, causal: bool) -> None:
    generator, degraded = make(trunk, output, causal), music(30_000)
    restorer = StreamRestorer(generator, NoiseOptions(channels=2))
    state, parts, received = restorer.start(2), [], 0
    for chunk in degraded.split(1_000, 1):
        part, state = restorer.push(state, chunk)
        parts.append(part)
        received += chunk.shape[1]
        assert received - sum(one.shape[1] for one in parts) <= restorer.latency_samples
    parts.append(restorer.finish(state))
    with torch.no_grad():
        assert error(torch.cat(parts, 1), generator(degraded)) < RELATIVE


@pytest.mark.parametrize(("trunk", "output", "causal"), COMBINATIONS)
def test_frames_outside_the_receptive_field_have_no_gradient(trunk: str, output: str, causal: bool) -> None:
    generator = make(trunk, output, causal).double()
    past, future = receptive_field_frames(generator)
    frames, at = past + future + 5, past + 2
    window = stft.hann_window(generator.config.window_samples, torch.zeros(1, dtype=torch.float64))
    samples = torch.randn(1, (frames + 1) * generator.config.hop_samples, dtype=torch.float64)
    spectrum = stft.analyze(samples, window)
    if trunk == "replication":
        spectrum[..., 200:] = 0  # a band to fill
    spectrum.requires_grad_()
    restored, _ = generator.step(spectrum, noise=NoiseOptions(strength=1.0))
    restored[:, at].abs().sum().backward()
    assert spectrum.grad is not None
    touched = spectrum.grad.abs().sum((0, 2)).nonzero()[:, 0]
    assert int(touched.min()) == at - past
    assert int(touched.max()) == at + future


@pytest.mark.parametrize(("trunk", "output", "causal"), NORMALIZED)
def test_output_follows_the_level_over_60_db(trunk: str, output: str, causal: bool) -> None:
    generator, degraded = make(trunk, output, causal), music(20_000)
    expected = restore(generator, degraded)
    for gain in (1e-3, 0.1, 10.0):
        assert error(restore(generator, degraded * gain) / gain, expected) < RELATIVE


@pytest.mark.parametrize(("trunk", "output", "causal"), NORMALIZED)
def test_silence_stays_silence(trunk: str, output: str, causal: bool) -> None:
    assert not restore(make(trunk, output, causal), torch.zeros(2, 10_000)).any()


@pytest.mark.parametrize("trunk", NETWORKS)
def test_magnitude_and_phase_start_as_those_of_the_input(trunk: str) -> None:
    degraded = music(20_000)
    config = GeneratorConfig(dim=16, layers=1, heads=2, trunk=trunk, output="magnitude_and_phase")
    allowed = 0.05 if trunk == "gated_convolution" else 1e-3  # its phases start with a small correction
    assert error(restore(Generator(config).eval(), degraded), degraded) < allowed


def test_magnitude_and_phase_are_those_worked_out_by_hand() -> None:
    config = GeneratorConfig(output="magnitude_and_phase")
    level = torch.full((1, 3, 1), 2.0)
    degraded = torch.tensor([2.0, 2.0j, 0.0]).view(1, 3, 1)  # relative to the level: 1, i, 0
    phase = torch.tensor([1j, 0.0, -3.0]).view(1, 3, 1)
    change = torch.tensor([2**0.3 - 1, -2.0, 1 - POWER_FLOOR**0.15]).view(1, 3, 1)
    found = combine(config, degraded, phase, change, level).flatten()
    # twice the level at 45 degrees; a magnitude below zero is zero; what was empty has the phase of the pair
    expected = torch.tensor([2 * 2 * (1 + 1j) / 2**0.5, 0.0, -2.0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_magnitude_and_phase_have_a_finite_gradient_at_zero() -> None:
    config = GeneratorConfig(output="magnitude_and_phase")
    phase = torch.zeros(1, 1, 4, dtype=torch.complex64, requires_grad=True)
    change = torch.zeros(1, 1, 4, requires_grad=True)
    combine(config, torch.zeros_like(phase), phase, change, torch.ones(1, 1, 1)).real.sum().backward()
    assert phase.grad is not None and phase.grad.isfinite().all() and phase.grad.abs().min() > 0
    assert change.grad is not None and change.grad.isfinite().all()


@pytest.mark.parametrize("trunk", ["band_sequence", "frame_convolution"])
def test_corrections_and_masks_start_as_the_identity(trunk: str) -> None:
    degraded = music(20_000)
    for output in ("correction", "mask_and_noise"):
        generator = Generator(GeneratorConfig(dim=16, layers=1, heads=2, trunk=trunk, output=output)).eval()
        assert error(restore(generator, degraded, strength=0.0), degraded) < RELATIVE
        assert error(restore(generator, degraded), degraded) < 0.1


@pytest.mark.parametrize("trunk", ["band_sequence", "frame_convolution"])
def test_strength_scales_the_noise_alone(trunk: str) -> None:
    generator, degraded = make(trunk, "mask_and_noise"), music(20_000)
    none, half, full = (restore(generator, degraded, strength=one) for one in (0.0, 0.5, 1.0))
    assert error(none + 2 * (half - none), full) < RELATIVE
    assert error(full, none) > 1e-3
    generator.config = replace(generator.config, noise_strength=0.5)
    assert torch.equal(restore(generator, degraded), half)
    with pytest.raises(ValueError, match="strength is -1"):
        restore(generator, degraded, strength=-1.0)


def test_seed_decides_the_noise() -> None:
    generator, degraded = make("frame_convolution", "mask_and_noise"), music(20_000)
    once, again, other = (restore(generator, degraded, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert error(other, once) > 1e-3


def test_noise_of_equal_channels_is_equal_and_of_wide_ones_wide() -> None:
    generator, degraded = make("frame_convolution", "mask_and_noise"), music(40_000)
    mono = degraded[:1].expand(2, -1).clone()
    left, right = restore(generator, mono)
    assert error(left, right) < 1e-6
    assert error(restore(generator, degraded[:1]), left[None]) < 1e-6  # as one channel alone
    noise = [restore(generator, one, strength=1.0) - restore(generator, one, strength=0.0) for one in (
        degraded, torch.stack((degraded[0], -degraded[0])))]  # fmt: skip
    middle, opposite = (
        (one[0] + one[1]).square().mean() / (one[0] - one[1]).square().mean() for one in noise
    )
    assert 1.0 < middle < 100.0
    assert opposite < 1e-9


def test_noise_limit_is_never_exceeded() -> None:
    generator = make("frame_convolution", "mask_and_noise")
    generator.config = replace(generator.config, noise_limit=0.01)
    parts = generator.decompose(music(20_286)[:1])
    assert parts.amplitude is not None
    power = (parts.degraded.abs().square()).mean(-1)
    assert (parts.amplitude.amax(-1) <= 0.01 * power.amax().sqrt()).all()


def test_batch_items_do_not_see_each_other() -> None:
    generator = make("frame_convolution", "mask_and_noise")
    batch = torch.stack((music(9_000, 1), music(9_000, 2)))
    with torch.no_grad():
        assert error(generator(batch), torch.stack([generator(item) for item in batch])) < RELATIVE


def test_rows_must_be_whole_items() -> None:
    generator = make("frame_convolution", "mask_and_noise")
    with pytest.raises(ValueError, match="3 rows are no whole number of items of 2 channels"):
        generator.step(torch.zeros(3, 4, 442, dtype=torch.complex64), noise=NoiseOptions(channels=2))


def test_weights_from_before_there_were_trunks_load() -> None:
    generator = make("band_sequence", "correction")
    old = {key.removeprefix("trunk."): value for key, value in generator.state_dict().items()}
    fresh = Generator(generator.config)
    fresh.load_state_dict(old)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in generator.state_dict().items())


@pytest.mark.parametrize("name", ["compact", "compact-causal"])
def test_compact_presets_are_small_and_live(name: str) -> None:
    generator = Generator(PRESETS[name])
    assert sum(value.numel() for value in generator.parameters()) == 2_143_086
    latency = StreamRestorer(generator).latency_samples / generator.config.sample_rate
    assert latency <= (0.05 if name == "compact-causal" else 0.6)


def test_bfloat16_stays_close() -> None:
    generator, degraded = make("frame_convolution", "mask_and_noise"), music(20_000)
    assert (
        error(restore(generator.with_precision(torch.bfloat16), degraded), restore(generator, degraded))
        < 0.02
    )
