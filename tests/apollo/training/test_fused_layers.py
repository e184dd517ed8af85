"""The layers in training give what the plain layers give: values and every gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.training import fused_layers

SMALL = GeneratorConfig(dim=16, layers=2, heads=4)


def _gradients(generator: Generator, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
    samples = samples.clone().requires_grad_()
    out = generator(samples)
    loss = (out * torch.sin(torch.arange(out.numel(), dtype=out.dtype).view_as(out))).sum()
    return out.detach(), list(torch.autograd.grad(loss, [samples, *generator.parameters()]))


def _generator(recompute: str | None = None) -> Generator:
    torch.manual_seed(0)
    generator = Generator(SMALL).double()
    generator.load_state_dict(
        {name: value + 0.1 * torch.randn_like(value) for name, value in generator.state_dict().items()}
    )
    if recompute:
        fused_layers.configure_training_layers(generator, recompute=recompute, compiled=False)
    return generator


@pytest.mark.parametrize("slice_features", [1 << 18, 16 * 37])
@pytest.mark.parametrize("recompute", ["nothing", "hidden", "layers"])
def test_values_and_gradients_are_those_of_the_plain_layers(
    recompute: str, slice_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_layers, "SLICE_FEATURES", slice_features)
    samples = 0.1 * torch.randn(2, 2, 3_000, dtype=torch.float64)
    expected, wanted = _gradients(_generator(), samples)
    found, gradients = _gradients(_generator(recompute), samples)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_gradients_are_those_of_finite_differences(gated: bool, keep: bool) -> None:
    torch.manual_seed(1)
    dim, wide = 4, 8
    shapes = [(3, 5, dim), (3, 5, dim), (dim,), (2 * wide if gated else wide, dim), (dim, wide)]
    residual, x, gain, expand, contract = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    biases = (
        (None, None)
        if gated
        else (torch.randn(wide).double().requires_grad_(), torch.randn(dim).double().requires_grad_())
    )
    assert torch.autograd.gradcheck(
        lambda *given: fused_layers._add_network(*given, gated, keep),
        (residual, x, gain, expand, biases[0], contract, biases[1]),
    )


def test_bfloat16_products_stay_near_and_gradients_stay_float32() -> None:
    generator, samples = _generator("nothing").float(), 0.1 * torch.randn(2, 2, 3_000)
    expected, wanted = _gradients(generator, samples)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = _gradients(generator, samples)
    assert (found - expected).norm() < 0.02 * expected.norm()
    for one, other in zip(gradients, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm() + 1e-6


class _Allocations(TorchDispatchMode):
    """Records the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = function(*arguments, **(keywords or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


@pytest.mark.parametrize("graph", ["kept", "no_grad", "frozen"])
@pytest.mark.parametrize("gated", [False, True])
def test_nothing_is_kept_without_a_graph(gated: bool, graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_layers, "SLICE_FEATURES", 1 << 10)
    generator, rows, bands, dim = _generator("nothing").requires_grad_(graph == "kept"), 64, 80, SMALL.dim
    trunk = generator.trunk
    layer, x = trunk.layers[0], torch.randn(rows, bands, dim, dtype=torch.float64)
    with _Allocations() as made, torch.set_grad_enabled(graph != "no_grad"):
        if gated:
            fused_layers._add_network(
                *(x, x, layer.bands.gate_norm.weight, layer.bands.gate.weight, None),
                *(layer.bands.gate_output.weight, None, True, True),
            )
        else:
            trunk.feed_forward(layer.time[0], x, x)
    assert (made.largest > x.numel()) == (graph == "kept")  # the hidden layer is four or eight times as wide
