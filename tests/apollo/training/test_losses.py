"""Losses against values worked out by hand, and what keeps training sound: shares, silence, gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from apollo.training import losses
from apollo.training.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorOutput
from apollo.training.losses import (
    FLOOR,
    adversarial_loss,
    compressed_loss,
    discriminator_losses,
    feature_loss,
    generator_losses,
    magnitude_loss,
    spectrum_loss,
    waveform_loss,
)
from apollo.training.spectra import Spectra

RATE = 44_100


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _spectrum_loss(*, estimate: Tensor, reference: Tensor) -> Tensor:
    return spectrum_loss(estimate=estimate, reference=reference, cutoff_hz=8000, sample_rate=RATE)


def _as_features(*, estimate: Tensor, reference: Tensor) -> Tensor:
    real, fake = (DiscriminatorOutput(one, [one[:, :1], one[:, 1:]]) for one in (reference, estimate))
    return feature_loss(real=[real], fake=[fake])


def _as_a_judged_pair(*, estimate: Tensor, reference: Tensor) -> Tensor:
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(windows=(64, 256))).eval()
    losses = generator_losses(
        estimate=estimate, reference=reference, real=judge(reference), fake=judge(estimate)
    )
    return torch.stack(list(losses.values())).sum()


RELATIVE = [magnitude_loss, waveform_loss, _spectrum_loss, _as_features]
Loss = Callable[..., Tensor]


def _judgement(*logits: float) -> DiscriminatorOutput:
    return DiscriminatorOutput(torch.tensor(logits).view(1, 1, 1, -1), [])


def test_least_squares_by_hand() -> None:
    one, other = _judgement(0.0, 1.0, 3.0), _judgement(2.0)
    assert adversarial_loss([one]).item() == pytest.approx((1 + 0 + 4) / 3)
    assert adversarial_loss([one, other]).item() == pytest.approx((5 / 3 + 1) / 2)  # windows weigh the same
    losses = discriminator_losses(real=[one, other], fake=[other, one])
    assert losses["d/real"].item() == pytest.approx((5 / 3 + 1) / 2)
    assert losses["d/fake"].item() == pytest.approx((4 + 10 / 3) / 2)
    assert list(losses) == ["d/real", "d/fake"]


def test_perfect_outputs_have_no_loss() -> None:
    assert adversarial_loss([_judgement(1.0, 1.0)]).item() == 0
    losses = discriminator_losses(real=[_judgement(1.0)], fake=[_judgement(0.0)])
    assert (losses["d/real"].item(), losses["d/fake"].item()) == (0, 0)


def test_feature_matching_by_hand() -> None:
    real = DiscriminatorOutput(torch.zeros(1), [torch.tensor([[1.0, -3.0]]), torch.tensor([[4.0]])])
    fake = DiscriminatorOutput(torch.zeros(1), [torch.tensor([[2.0, -3.0]]), torch.tensor([[1.0]])])
    # layers: 1/2 over 2, and 3 over 4
    assert feature_loss(real=[real], fake=[fake]).item() == pytest.approx((0.25 + 0.75) / 2)
    assert feature_loss(real=[real, real], fake=[fake, real]).item() == pytest.approx(0.25)
    assert feature_loss(real=[real], fake=[real]).item() == 0


def test_feature_matching_has_gradients_for_fake_features_only() -> None:
    real, fake = (torch.tensor([[value]], requires_grad=True) for value in (2.0, 3.0))
    feature_loss(
        real=[DiscriminatorOutput(real, [real])], fake=[DiscriminatorOutput(fake, [fake])]
    ).backward()
    assert real.grad is None
    assert fake.grad is not None and fake.grad.item() == pytest.approx(0.5)


def test_unequal_outputs_are_refused() -> None:
    with pytest.raises(ValueError):
        feature_loss(real=[_judgement(0.0)], fake=[])


@pytest.mark.parametrize("loss", RELATIVE)
@pytest.mark.parametrize("gain", [0.0, 0.5, 2.0, 3.0])
def test_relative_error_of_a_gain_is_its_distance_from_one(loss: Loss, gain: float) -> None:
    reference = _noise(2, 2, 6000)
    found = loss(estimate=gain * reference, reference=reference).item()
    assert found == pytest.approx(abs(gain - 1), rel=1e-5)


def test_magnitudes_ignore_phase_and_waveform_and_spectrum_do_not() -> None:
    reference = _noise(1, 2, 6000)
    assert magnitude_loss(estimate=-reference, reference=reference).item() == 0
    assert waveform_loss(estimate=-reference, reference=reference).item() == pytest.approx(2)
    assert _spectrum_loss(estimate=-reference, reference=reference).item() == pytest.approx(2, rel=1e-5)


def test_magnitude_loss_is_the_mean_of_its_windows() -> None:
    estimate, reference = _noise(1, 2, 4000), _noise(1, 2, 4000, seed=2)
    each = [
        magnitude_loss(estimate=estimate, reference=reference, windows=[window]).item()
        for window in (32, 64, 128, 256, 512, 1024, 2048)
    ]
    whole = magnitude_loss(estimate=estimate, reference=reference).item()
    assert whole == pytest.approx(sum(each) / 7, rel=1e-5)


def test_magnitude_loss_of_one_window_by_independent_sums() -> None:
    estimate, reference = _noise(1, 1, 64), _noise(1, 1, 64, seed=2)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(16) / 16)

    def magnitudes(samples: Tensor) -> Tensor:
        mirrored = torch.cat((samples[1:9].flip(0), samples, samples[-9:-1].flip(0)))
        frames = [mirrored[start : start + 16] * window for start in range(0, 65, 8)]
        turns = torch.exp(-2j * math.pi * torch.outer(torch.arange(9), torch.arange(16)) / 16)
        return torch.stack([(turns @ frame.to(turns.dtype)).abs() for frame in frames])

    found, expected = magnitudes(estimate[0, 0]), magnitudes(reference[0, 0])
    by_hand = (found - expected).abs().mean() / expected.mean()
    loss = magnitude_loss(estimate=estimate, reference=reference, windows=[16])
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [*RELATIVE, compressed_loss, _as_a_judged_pair])
def test_batch_is_the_mean_of_its_examples_however_it_is_split(loss: Loss) -> None:
    estimate, reference = _noise(3, 2, 6000), _noise(3, 2, 6000, seed=2)
    for samples in (estimate, reference):
        samples *= torch.tensor([1.0, 0.03, 5.0])[:, None, None]
    alone = [
        loss(estimate=one[None], reference=other[None]).item() for one, other in zip(estimate, reference)
    ]
    together = loss(estimate=estimate, reference=reference).item()
    assert together == pytest.approx(sum(alone) / 3, rel=1e-4)


@pytest.mark.parametrize("loss", RELATIVE)
def test_loud_and_near_silent_examples_weigh_the_same(loss: Loss) -> None:
    one = _noise(1, 2, 6000)
    reference = torch.cat((one, 1e-2 * one))
    wrong = [reference.clone(), reference.clone()]
    for number, estimate in enumerate(wrong):
        estimate[number] *= 1.5
    loud, quiet = (loss(estimate=estimate, reference=reference).item() for estimate in wrong)
    assert loud == pytest.approx(0.25, rel=1e-4) and quiet == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("loss", [*RELATIVE, compressed_loss, _as_a_judged_pair])
@pytest.mark.parametrize("estimated", ["sound", "silence"])
@pytest.mark.parametrize("silent", [(0,), (0, 1)], ids=["one example", "all examples"])
def test_silence_costs_something_finite_with_finite_gradients(
    loss: Loss, estimated: str, silent: tuple[int, ...]
) -> None:
    reference = _noise(2, 2, 6000)
    reference[list(silent)] = 0
    estimate = (_noise(2, 2, 6000, seed=2) * (estimated == "sound")).requires_grad_()
    value = loss(estimate=estimate, reference=reference)
    value.backward()
    assert value.isfinite()
    assert estimate.grad is not None and estimate.grad.isfinite().all()


def test_silence_is_compared_with_a_floor() -> None:
    estimate, silence = torch.full((1, 1, 100), 1e-3), torch.zeros(1, 1, 100)
    assert waveform_loss(estimate=estimate, reference=silence).item() == pytest.approx(1e-3 / FLOOR)
    assert waveform_loss(estimate=silence, reference=silence).item() == 0


@pytest.mark.parametrize("error_hz, counted", [(1_000, True), (7_000, True), (9_000, False), (20_000, False)])
def test_spectrum_counts_errors_below_the_cutoff_alone(error_hz: float, counted: bool) -> None:
    samples = 16_384
    time = torch.arange(samples, dtype=torch.float64) / RATE
    fade = torch.hann_window(samples, dtype=torch.float64)  # no edges, so no energy elsewhere
    reference = (fade * torch.sin(2 * math.pi * 3_000 * time)).expand(1, 2, -1)
    error = fade * torch.sin(2 * math.pi * error_hz * time)
    loss = _spectrum_loss(estimate=reference + error, reference=reference).item()
    assert loss == pytest.approx(1, rel=0.05) if counted else loss < 1e-3


def test_generator_losses_are_the_three_published_terms() -> None:
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(windows=(64,))).eval()
    estimate, reference = _noise(1, 2, 3000), _noise(1, 2, 3000, seed=2)
    real, fake = judge(reference), judge(estimate)
    assert generator_losses(estimate=estimate, reference=reference, real=real, fake=fake) == {
        "g/stft": magnitude_loss(estimate=estimate, reference=reference),
        "g/adversarial": adversarial_loss(fake),
        "g/feature": feature_loss(real=real, fake=fake),
    }


def test_losses_beyond_the_paper_appear_with_their_weight() -> None:
    estimate, reference = 0.1 * torch.randn(2, 2, 4_096), 0.1 * torch.randn(2, 2, 4_096)
    judged = [DiscriminatorOutput(torch.zeros(2, 1, 3, 3), [torch.ones(2, 4, 3, 3)])]
    sides = {"estimate": estimate, "reference": reference, "real": judged, "fake": judged}
    published = losses.generator_losses(**sides)
    assert set(published) == {
        name for name, weight in losses.LOSS_WEIGHTS.items() if weight and name[0] == "g"
    }
    weights = losses.LOSS_WEIGHTS | {"g/waveform": 0.1, "g/spectrum": 0.1, "g/compressed": 0.1}
    more = losses.generator_losses(**sides, weights=weights, cutoff_hz=4_000.0)
    assert set(more) == set(published) | {"g/waveform", "g/spectrum", "g/compressed"}
    alone = losses.spectrum_loss(
        estimate=estimate, reference=reference, cutoff_hz=4_000.0, sample_rate=44_100
    )
    assert torch.equal(more["g/spectrum"], alone)
    assert torch.equal(more["g/compressed"], compressed_loss(estimate=estimate, reference=reference))


class _Given(Spectra):
    """Spectra that are what they are said to be."""

    def __init__(self, *bins: complex) -> None:
        super().__init__(
            torch.zeros(1, 1, 1), lambda _: torch.tensor(bins, dtype=torch.complex64).reshape(1, 1, -1, 1)
        )


def test_compressed_magnitudes_by_hand() -> None:
    """Powers of 0.3: 2 gives 1.23114, a thousandth an eighth (0.12589)."""
    loud, soft = 2.0, 0.002j
    loss = compressed_loss(estimate=_Given(loud, 0j), reference=_Given(loud, soft), windows=[8])
    # what is silent counts as 0.001: the soft bin is 0.005 ** 0.5 / 1000 high, and 0.001 was found
    assert loss.item() == pytest.approx((0.16026 - 0.12589) / (0.16026 + 1.23114), rel=1e-3)
    halved = compressed_loss(estimate=_Given(1j), reference=_Given(-2), windows=[8])  # phase is forgiven
    assert halved.item() == pytest.approx(1 - 0.5**0.3, rel=1e-5)


def test_compressed_loss_is_the_mean_of_its_windows() -> None:
    estimate, reference = _noise(1, 2, 4000), _noise(1, 2, 4000, seed=2)
    each = [
        compressed_loss(estimate=estimate, reference=reference, windows=[window]).item()
        for window in (512, 2048)
    ]
    whole = compressed_loss(estimate=estimate, reference=reference).item()
    assert whole == pytest.approx(sum(each) / 2, rel=1e-5)


def test_compressed_loss_weighs_an_empty_band_that_magnitudes_do_not() -> None:
    spectrum = torch.fft.rfft(_noise(1, 2, 44_100))
    bins = torch.arange(spectrum.shape[-1])
    reference = torch.fft.irfft(spectrum * torch.where(bins < 10_000, 1.0, 1e-3), n=44_100)
    estimate = torch.fft.irfft(spectrum * (bins < 10_000), n=44_100)
    linear = magnitude_loss(estimate=estimate, reference=reference, windows=[512, 2048]).item()
    soft = compressed_loss(estimate=estimate, reference=reference).item()
    assert linear < 0.02
    assert soft > 3 * linear


def test_compressed_silence_is_the_floor() -> None:
    silence = _Given(0j, 0j)
    assert compressed_loss(estimate=silence, reference=silence, windows=[8]).item() == 0
    found = compressed_loss(estimate=_Given(1.0, 1.0), reference=silence, windows=[8]).item()
    assert found == pytest.approx(1_000**0.3 - 1, rel=1e-5)
