"""What the discriminator promises whoever trains against it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from apollo.training.discriminator import WIDTHS, Discriminator, DiscriminatorConfig, level_scale

SMALL = (32, 128)


def _discriminator(**changes: Any) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(DiscriminatorConfig(**{"windows": SMALL, **changes}))


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _halved(size: int, times: int) -> int:
    """Follow a size through convolutions of 3, stride 2 and padding 1."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def test_default_is_the_released_network_of_seven_windows() -> None:
    discriminator = Discriminator()
    assert [one.window_samples for one in discriminator.networks] == [32, 64, 128, 256, 512, 1024, 2048]
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_771_503


@pytest.mark.parametrize("samples", [1025, 4000])
def test_each_window_gives_logits_and_the_features_of_six_layers(samples: int) -> None:
    windows = (32, 256, 2048)
    judgements = _discriminator(windows=windows)(_noise(3, 2, samples))
    for window, judgement in zip(windows, judgements, strict=True):
        bins, frames = window // 2 + 1, samples // (window // 2) + 1
        for width, halvings, features in zip(WIDTHS, (0, 1, 1, 2, 2, 3), judgement.features, strict=True):
            assert features.shape == (3, width, _halved(bins, halvings), _halved(frames, halvings))
        assert judgement.logits.shape == (3, 1, _halved(bins, 3), _halved(frames, 3))


def test_every_convolution_but_the_last_is_bounded_by_spectral_norm() -> None:
    discriminator = _discriminator().eval()
    for network in discriminator.networks:
        for layer in network.layers:
            assert is_parametrized(layer, "weight")
            largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
            assert 0.99 <= largest <= 1.1  # 15 power iterations come from below, not all the way
        assert not is_parametrized(network.last)


@pytest.mark.parametrize("norm", ["l2", "rms"])
@pytest.mark.parametrize("gain", [0.01, 30.0])
def test_gain_changes_no_output(norm: str, gain: float) -> None:
    discriminator, samples = _discriminator(norm=norm).eval(), _noise(2, 2, 4000)
    for one, other in zip(discriminator(samples), discriminator(gain * samples), strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_examples_are_independent(norm: str) -> None:
    discriminator, samples = _discriminator(norm=norm).eval(), _noise(3, 2, 4000)
    samples[1] *= 100
    together = discriminator(samples)
    for number, example in enumerate(samples):
        for one, all_three in zip(discriminator(example[None]), together, strict=True):
            torch.testing.assert_close(one.logits[0], all_three.logits[number], rtol=1e-4, atol=1e-6)
            for alone, batched in zip(one.features, all_three.features, strict=True):
                torch.testing.assert_close(alone[0], batched[number], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_silence_gives_finite_outputs_and_gradients(norm: str) -> None:
    samples = torch.zeros(1, 2, 3000, requires_grad=True)
    judgements = _discriminator(norm=norm)(samples)
    sum(judgement.logits.sum() for judgement in judgements).backward()
    assert all(judgement.logits.isfinite().all() for judgement in judgements)
    assert samples.grad is not None and samples.grad.isfinite().all()


def test_levels_by_hand() -> None:
    samples = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0.6, 0.0], [0.0, 0.8]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(samples * level_scale(samples, "l2")[:, None, None], expected)
    # 5 / 2.5: RMS is the root of 25 / 4
    torch.testing.assert_close(samples * level_scale(samples, "rms")[:, None, None], 2 * expected)


def test_rms_level_neither_fades_with_length_nor_differs_between_windows() -> None:
    def seen(norm: str, samples: int) -> list[float]:
        network = _discriminator(norm=norm, windows=(32, 2048)).eval()
        for one in network.networks:
            one.layers[0].bias.data.zero_()
        return [one.features[0].abs().mean().item() for one in network(_noise(1, 2, samples))]

    short, long = 11_025, 44_100
    assert seen("rms", long) == pytest.approx(seen("rms", short), rel=0.1)
    assert seen("rms", short)[1] == pytest.approx(seen("rms", short)[0], rel=0.5)
    assert seen("l2", long) == pytest.approx([level / 2 for level in seen("l2", short)], rel=0.1)


def test_evaluation_changes_nothing_and_training_moves_the_power_iteration() -> None:
    discriminator, samples = _discriminator().eval(), _noise(1, 2, 2000)
    before = {key: value.clone() for key, value in discriminator.state_dict().items()}
    first = discriminator(samples)
    for one, other in zip(first, discriminator(samples), strict=True):
        assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(value, before[key]) for key, value in discriminator.state_dict().items())
    discriminator.train()(samples)
    assert any(not torch.equal(value, before[key]) for key, value in discriminator.state_dict().items())


def test_gradients_reach_every_parameter_and_the_samples() -> None:
    discriminator, samples = _discriminator(), _noise(2, 2, 3000).requires_grad_()
    sum(judgement.logits.square().sum() for judgement in discriminator(samples)).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert samples.grad is not None and samples.grad.flatten(1).any(1).all()


def test_saved_weights_give_the_same_outputs() -> None:
    discriminator, samples = _discriminator().eval(), _noise(1, 2, 2000)
    torch.manual_seed(9)
    other = Discriminator(DiscriminatorConfig(windows=SMALL)).eval()
    other.load_state_dict(discriminator.state_dict())
    for one, again in zip(discriminator(samples), other(samples), strict=True):
        assert torch.equal(one.logits, again.logits)


def test_a_mono_network_takes_mono() -> None:
    discriminator = _discriminator(channels=1)
    assert isinstance(discriminator.networks[0].layers[0], nn.Conv2d)
    assert discriminator.networks[0].layers[0].in_channels == 2  # real and imaginary
    assert len(discriminator(_noise(1, 1, 500))) == len(SMALL)


@pytest.mark.parametrize("shape", [(2, 4000), (1, 1, 4000), (1, 3, 4000)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"not \[batch, 2, samples\]"):
        _discriminator()(torch.zeros(shape))


def test_too_few_samples_for_the_longest_window_are_refused() -> None:
    discriminator = _discriminator()
    assert len(discriminator(_noise(1, 2, 65))) == 2
    with pytest.raises(ValueError, match="64 samples are too few"):
        discriminator(_noise(1, 2, 64))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"norm": "l1"}, "l1"),
        ({"channels": 0}, "channels is 0"),
        ({"windows": ()}, "windows"),
        ({"windows": (32, 33)}, "33"),
        ({"windows": (2,)}, "2"),
    ],
)
def test_invalid_configurations_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DiscriminatorConfig(**changes)
