"""Fused feed-forward layers for training: one autograd function that saves memory and CPU cache traffic.

Nine tenths of the generator's arithmetic are feed-forward networks of the form
`residual + contract(activation(expand(norm(x))))`. Autograd would save five intermediate results, four of
them four or eight times as wide as x. This function saves x and optionally the output of `expand`, and
recomputes the rest; on a CPU, both passes work on slices of rows that fit the cache.

Shape legend: rows [rows, dim].
"""

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from apollo.model.band_sequence import BandSequenceTrunk
from apollo.model.compilation import compile_generator
from apollo.model.generator import Generator
from apollo.model.layers import NORM_EPSILON, BandAttention, TimeBlock

SLICE_FEATURES = 1 << 18  # features of x per slice on a CPU, so that intermediate results fit its cache


def configure_training_layers(generator: Generator, *, recompute: str, compiled: bool) -> None:
    """Set how a generator's layers save activations for the backward pass, in place.

    Args:
        generator: Network to train.
        recompute: `nothing`, `hidden` (the widest activations) or `layers` (all but the layers' inputs).
        compiled: Use torch.compile instead; if it fails here, warn and use `recompute`.
    """
    if compiled and compile_generator(generator, training=True):
        return
    trunk, keep = generator.trunk, recompute == "nothing"
    if not isinstance(trunk, BandSequenceTrunk):
        return  # small enough to keep everything
    trunk.mix_bands, trunk.feed_forward = partial(mix_bands, keep=keep), partial(feed_forward, keep=keep)
    if recompute == "layers":
        trunk.mix_bands = partial(checkpoint, mix_bands, use_reentrant=False)
        trunk.feed_forward = partial(checkpoint, feed_forward, use_reentrant=False)


def feed_forward(block: TimeBlock, residual: Tensor, mixed: Tensor, *, keep: bool = True) -> Tensor:
    """Compute `TimeBlock.feed_forward`; save the hidden layer (`keep`) or recompute it."""
    expand, contract = block.expand, block.contract
    parameters = (block.norm.weight, expand.weight, expand.bias, contract.weight, contract.bias)
    return _add_network(residual, mixed, *parameters, False, keep)


def mix_bands(attention: BandAttention, x: Tensor, *, keep: bool = True) -> Tensor:
    """Compute `BandAttention.forward`; save the hidden layer (`keep`) or recompute it."""
    x = x + attention.attend(x)
    gate, contract = attention.gate.weight, attention.gate_output.weight
    return _add_network(x, x, attention.gate_norm.weight, gate, None, contract, None, True, keep)


def _add_network(residual: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    """Apply `_Pointwise`; without a backward pass to come, nothing is kept for it."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else arguments[1].dtype
    *tensors, gated, keep = arguments
    keep = keep and torch.is_grad_enabled() and any(_requires_grad(one) for one in (residual, x, *tensors))
    with torch.autocast(kind, enabled=False):
        result = _Pointwise.apply(residual, x.to(residual.dtype), *tensors, gated, keep, dtype)  # type: ignore[no-untyped-call]
        return cast(Tensor, result)


def _requires_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


class _Pointwise(torch.autograd.Function):
    """Compute residual + contract(activation(expand(norm(x)))), with matrix products in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        gain: Tensor,
        expand: Tensor,
        expand_bias: Tensor | None,
        contract: Tensor,
        contract_bias: Tensor | None,
        gated: bool,
        keep: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        rows, out = x.flatten(0, -2), residual.flatten(0, -2)
        result = torch.empty_like(out)
        kept = rows.new_empty(len(rows), len(expand), dtype=dtype) if keep else None
        first, second = expand.to(dtype), contract.to(dtype)
        first_bias, second_bias = (
            None if bias is None else bias.to(dtype) for bias in (expand_bias, contract_bias)
        )
        activate = _gate if gated else F.silu
        for part in _slices(rows):
            normed = F.rms_norm(rows[part], gain.shape, gain, NORM_EPSILON).to(dtype)
            hidden = F.linear(normed, first, first_bias)
            if kept is not None:
                kept[part] = hidden
            torch.add(out[part], F.linear(activate(hidden), second, second_bias), out=result[part])
        ctx.save_for_backward(x, gain, expand, expand_bias, contract, kept)
        ctx.gated, ctx.dtype = gated, dtype
        return result.view_as(residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, expand, expand_bias, contract, kept = ctx.saved_tensors
        dtype = ctx.dtype
        first, second = expand.to(dtype), contract.to(dtype)
        first_bias = None if expand_bias is None else expand_bias.to(dtype)
        rows, incoming = x.flatten(0, -2), gradient.flatten(0, -2)
        into_x = torch.empty_like(rows)
        into_gain = torch.zeros_like(gain)
        into_expand, into_contract = torch.zeros_like(expand), torch.zeros_like(contract)
        into_expand_bias = expand.new_zeros(len(expand))
        backward = _gate_backward if ctx.gated else _silu_backward
        for part in _slices(rows):
            level = torch.rsqrt(rows[part].square().mean(-1, keepdim=True) + NORM_EPSILON)
            unit = rows[part] * level
            normed, outward = (unit * gain).to(dtype), incoming[part].to(dtype)
            hidden = F.linear(normed, first, first_bias) if kept is None else kept[part]
            activated, into_hidden = backward(outward @ second, hidden)
            _accumulate(into_contract, outward, activated)
            _accumulate(into_expand, into_hidden, normed)
            if first_bias is not None:
                into_expand_bias += into_hidden.sum(0, dtype=into_expand_bias.dtype)
            into_normed = (into_hidden @ first).to(rows.dtype)
            into_gain += (into_normed * unit).sum(0)
            into_unit = into_normed * gain
            shared = (into_unit * unit).mean(-1, keepdim=True)
            torch.mul(into_unit.addcmul_(unit, shared, value=-1), level, out=into_x[part])
        into_biases = (into_expand_bias, incoming.sum(0)) if first_bias is not None else (None, None)
        return (
            *(gradient, into_x.view_as(x), into_gain, into_expand, into_biases[0]),
            *(into_contract, into_biases[1], None, None, None),
        )


def _slices(rows: Tensor) -> list[slice]:
    size = max(SLICE_FEATURES // rows.shape[1], 1) if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(begin, begin + size) for begin in range(0, len(rows), size)]


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right to `total`, in the precision of `total`."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def _gate(hidden: Tensor) -> Tensor:
    gate, up = F.silu(hidden).chunk(2, -1)
    return F.silu(gate) * up


def _gate_backward(into_activated: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the recomputed activation, and the gradient of its input."""
    once = F.silu(hidden)
    gate, up = once.chunk(2, -1)
    twice = F.silu(gate)
    into_gate = torch.ops.aten.silu_backward(into_activated * up, gate)
    into_once = torch.cat((into_gate, into_activated * twice), -1)
    return twice * up, torch.ops.aten.silu_backward(into_once, hidden)


def _silu_backward(into_activated: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return F.silu(hidden), torch.ops.aten.silu_backward(into_activated, hidden)
