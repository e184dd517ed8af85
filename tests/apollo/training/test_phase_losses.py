"""Losses on compressed magnitudes and on phases, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.outputs import POWER_FLOOR
from apollo.training.data import Batch
from apollo.training.generator_forward import GeneratorForward, prepare
from apollo.training.phase_losses import compressed_complex_loss, compressed_magnitude_loss, phase_loss
from apollo.training.spectral_losses import consistency_loss

ALL = torch.ones(1, 1, 2)


def _spectrum(magnitudes: list[list[float]], turns: list[list[float]]) -> Tensor:
    """One row [1, frames, bins] of magnitudes and of phases in turns."""
    return torch.polar(torch.tensor([magnitudes]), 2 * math.pi * torch.tensor([turns]))


def test_magnitudes_are_compared_to_the_power_of_three_tenths() -> None:
    estimate = _spectrum([[1024.0, 1.0]], [[0.1, 0.7]])  # 1024^0.3 = 8
    reference = _spectrum([[1.0, 1.0]], [[0.0, 0.0]])
    found = compressed_magnitude_loss(estimate=estimate, reference=reference, mask=ALL)
    assert float(found) == pytest.approx(49 / 2, rel=1e-5)


def test_complex_numbers_are_compared_with_their_phases() -> None:
    estimate = _spectrum([[1024.0, 1.0]], [[0.25, 0.0]])  # 8i and 1
    reference = _spectrum([[1024.0, 1.0]], [[0.0, 0.5]])  # 8 and -1
    found = compressed_complex_loss(estimate=estimate, reference=reference, mask=ALL)
    assert float(found) == pytest.approx((128 + 4) / 2, rel=1e-5)


def test_phases_are_those_worked_out_by_hand() -> None:
    turns = [[0.9, 0.3], [0.1, 0.1]]
    found = phase_loss(
        estimate=_spectrum([[1.0, 3.0], [0.5, 1.0]], turns),
        reference=_spectrum([[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]),
        mask=ALL,
    )
    phases = (0.1 + 0.3 + 0.1 + 0.1) / 4  # 0.9 of a turn is a tenth from the next whole one
    delays = (0.4 + 0.0) / 2  # 0.3 - 0.9 is 0.4 from -1
    frequencies = (0.2 + 0.2) / 2  # 0.1 - 0.9 and 0.1 - 0.3
    assert float(found) == pytest.approx(2 * math.pi * (phases + delays + frequencies), rel=1e-5)


def test_whole_turns_and_what_is_not_known_count_nothing() -> None:
    estimate, reference = torch.randn(2, 1, 3, 4, dtype=torch.complex64).unbind()
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    losses = (compressed_magnitude_loss, compressed_complex_loss, phase_loss)
    for loss in losses:
        assert float(loss(estimate=reference, reference=reference, mask=mask)) < 1e-6
        known = loss(estimate=estimate[..., :2], reference=reference[..., :2], mask=mask[..., :2])
        found = loss(estimate=estimate * mask, reference=reference * mask, mask=mask)
        assert float(found) == pytest.approx(float(known), rel=1e-5)


def test_silence_has_no_phase_and_finite_gradients() -> None:
    estimate = torch.zeros(1, 3, 2, dtype=torch.complex64, requires_grad=True)
    reference = torch.zeros(1, 3, 2, dtype=torch.complex64)
    for loss in (compressed_magnitude_loss, compressed_complex_loss, phase_loss):
        loss(estimate=estimate, reference=reference, mask=ALL).backward()
    assert estimate.grad is not None and estimate.grad.isfinite().all()


@pytest.mark.parametrize("samples", [4_410, 5_000])
def test_spectra_of_samples_are_consistent_and_others_are_not(samples: int) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2, output="correction"))
    degraded = 0.1 * torch.randn(1, 2, samples)
    batch = Batch(degraded, degraded, ["one"])
    output = GeneratorForward(generator)(degraded, seed=0, with_samples=False, with_parts=True)
    pair = prepare(output, batch, generator, with_consistent=True).spectral
    assert pair is not None and pair.consistent is not None
    whole = pair.deterministic.shape[1] - (samples % 441 > 0) * 2  # the padding is cut off again
    torch.testing.assert_close(
        pair.consistent[:, :whole], pair.deterministic[:, :whole], rtol=1e-3, atol=1e-4
    )
    parts = output[1]
    assert parts is not None
    parts.deterministic.data[:, ::2] *= -1  # signs that no overlapping frames agree on
    pair = prepare(output, batch, generator, with_consistent=True).spectral
    assert pair is not None
    assert float(consistency_loss(pair).detach()) > 0.1


def test_the_floor_of_magnitudes_is_that_of_the_output() -> None:
    nothing, floor = torch.zeros(1, 1, 2, dtype=torch.complex64), POWER_FLOOR**0.15
    one = _spectrum([[1.0, 1.0]], [[0.0, 0.0]])
    found = compressed_magnitude_loss(estimate=nothing, reference=one, mask=ALL)
    assert float(found) == pytest.approx((1 - floor) ** 2, rel=1e-4)
