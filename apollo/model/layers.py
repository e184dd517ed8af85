"""The band-sequence module: a Roformer over the bands of each frame, then convolutions over time.

Source: Li and Luo (2024), section II-B; the order of gates, norms and biases is the released network's
(docs/model.md).

All activations are `[batch, frames, bands, dim]`, contiguous: linear layers see rows of `dim`, attention sees
a frame's bands as its sequence, and the depthwise convolution over frames is a 2-D convolution in
channels-last layout, so nothing is transposed.

The residual stream, the norms and the convolutions are float32. Linear layers compute in the dtype of their
weights or of the surrounding autocast. A bfloat16 residual stream would cost 10 dB.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-5
KERNEL_FRAMES = 7
TIME_BLOCKS = 3  # time blocks per band-sequence module
_ROTARY_BASE = 10_000.0


def rotary_angles(bands: int, head_dim: int) -> Tensor:
    """Return the angles of the rotary embedding (Su et al., 2021); positions are band indices.

    Returns:
        [bands, head_dim // 2], float32: the angle of each pair of dimensions.
    """
    exponents = torch.arange(0, head_dim, 2).float() / head_dim
    return torch.outer(torch.arange(bands).float(), 1.0 / _ROTARY_BASE**exponents)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32, returned in `dtype`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Normalise x [..., dim]."""
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, NORM_EPSILON).to(dtype)


class BandAttention(nn.Module):
    """Roformer block over the bands of a frame; frames are independent."""

    rotary_freqs: Tensor

    def __init__(self, dim: int, heads: int, bands: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(dim)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.gate_norm = RMSNorm(dim)
        self.gate = nn.Linear(dim, 8 * dim, bias=False)
        self.gate_output = nn.Linear(4 * dim, dim, bias=False)
        angles = rotary_angles(bands, dim // heads)
        # [bands, heads, query and key, pairs]: multiplying complex numbers is 15 times faster than sines and
        # cosines
        self.register_buffer(
            "rotary_freqs", torch.polar(torch.ones_like(angles), angles)[:, None, None], persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [rows, bands, dim] to the same shape; a row is a frame."""
        x = x + self.attend(x)
        gate, up = F.silu(self.gate(self.gate_norm(x, self.gate.weight.dtype))).chunk(2, -1)
        return x + cast(Tensor, self.gate_output(F.silu(gate) * up))

    def attend(self, x: Tensor) -> Tensor:
        """Return the attention output, to be added to x [rows, bands, dim]."""
        rows, bands, dim = x.shape
        dtype = self.project.weight.dtype
        # per head, the output of the projection is query, key, value
        joint = self.project(self.norm(x, dtype)).view(rows, bands, self.heads, 3, -1)
        joint = joint.to(torch.promote_types(joint.dtype, torch.float32))  # no complex bfloat16 exists
        pairs = torch.view_as_complex(joint[..., :2, :].unflatten(-1, (-1, 2)))
        query, key = torch.view_as_real(pairs * self.rotary_freqs).flatten(-2).unbind(3)
        value = joint[..., 2, :]  # all three: [rows, bands, heads, head_dim]
        if x.requires_grad:  # a view would keep all of joint for the backward pass
            value = value.contiguous()
        if x.is_cuda:  # half the memory traffic; CPUs are faster in float32
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return cast(Tensor, self.output(mixed.transpose(1, 2).reshape(rows, bands, dim).to(dtype)))


class TimeBlock(nn.Module):
    """Depthwise convolution over frames and a feed-forward network, shared by all bands.

    Args:
        dim: Feature dimension.
        causal: Whether frames depend on no later ones.
    """

    def __init__(self, dim: int, *, causal: bool) -> None:
        super().__init__()
        self.lookahead = 0 if causal else KERNEL_FRAMES // 2
        self.past = KERNEL_FRAMES - 1 - self.lookahead
        self.depthwise = nn.Conv2d(dim, dim, (KERNEL_FRAMES, 1), groups=dim)
        self.norm = RMSNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)

    def convolve(self, x: Tensor) -> Tensor:
        """Map [batch, frames, bands, dim] to [batch, frames - 6, bands, dim]."""
        with torch.autocast(x.device.type, enabled=False):  # float32, as in inference
            return cast(Tensor, self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def feed_forward(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """Return residual + the feed-forward network of `mixed`, both [..., bands, dim]."""
        hidden = F.silu(self.expand(self.norm(mixed, self.expand.weight.dtype)))
        return residual + cast(Tensor, self.contract(hidden))
