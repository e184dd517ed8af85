"""The generator against an independent one, and what must hold for any input."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apollo.checkpoints.published_format import published_state_dict
from apollo.model.band_sequence import SLICE_FEATURES
from apollo.model.config import GeneratorConfig
from apollo.model.generator import CPU_CHUNK_ACTIVATIONS, Generator

HOP, WINDOW, HEADS = 441, 882, 8
ROUNDING = 1e-5  # of the RMS: float32 sums in another order, through the depth of the network


def _generator(*, randomised: bool = True, seed: int = 0, **changes: Any) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**{"dim": 16, "layers": 2, **changes}))
    if randomised:  # norms away from one and corrections away from zero, or mistakes would hide
        for parameter in generator.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return generator.eval()


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_equal(found: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    assert found.shape == expected.shape
    scale = expected.double().square().mean().sqrt()
    assert ((found.double() - expected.double()).abs().max() / scale).item() <= tolerance


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Norm of x [channels, frames] over channels."""
    return x / (x.square().mean(0) + 1e-5).sqrt() * weight[:, None]


def _attend(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Attend over the bands of one frame; x [dim, bands]. Dimensions 2i, 2i+1 turn by band / 10000^(2i/d)."""
    head_dim, bands = len(x) // HEADS, x.shape[1]
    joint = w["weight.weight"][..., 0] @ _rms_norm(x, w["input_norm.weight"])
    rotation = torch.zeros(bands, head_dim, head_dim, dtype=x.dtype)
    for band in range(bands):
        for pair in range(head_dim // 2):
            angle = band / 10_000 ** (2 * pair / head_dim)
            block = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            rotation[band, 2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = torch.tensor(block)
    heads = []
    for query, key, value in joint.view(HEADS, 3, head_dim, bands):
        query, key = (torch.einsum("bij,jb->ib", rotation, one) for one in (query, key))
        heads.append(value @ (query.T @ key / math.sqrt(head_dim)).softmax(1).T)
    x = x + w["output.weight"][..., 0] @ torch.cat(heads)
    gate, up = F.silu(w["MLP.1.weight"][..., 0] @ _rms_norm(x, w["MLP.0.weight"])).chunk(2)
    return x + w["MLP_output.weight"][..., 0] @ (F.silu(gate) * up)


def _convolve(x: Tensor, w: dict[str, Tensor], causal: bool) -> Tensor:
    """One block over time of one band; x [dim, frames]."""
    padded = F.pad(x, (6, 0) if causal else (3, 3))
    mixed = _rms_norm(F.conv1d(padded[None], w["0.weight"], w["0.bias"], groups=len(x))[0], w["1.weight"])
    hidden = F.silu(F.conv1d(mixed[None], w["2.weight"], w["2.bias"]))
    return x + F.conv1d(hidden, w["4.weight"], w["4.bias"])[0]


def _independent_forward(generator: Generator, samples: Tensor) -> Tensor:
    """Restore one channel, of a multiple of the hop, by the published names and torch's own transforms."""
    config = generator.config
    weights = {key: value.double() for key, value in published_state_dict(generator).items()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}

    window = torch.hann_window(WINDOW, dtype=torch.float64)
    spectrum = torch.stft(samples.double(), WINDOW, HOP, window=window, center=True, return_complex=True)
    features = []
    for band, bins in enumerate(spectrum.split(config.band_widths)):
        w = part(f"BN.{band}.")
        power = (bins.abs().square().sum(0) + 2.0**-23).sqrt()
        values = torch.cat((bins.real / power, bins.imag / power, power.log()[None]))
        features.append(w["1.weight"][..., 0] @ _rms_norm(values, w["0.weight"]) + w["1.bias"][:, None])
    x = torch.stack(features)  # [bands, dim, frames]
    for layer in range(config.layers):
        w = part(f"net.{layer}.band_net.")
        x = torch.stack([_attend(frame.T, w).T for frame in x.unbind(2)], 2)
        for block in range(3):
            w = part(f"net.{layer}.seq_net.blocks.{block}.conv.")
            x = torch.stack([_convolve(band, w, config.causal) for band in x])
    restored = []
    for band, one in enumerate(x):
        w = part(f"output.{band}.")
        outputs = w["1.weight"][..., 0] @ _rms_norm(one, w["0.weight"]) + w["1.bias"][:, None]
        restored.append(torch.complex(*F.glu(outputs, 0).chunk(2)))
    total = torch.cat(restored) + (spectrum if config.output == "correction" else 0)
    return torch.istft(total, WINDOW, HOP, window=window, center=True, length=samples.shape[-1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("output", ["direct", "correction"])
@pytest.mark.parametrize("bands", ["released", "paper", (100, 42, 200, 42, 58)])
def test_equals_an_independent_generator_on_multiples_of_the_hop(
    bands: str | tuple[int, ...], output: str, causal: bool
) -> None:
    generator = _generator(dim=32, layers=1, bands=bands, output=output, causal=causal)
    for frames in (2, 9):
        samples = _noise(frames * HOP)
        with torch.inference_mode():
            _assert_equal(generator(samples), _independent_forward(generator, samples))


def test_silence_and_two_layers_equal_an_independent_generator() -> None:
    generator, samples = _generator(dim=32), _noise(8 * HOP)
    samples[2 * HOP : 5 * HOP] = 0
    with torch.inference_mode():
        _assert_equal(generator(samples), _independent_forward(generator, samples))


@pytest.mark.parametrize("shape", [(3, 4000), (2, 2, 4000), (4000,)])
def test_batch_items_and_channels_are_restored_as_if_alone(shape: tuple[int, ...]) -> None:
    generator, samples = _generator(), _noise(*shape)
    with torch.inference_mode():
        together = generator(samples).reshape(-1, shape[-1])
        alone = [generator(row) for row in samples.reshape(-1, shape[-1])]
    _assert_equal(together, torch.stack(alone))


@pytest.mark.parametrize("samples", [1, 2, 440, 441, 442, 443, 881, 882, 883, 1000, 1322, 1763])
@pytest.mark.parametrize("output", ["direct", "correction"])
def test_any_length_gives_that_length_and_no_peak(samples: int, output: str) -> None:
    """The published inverse transform gives peaks of 10,000 times the RMS at lengths near 440 mod 441."""
    generator = _generator(output=output)
    with torch.inference_mode():
        whole = generator(_noise(1, 8 * HOP))
        restored = generator(_noise(1, samples))
    assert restored.shape == (1, samples) and restored.isfinite().all()
    assert restored.abs().max() <= 2 * whole.abs().max()


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 100)])
def test_no_samples_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to restore"):
        _generator()(torch.zeros(shape))


