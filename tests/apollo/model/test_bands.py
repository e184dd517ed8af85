"""Band split and merge against each band computed by itself, from the equations."""

import math

import pytest
import torch
from torch import Tensor, nn

from apollo.model.bands import BandMerge, BandSplit

DIM, FRAMES = 16, 3
LAYOUTS = [(5, 5, 5, 4), (3, 1, 3, 5, 1, 2), (7, 4, 2, 1), (2, 3, 2, 3, 2, 3), (15,)]
NORM_EPSILON = 1e-5
POWER_FLOOR = 2.0**-23  # float32's epsilon


def _randomised(module: nn.Module) -> nn.Module:
    """Give every parameter values of its own, so that a mix-up of bands shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module.double()


def _spectrum(bins: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, FRAMES, bins, dtype=torch.complex128, generator=generator)


def _of_band(module: nn.Module, widths: tuple[int, ...], band: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find one band's norm, weight and bias: the groups hold equal widths in the order of the bands."""
    groups = {width: module.groups[number] for number, width in enumerate(dict.fromkeys(widths))}
    group, row = groups[widths[band]], widths[:band].count(widths[band])
    return group.norm[row], group.weight[row], group.bias[row]


def _rms_norm(values: Tensor, weight: Tensor) -> Tensor:
    return values / (values.square().mean() + NORM_EPSILON).sqrt() * weight


def _split_band(bins: Tensor, norm: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Real parts, imaginary parts and the log of the band's level, normed, through a linear layer."""
    power = math.sqrt(sum(abs(complex(value)) ** 2 for value in bins) + POWER_FLOOR)
    values = [value.real / power for value in bins] + [value.imag / power for value in bins]
    level = torch.tensor(math.log(power), dtype=torch.float64)
    return weight @ _rms_norm(torch.stack([*values, level]), norm) + bias


def _merge_band(features: Tensor, norm: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Norm, linear layer, gated linear unit; the first half are real parts."""
    outputs = weight @ _rms_norm(features, norm) + bias
    half = len(outputs) // 2
    gated = outputs[:half] / (1 + torch.exp(-outputs[half:]))
    return gated[: half // 2] + 1j * gated[half // 2 :]


@pytest.mark.parametrize("widths", LAYOUTS)
def test_split_equals_each_band_by_itself(widths: tuple[int, ...]) -> None:
    split, spectrum = _randomised(BandSplit(widths, DIM)), _spectrum(sum(widths))
    features = split(spectrum)
    assert features.shape == (2, FRAMES, len(widths), DIM)
    for band, width in enumerate(widths):
        low = sum(widths[:band])
        for batch in range(2):
            for frame in range(FRAMES):
                bins = spectrum[batch, frame, low : low + width]
                expected = _split_band(bins, *_of_band(split, widths, band))
                torch.testing.assert_close(features[batch, frame, band], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("widths", LAYOUTS)
def test_merge_equals_each_band_by_itself(widths: tuple[int, ...]) -> None:
    merge = _randomised(BandMerge(widths, DIM))
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, FRAMES, len(widths), DIM, dtype=torch.float64, generator=generator)
    spectrum = merge(features)
    assert spectrum.shape == (2, FRAMES, sum(widths))
    for band, width in enumerate(widths):
        low = sum(widths[:band])
        for batch in range(2):
            for frame in range(FRAMES):
                expected = _merge_band(features[batch, frame, band], *_of_band(merge, widths, band))
                found = spectrum[batch, frame, low : low + width]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("widths", LAYOUTS)
def test_bands_keep_to_themselves(widths: tuple[int, ...]) -> None:
    split, spectrum = _randomised(BandSplit(widths, DIM)), _spectrum(sum(widths))
    for band, width in enumerate(widths):
        low = sum(widths[:band])
        louder = spectrum.clone()
        louder[..., low : low + width] *= 2
        changed = (split(louder) != split(spectrum)).any(-1).any(0).any(0)
        assert changed.nonzero().flatten().tolist() == [band]


def test_silent_band_gives_finite_features_and_gradients() -> None:
    split = BandSplit((3, 1, 3), DIM)
    spectrum = torch.zeros(1, FRAMES, 7, dtype=torch.complex64, requires_grad=True)
    features = split(spectrum)
    features.square().sum().backward()
    assert features.isfinite().all()
    assert spectrum.grad is not None and torch.view_as_real(spectrum.grad).isfinite().all()


def test_gain_changes_the_level_feature_alone() -> None:
    split, bins = BandSplit((15,), DIM).double(), torch.view_as_real(_spectrum(15))[:, :, None]
    group = split.groups[0]
    group.norm.data = torch.ones(1, 31, dtype=torch.float64)
    group.weight.data = torch.eye(31, dtype=torch.float64)[None]
    group.bias.data = torch.zeros(1, 31, dtype=torch.float64)
    shapes = [group(bins * gain)[..., :30] for gain in (1.0, 100.0)]
    directions = [shape / shape.norm(dim=-1, keepdim=True) for shape in shapes]  # the norm scales all 31
    torch.testing.assert_close(*directions, rtol=0, atol=1e-6)  # the floor under the power is 1e-7
