"""Losses on the generator's spectra against values worked by hand, and what they must not depend on."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from apollo.model.config import LOSS_WEIGHTS, GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.generator_state import OutputParts
from apollo.training.spectra import EDGE_MARGIN_HZ
from apollo.training.spectral_losses import (
    FLOOR,
    NSIM_FLOOR,
    SPECTRAL_LOSSES,
    complex_loss,
    envelope_loss,
    error_loss,
    noise_error_loss,
    nsim,
    nsim_loss,
    pooled_power_loss,
    spectral_losses,
)
from apollo.training.spectral_pair import SpectralPair, make_pair

CONFIG = GeneratorConfig(dim=8, layers=1, trunk="frame_convolution", output="mask_and_noise")
FRAMES = 24


def pair(*, clean: float, deterministic: float, noise: float = 0.0, degraded: float = 1.0) -> SpectralPair:
    """Spectra that are the same number in every bin."""
    spectra = (
        torch.full((2, FRAMES, CONFIG.bins), value, dtype=torch.complex64)
        for value in (degraded, clean, deterministic)
    )
    return SpectralPair(*spectra, torch.full((2, FRAMES, CONFIG.bins), noise), torch.ones(1, 1, CONFIG.bins))


def random_parts(seed: int = 0) -> tuple[OutputParts, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spectra = [
        torch.complex(*torch.randn(2, 3, FRAMES, CONFIG.bins, generator=generator).unbind()) for _ in range(3)
    ]
    amplitude = torch.rand(3, FRAMES, CONFIG.bins, generator=generator)
    side_shares = torch.zeros(3, FRAMES, 0)
    return OutputParts(spectra[0], spectra[1], amplitude, side_shares, torch.Size((3, 1, 9_261))), spectra[2]


def all_losses(parts: OutputParts, clean: Tensor, bandwidth_hz: Tensor | None = None) -> dict[str, float]:
    weights = dict.fromkeys(LOSS_WEIGHTS, 1.0)
    given = make_pair(parts, clean, CONFIG, bandwidth_hz, consistent=clean)
    found = spectral_losses(given, weights, CONFIG)
    return {name: float(value) for name, value in found.items()}


def test_a_tenth_of_the_power_is_one_decade_of_the_envelope() -> None:
    found = envelope_loss(pair(clean=1.0, deterministic=0.0, noise=0.1), CONFIG)
    assert float(found) == pytest.approx(1.0, abs=1e-6)


def test_deterministic_part_and_noise_add_their_powers_in_the_envelope() -> None:
    assert float(envelope_loss(pair(clean=1.0, deterministic=0.6, noise=0.64), CONFIG)) < 1e-6


def test_pooled_powers_are_compared_by_their_eighth_roots() -> None:
    found = pooled_power_loss(pair(clean=1.0, deterministic=0.0, noise=1 / 256), (2, 20))
    assert float(found) == pytest.approx(0.5, abs=1e-6)  # 256^(-1/8) = 1/2


def test_pooling_sees_energy_and_not_single_bins() -> None:
    alternating = pair(clean=1.0, deterministic=0.0, noise=0.0)
    noise = torch.zeros_like(alternating.noise_power)
    noise[..., ::2] = 2.0
    assert float(pooled_power_loss(replace(alternating, noise_power=noise), (6, 4))) < 1e-6


def test_the_complex_difference_is_divided_by_the_fourth_root_of_the_power() -> None:
    found = complex_loss(pair(clean=1.0, deterministic=-1.0))
    assert float(found) == pytest.approx(2.0 / 1.001, rel=1e-4)
    quiet = pair(clean=1.0, deterministic=1.0)
    quiet.clean[..., 0], quiet.deterministic[..., 0] = 0.01, 0.0
    # one bin of 1e-4 differs by all of it: 0.01 / (5e-5 + floor)^(1/4), against 441 bins of 1 and itself
    one = 0.01 / (5e-5 + FLOOR) ** 0.25
    expected = one / CONFIG.bins / ((441 + one) / CONFIG.bins + 1e-3)
    assert float(complex_loss(quiet)) == pytest.approx(expected, rel=1e-3)


def test_the_error_is_relative_to_that_of_the_input() -> None:
    assert float(error_loss(pair(clean=1.0, deterministic=0.9, degraded=0.8))) == pytest.approx(
        math.log(0.25), abs=1e-3
    )
    assert float(error_loss(pair(clean=1.0, deterministic=0.8, degraded=0.8))) == pytest.approx(0.0, abs=1e-6)


def test_the_error_of_noise_adds_its_power_and_teaches_the_noise_alone() -> None:
    given = pair(clean=1.0, deterministic=0.9, noise=0.07, degraded=0.8)
    given.deterministic.requires_grad_(True)
    given.noise_power.requires_grad_(True)
    found = noise_error_loss(given)
    assert float(found.detach()) == pytest.approx(
        math.log(2), abs=1e-3
    )  # 0.01 + 0.07 is twice the input's 0.04
    found.backward()
    assert given.deterministic.grad is None
    assert given.noise_power.grad is not None and (given.noise_power.grad > 0).all()


def test_noise_costs_nothing_up_to_the_error_of_the_input() -> None:
    given = pair(clean=1.0, deterministic=0.9, noise=0.02, degraded=0.8)
    given.noise_power.requires_grad_(True)
    found = noise_error_loss(given)
    found.backward()
    assert float(found.detach()) == 0.0
    assert given.noise_power.grad is not None and not given.noise_power.grad.any()


def test_a_perfect_output_has_no_loss() -> None:
    parts, clean = random_parts()
    perfect = replace(parts, deterministic=clean, amplitude=None)
    found = all_losses(perfect, clean)
    assert set(found) == set(SPECTRAL_LOSSES)
    for name in ("g/envelope", "g/transients", "g/tones", "g/complex"):
        assert found[name] < 1e-4, name
    assert found["g/error"] < -10


def test_losses_do_not_depend_on_the_level() -> None:
    parts, clean = random_parts()
    quiet = replace(
        parts,
        degraded=parts.degraded * 1e-3,
        deterministic=parts.deterministic * 1e-3,
        amplitude=None if parts.amplitude is None else parts.amplitude * 1e-3,
    )
    assert all_losses(quiet, clean * 1e-3) == pytest.approx(all_losses(parts, clean), rel=1e-4)


def test_a_batch_counts_as_the_mean_of_its_rows() -> None:
    parts, clean = random_parts()
    edges = torch.tensor([16_000.0, 19_000.0, math.inf])
    rows = [
        all_losses(
            OutputParts(
                *(one[row : row + 1] for one in (parts.degraded, parts.deterministic, parts.amplitude)),
                parts.side_shares[row : row + 1],
                torch.Size((1, 1, 9_261)),
            ),
            clean[row : row + 1],
            edges[row : row + 1],
        )
        for row in range(3)
    ]
    means = {name: sum(row[name] for row in rows) / 3 for name in rows[0]}
    assert all_losses(parts, clean, edges) == pytest.approx(means, rel=1e-5)


def test_what_lies_above_the_bandwidth_counts_nothing() -> None:
    parts, clean = random_parts()
    edges = torch.full((3,), 16_000.0 + EDGE_MARGIN_HZ)
    changed = replace(
        parts,
        deterministic=parts.deterministic.clone(),
        amplitude=torch.clone(parts.amplitude),  # type: ignore[arg-type]
    )
    changed.deterministic[..., 321:] = 7.0  # 16,050 Hz and above
    changed.amplitude[..., 321:] = 3.0  # type: ignore[index]
    assert all_losses(changed, clean, edges) == all_losses(parts, clean, edges)
    assert all_losses(changed, clean) != pytest.approx(all_losses(parts, clean), rel=0.01)


def test_known_bins_count_as_if_they_were_alone() -> None:
    """A spectrum that is known up to 8 kHz has the loss of its known pools."""
    known = pair(clean=1.0, deterministic=0.5)
    known.mask[..., 160:] = 0
    for spectrum in (known.clean, known.deterministic, known.degraded):
        spectrum[..., 160:] = 0
    for pool in ((2, 20), (6, 4)):
        assert float(pooled_power_loss(known, pool)) == pytest.approx(1 - 0.25**0.125, rel=1e-4)


def test_frames_of_digital_silence_do_not_outweigh_the_row() -> None:
    parts, clean = random_parts()
    parts.degraded[:, :12], parts.deterministic[:, :12] = 0, 0
    clean[:, :12] *= 1e-2
    found = make_pair(parts, clean, CONFIG)
    assert found.wanted_power[:, 0].mean() < 1e4


@pytest.mark.parametrize("silent", ["degraded", "clean", "both"])
def test_silence_gives_finite_losses_and_gradients(silent: str) -> None:
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    degraded = torch.zeros(1, 1, 4_410) if silent != "clean" else torch.randn(1, 1, 4_410)
    clean = torch.zeros(1, 1, 4_410) if silent != "degraded" else torch.randn(1, 1, 4_410)
    parts = generator.decompose(degraded)
    found = spectral_losses(
        make_pair(parts, generator.analyze(clean), CONFIG, consistent=parts.deterministic.roll(1, 1)),
        dict.fromkeys(LOSS_WEIGHTS, 1.0),
        CONFIG,
    )
    torch.stack(list(found.values())).sum().backward()
    assert all(value.isfinite() for value in found.values()), found
    assert all(p.grad is None or p.grad.isfinite().all() for p in generator.parameters())


def test_only_losses_with_weight_are_computed() -> None:
    parts, clean = random_parts()
    found = spectral_losses(make_pair(parts, clean, CONFIG), {**LOSS_WEIGHTS, "g/tones": 0.5}, CONFIG)
    assert list(found) == ["g/tones"]


def test_nsim_is_that_of_visqol(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pytest.importorskip("visqol.nsim", reason="ViSQOL is not installed").measure_patch_similarity
    monkeypatch.setattr("apollo.training.spectral_losses.NSIM_STRUCTURE", 4.5e-4)
    generator = torch.Generator().manual_seed(0)
    wanted = 30.0 * torch.rand(1, 32, 30, generator=generator)
    estimated = wanted + 6.0 * torch.randn(1, 32, 30, generator=generator)
    found = reference(wanted[0].numpy(), estimated[0].numpy())
    assert nsim(estimated, wanted).mean(2)[0].numpy() == pytest.approx(found.freq_band_means, abs=1e-3)


def test_neurograms_are_compared_by_closeness_and_shape() -> None:
    """5 dB of amplitude less in every band: the shape is equal, the closeness is worked by hand."""
    found = nsim_loss(pair(clean=1.0, deterministic=0.1**0.5), CONFIG)
    widths = torch.tensor([float(count) for count in (1, 45)])  # bins of the narrowest and of a wide band
    levels = 5 * (1 + widths / (NSIM_FLOOR * CONFIG.bins)).log10()
    losses = 1 - 2 * levels * (levels - 5) / (levels**2 + (levels - 5) ** 2)
    assert losses[1] < float(found) < losses[0]
