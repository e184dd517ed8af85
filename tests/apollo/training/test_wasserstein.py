"""The critic after SR-GAN, its losses, and the gradient penalty."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.config import GanConfig
from apollo.training.data import Batch, collate
from apollo.training.discriminator import Discriminator, DiscriminatorOutput
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.losses import discriminator_losses, wasserstein_loss
from apollo.training.spectra import Spectra
from tests.support import gloo_runs
from tests.support.gloo_runs import Noise

CRITIC = DiscriminatorConfig(kind="gated_convolution", windows=(64,), norm="rms", dim=8, layers=2)
EXAMPLES = 4
WEIGHTS = {"g/stft": 1.0, "g/adversarial": 0.1, "g/feature": 0.0, "d/gradient_penalty": 10.0}


def _gan(*, double: bool = False, **settings: Any) -> Gan:
    torch.manual_seed(0)
    shape = {"window_samples": 128, "bands": (65,), "dim": 8, "layers": 2}
    generator = Generator(GeneratorConfig(**shape, trunk="gated_convolution"))
    changes = {"batch_size": EXAMPLES, "micro_batch": EXAMPLES, "adversarial_loss": "wasserstein"}
    gan_config = GanConfig(**{**changes, "weights": WEIGHTS, **settings})
    networks = [network.double() if double else network for network in (generator, Discriminator(CRITIC))]
    return Gan(*networks, gan_config, DistributedContext(torch.device("cpu")))  # type: ignore[arg-type]


def _batches(step: int, size: int = EXAMPLES, *, double: bool = False) -> list[Batch]:
    examples = list(Noise().read(step, range(EXAMPLES)))
    batches = [collate(examples[begin : begin + size]) for begin in range(0, EXAMPLES, size)]
    if double:
        batches = [Batch(batch.clean.double(), batch.degraded.double(), batch.names) for batch in batches]
    return batches


def _output(*logits: float) -> DiscriminatorOutput:
    return DiscriminatorOutput(torch.tensor(logits)[:, None], [])


def test_wasserstein_losses_are_means_of_logits() -> None:
    real, fake = [_output(3.0, 1.0), _output(0.0, 6.0)], [_output(-1.0, -3.0), _output(2.0, 2.0)]
    losses = discriminator_losses(real=real, fake=fake, adversarial="wasserstein")
    assert {name: float(value) for name, value in losses.items()} == {"d/real": -2.5, "d/fake": 0.0}
    assert float(wasserstein_loss(fake)) == 0.0
    assert float(wasserstein_loss(real)) == -2.5


class _Linear(nn.Module):
    """The mean over two positions of 3 x_0 + 4 x_1 and of x_0 ^ 2: its gradient is known."""

    window_samples = 4

    def prepare(self, spectrum: Tensor, _: Tensor) -> Tensor:
        return spectrum.real[:, 0, 1, :2]  # [batch, 2]

    def judge(self, parts: Tensor, _: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        return torch.stack((3 * parts[:, 0] + 4 * parts[:, 1], parts[:, 0].square()), 1), []


def test_the_gradient_penalty_is_that_worked_out_by_hand() -> None:
    discriminator = Discriminator(DiscriminatorConfig(channels=1, windows=(4,)))
    discriminator.networks[0] = _Linear()

    def spectra(*values: float) -> Spectra:
        spectrum = torch.zeros(len(values), 1, 3, 5, dtype=torch.complex64)
        spectrum[:, 0, 1, 0] = torch.tensor(values)
        return Spectra(torch.zeros(len(values), 1, 10), lambda _: spectrum)

    mix = torch.tensor([0.25, 1.0])
    found = discriminator.gradient_penalty(spectra(0.0, 9.0), spectra(4.0, 2.0), None, mix)
    # x_0 is 1 and 2; the gradients are ((3 + 2 x_0) / 2, 2): (2.5, 2) and (3.5, 2)
    expected = [(math.hypot(slope, 2) - 1) ** 2 for slope in (2.5, 3.5)]
    assert float(found.detach()) == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["convolution", "gated_convolution"])
def test_the_penalty_teaches_the_discriminator_alone(kind: str) -> None:
    torch.manual_seed(0)
    config = DiscriminatorConfig(kind=kind, windows=(64,), norm="rms", dim=8, layers=2)
    discriminator = Discriminator(config).eval()
    real, fake, degraded = (0.1 * torch.randn(2, 2, 1_000) for _ in range(3))
    fake.requires_grad_()
    mix = torch.tensor([0.3, 0.6])
    condition = Spectra(degraded) if config.is_conditional else None
    discriminator.gradient_penalty(Spectra(real), Spectra(fake), condition, mix).backward()
    assert fake.grad is None
    reached = [name for name, value in discriminator.named_parameters() if value.grad is not None]
    missing = {name for name, _ in discriminator.named_parameters()} - set(reached)
    assert all(name.endswith("bias") for name in missing), missing  # constants have no slope


def test_the_critic_compares_with_the_degraded_signal_at_its_level() -> None:
    torch.manual_seed(0)
    critic = Discriminator(CRITIC).eval()
    signal, degraded = (0.1 * torch.randn(2, 2, 1_000) for _ in range(2))
    (output,) = critic(signal, degraded)
    assert output.logits.shape == (2, 1_000 // 32 + 1, 1)
    (other,) = critic(signal, degraded.flip(0))
    assert not torch.allclose(output.logits, other.logits)
    (same,) = critic(10 * signal, 10 * degraded)
    torch.testing.assert_close(same.logits, output.logits, rtol=1e-4, atol=1e-5)
    (louder,) = critic(2 * signal, degraded)
    assert not torch.allclose(louder.logits, output.logits)
    (alone,) = critic(signal[:1], degraded[:1])
    torch.testing.assert_close(alone.logits, output.logits[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs the degraded signal"):
        critic(signal)


def test_gradients_reach_every_parameter_of_the_critic() -> None:
    torch.manual_seed(0)
    critic = Discriminator(CRITIC)
    signal, degraded = (0.1 * torch.randn(2, 2, 1_000) for _ in range(2))
    critic(signal, degraded)[0].logits.square().sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_micro_batches_give_the_losses_and_steps_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, where a wrong term cannot hide in rounding: what is cast to float32 is cast to that."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    whole, parts = _gan(double=True), _gan(double=True, micro_batch=1)
    for step in range(3):
        expected = whole.step(_batches(step, double=True), epoch=0, step=step)
        assert expected["d/gradient_penalty"] > 0
        found = parts.step(_batches(step, 1, double=True), epoch=0, step=step)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    torch.testing.assert_close(
        parts.discriminator.state_dict(), whole.discriminator.state_dict(), rtol=1e-7, atol=1e-9
    )


def test_the_critic_learns_to_tell_real_from_restored() -> None:
    gan = _gan(discriminator_learning_rate=3e-3, weights=WEIGHTS | {"g/stft": 1.0, "g/adversarial": 0.0})
    margins = [
        gan.step(_batches(0), epoch=0, step=step, discriminator_only=True)["d/margin/64"]
        for step in range(30)
    ]
    assert margins[-1] > margins[0] + 0.5


def test_a_non_finite_example_skips_the_step() -> None:
    gan = _gan()
    before = {name: value.clone() for name, value in gan.discriminator.state_dict().items()}
    batches = _batches(0)
    batches[0].degraded[1, 0, 100] = torch.nan
    assert gan.step(batches, epoch=0)["step/skipped"] == 1
    assert all(torch.equal(value, before[name]) for name, value in gan.discriminator.state_dict().items())


def test_the_generator_is_updated_in_every_third_step_after_the_warm_up() -> None:
    config = GanConfig(adversarial_start_step=2, discriminator_warmup_steps=1, discriminator_steps=3)
    only = [config.is_discriminator_only(step) for step in range(9)]
    assert only == [False, False, True, True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"adversarial_loss": "hinge"}, "adversarial_loss is 'hinge'"),
        ({"adversarial_loss": "wasserstein"}, "d/gradient_penalty a weight above 0"),
        ({"discriminator_steps": 0}, "discriminator_steps is 0"),
    ],
)
def test_invalid_steps_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GanConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "transformer"}, "kind is 'transformer'"),
        ({"kind": "gated_convolution"}, "norm is 'l2'.*needs 'rms'"),
        ({"dim": 0}, "dim is 0"),
    ],
)
def test_invalid_critics_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DiscriminatorConfig(**settings)


def test_killed_and_resumed_ranks_give_the_same_run(tmp_path: Any) -> None:
    weights = {"g/adversarial": 0.1, "g/feature": 0.0, "d/gradient_penalty": 10.0}
    run = gloo_runs.Run(
        tmp_path / "whole",
        gan=GanConfig(
            batch_size=4,
            micro_batch=2,
            ema_decay=0.9,
            adversarial_loss="wasserstein",
            discriminator_steps=2,
            weights=weights,
        ),
        discriminator=CRITIC,
        generator=GeneratorConfig(
            window_samples=128, bands=(65,), dim=8, layers=1, trunk="gated_convolution"
        ),
    )
    assert gloo_runs.launch(run) == [0, 0]
    assert any("d/gradient_penalty" in line for line in gloo_runs.steps(run).values())
    killed = gloo_runs.replace(run, output=tmp_path / "killed")
    assert gloo_runs.launch(killed, kill={1: 9}) != [0, 0]
    assert gloo_runs.launch(killed) == [0, 0]
    expected, found = gloo_runs.weights(run, 18), gloo_runs.weights(killed, 18)
    assert all(torch.equal(value, found[name]) for name, value in expected.items() if torch.is_tensor(value))
