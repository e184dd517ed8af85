"""Band split and band merge: between a spectrum and one feature vector per band and frame.

Source: Li and Luo (2024), section II-A and II-C. Differs from its equation 2 as the released network does:
the norm is one value per frame and band, not per bin, so a band of M bins has 2M + 1 features.

Bands of equal width are computed by one batched matrix product. Always float32: this is 0.2 % of the work.

Shape legend: spectrum [batch, frames, bins], complex; features [batch, frames, bands, dim].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apollo.model.layers import NORM_EPSILON

POWER_FLOOR = float(torch.finfo(torch.float32).eps)


def _init_linear(shape: Sequence[int], fan_in: int) -> nn.Parameter:
    """Return a parameter initialized like `nn.Linear`'s."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class _SplitGroup(nn.Module):
    """Input layers of all bands of one width."""

    def __init__(self, bands: int, width: int, dim: int) -> None:
        super().__init__()
        features = 2 * width + 1
        self.norm = nn.Parameter(torch.ones(bands, features))
        self.weight = _init_linear((bands, dim, features), features)
        self.bias = _init_linear((bands, dim), features)

    def forward(self, bins: Tensor) -> Tensor:
        """Map [batch, frames, bands, width, 2] to [batch, frames, bands, dim]."""
        power = (bins.square().sum((-2, -1)) + POWER_FLOOR).sqrt()[..., None]
        real, imaginary = (bins / power[..., None]).unbind(-1)
        features = torch.cat((real, imaginary, power.log()), -1)
        features = F.rms_norm(features, features.shape[-1:], None, NORM_EPSILON) * self.norm
        return torch.einsum("tfki,koi->tfko", features, self.weight) + self.bias


class _MergeGroup(nn.Module):
    """Output layers of all bands of one width."""

    def __init__(self, bands: int, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(bands, dim))
        self.weight = _init_linear((bands, 4 * width, dim), dim)
        self.bias = _init_linear((bands, 4 * width), dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, frames, bands, dim] to [batch, frames, bands, width], complex."""
        features = F.rms_norm(features, features.shape[-1:], None, NORM_EPSILON) * self.norm
        outputs = torch.einsum("tfki,koi->tfko", features, self.weight) + self.bias
        real, imaginary = F.glu(outputs).chunk(2, -1)
        return torch.complex(real, imaginary)


class _BandGroups(nn.Module):
    """Base of split and merge: one group of layers per band width, and the order of bands and bins."""

    bin_order: Tensor
    band_order: Tensor
    bin_inverse: Tensor
    band_inverse: Tensor

    def __init__(self, widths: Sequence[int], dim: int, group: type[nn.Module]) -> None:
        super().__init__()
        self.bands_by_width = {
            width: [band for band, other in enumerate(widths) if other == width]
            for width in dict.fromkeys(widths)
        }
        starts = [sum(widths[:band]) for band in range(len(widths))]
        bands = [band for group_bands in self.bands_by_width.values() for band in group_bands]
        bins = [starts[band] + offset for band in bands for offset in range(widths[band])]
        self.is_sorted = bands == sorted(bands)
        for name, order in (("band", torch.tensor(bands)), ("bin", torch.tensor(bins))):
            self.register_buffer(f"{name}_order", order, persistent=False)
            self.register_buffer(f"{name}_inverse", order.argsort(), persistent=False)
        self.groups = nn.ModuleList(
            group(len(bands), width, dim) for width, bands in self.bands_by_width.items()
        )


class BandSplit(_BandGroups):
    """Map a spectrum to features: normalized bins and the log norm of every band.

    Args:
        widths: Widths of the bands in bins.
        dim: Feature dimension.
    """

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__(widths, dim, _SplitGroup)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Map [batch, frames, bins] to [batch, frames, bands, dim]."""
        bins = torch.view_as_real(spectrum)
        if not self.is_sorted:
            bins = bins.index_select(2, self.bin_order)
        parts = bins.split([width * len(bands) for width, bands in self.bands_by_width.items()], 2)
        features = torch.cat(
            [
                group(part.unflatten(2, (len(bands), width)))
                for group, part, (width, bands) in zip(self.groups, parts, self.bands_by_width.items())
            ],
            2,
        )
        return features if self.is_sorted else features.index_select(2, self.band_inverse)


class BandMerge(_BandGroups):
    """Map features to a spectrum.

    Args:
        widths: Widths of the bands in bins.
        dim: Feature dimension.
    """

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__(widths, dim, _MergeGroup)

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, frames, bands, dim] to [batch, frames, bins]."""
        if not self.is_sorted:
            features = features.index_select(2, self.band_order)
        parts = features.split([len(bands) for bands in self.bands_by_width.values()], 2)
        spectrum = torch.cat([group(part).flatten(2) for group, part in zip(self.groups, parts)], 2)
        return spectrum if self.is_sorted else spectrum.index_select(2, self.bin_inverse)