def test_silence_stays_finite_with_gradients() -> None:
    generator, samples = _generator(), torch.zeros(2, 2000, requires_grad=True)
    restored = generator(samples)
    restored.square().sum().backward()
    assert restored.isfinite().all()
    assert samples.grad is not None and samples.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize("causal", [False, True])
def test_correction_starts_as_the_identity_and_direct_does_not(causal: bool) -> None:
    samples = _noise(2, 5000)
    with torch.inference_mode():
        corrected = _generator(randomised=False, output="correction", causal=causal)(samples)
        direct = _generator(randomised=False, output="direct", causal=causal)(samples)
    assert (corrected - samples).abs().max() <= 1e-6  # the transform and back, in float32
    assert (direct - samples).abs().max() > 0.05


@pytest.mark.parametrize("changes", [{}, {"causal": True}, {"output": "correction"}, {"bands": "paper"}])
def test_gradients_reach_every_parameter(changes: dict[str, Any]) -> None:
    generator = _generator(**changes).train()
    generator(_noise(2, 6000)).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        rows = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[None]
        assert rows.any(1).all(), name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("output", ["direct", "correction"])
def test_training_and_inference_give_the_same(output: str, causal: bool) -> None:
    """Inference works in place, in slices and in stretches; this input takes several and leaves a rest."""
    generator, samples = _generator(output=output, causal=causal, layers=1), _noise(1, 1500 * HOP)
    assert SLICE_FEATURES < CPU_CHUNK_ACTIVATIONS < 1501 * 80 * 16
    given = samples.clone()
    with torch.no_grad():
        inferred = generator(samples)
    trained = generator.requires_grad_(False)(samples)  # gradients are on, so this is the way of training
    _assert_equal(inferred, trained)
    assert torch.equal(samples, given)


def test_bfloat16_keeps_40_db_at_the_released_size_and_leaves_the_original_alone() -> None:
    torch.manual_seed(0)
    generator, samples = Generator(), _noise(22050)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    prepared = generator.with_precision(torch.bfloat16)
    with torch.inference_mode():
        expected, found = generator(samples), prepared(samples)
    assert found.dtype == torch.float32
    noise = (found - expected).square().sum()
    assert 10 * torch.log10(expected.square().sum() / noise) >= 40
    assert noise > 0
    assert generator.training and not prepared.training
    for key, value in generator.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[key])


def test_autocast_runs_forward_and_backward() -> None:
    generator, samples = _generator(), _noise(2, 5000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = generator(samples)
        with torch.no_grad():
            inferred = generator(samples)
    restored.float().square().mean().backward()
    assert restored.isfinite().all() and inferred.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    expected = generator(samples).detach()
    for found in (restored.detach(), inferred):  # 40 dB is bfloat16's own cost
        assert 10 * torch.log10(expected.square().sum() / (found - expected).square().sum()) >= 30


class _Convolutions(TorchDispatchMode):
    """Records the dtypes of all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if "convolution" in str(function):
            self.dtypes.append(arguments[0].dtype)
        return function(*arguments, **(keywords or {}))


def test_autocast_leaves_the_convolutions_in_float32_as_inference_does() -> None:
    generator, samples = _generator(), _noise(2, 5000)
    with _Convolutions() as trained, torch.autocast("cpu", dtype=torch.bfloat16):
        restored = generator(samples)
        restored.float().square().mean().backward()
    with _Convolutions() as inferred, torch.no_grad():
        generator.with_precision(torch.bfloat16)(samples)
    assert set(trained.dtypes) == set(inferred.dtypes) == {torch.float32}
    assert len(trained.dtypes) == 2 * len(inferred.dtypes)  # forward and backward


def test_float64_generator_gives_float64_and_agrees_with_float32() -> None:
    generator, samples = _generator(), _noise(2, 5000)
    expected = generator(samples).detach()
    found = generator.double()(samples.double()).detach()
    assert found.dtype == torch.float64
    _assert_equal(expected, found)
