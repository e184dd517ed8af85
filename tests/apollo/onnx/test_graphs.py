"""ONNX files equal the generators in torch, in both forms, at every length, and are valid."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from apollo import metrics
from apollo.checkpoints.checkpoint import load
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.published_format import infer_config, load_published
from apollo.inference.restoration import restore
from apollo.model import stft
from apollo.model.config import PRESETS, GeneratorConfig
from apollo.model.generator import Generator, padded_length
from apollo.model.noise import NoiseOptions, white_noise
from apollo.onnx.export import export_onnx, to_onnx_bytes
from apollo.onnx.onnx_generator import OnnxGenerator, OnnxStreamRestorer
from apollo.onnx.transforms import analysis_kernel, synthesis_kernel

HOP = 441
FULL_SCALE = {"compact": 1e-4, "released": 1e-3}  # of the target; what is measured is 1e-5 of full scale
ROUNDING = 2e-5  # float32 sums in another order
LENGTHS = [1, 2, 440, 441, 442, 882, 883, 4410, 30_001]
SMALL = {"dim": 16, "layers": 2}
KINDS: list[dict[str, Any]] = [
    {"output": "correction"},
    {"output": "correction", "causal": True},
    {"output": "mask_and_noise", "noise_limit": 0.15},
    {"output": "mask_and_noise", "causal": True},
    {"trunk": "frame_convolution"},
    {"trunk": "frame_convolution", "output": "correction", "causal": True},
    {"trunk": "frame_convolution", "output": "mask_and_noise", "noise_limit": 0.15},
    {"bands": "paper"},
    {"window_samples": 8, "bands": (2, 1, 2), "heads": 2},  # bands of one width are not side by side
]


def small(**changes: Any) -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**{**SMALL, **changes}))
    merge = generator.trunk.merge
    for group in merge.groups if hasattr(merge, "groups") else [merge]:
        nn.init.normal_(group.weight, std=0.2)  # a correction is zero at first, and would hide mistakes
    return generator.eval()


@pytest.fixture(scope="module")
def compact() -> Generator:
    return load()


@pytest.fixture(scope="module")
def released() -> Generator:
    """The published architecture with random weights."""
    torch.manual_seed(0)
    return Generator().eval()


def session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])


def signal(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_whole(
    whole: onnxruntime.InferenceSession,
    samples: Tensor,
    hop: int = HOP,
    *,
    seed: int = 0,
    strength: float = 1.0,
) -> Tensor:
    inputs = {"samples": samples.numpy()}
    if len(whole.get_inputs()) > 1:
        length = padded_length(samples.shape[-1], hop) + 2 * hop
        inputs["noise"] = np.stack([white_noise(seed, channel, -hop, length) for channel in (0, 1)])
        inputs["strength"] = np.array([strength], np.float32)
    return torch.from_numpy(whole.run(None, inputs)[0])


def run_stream(content: bytes, samples: Tensor, sizes: list[int], **noise: Any) -> Tensor:
    """Restore one item [channels, samples] in pieces."""
    restorer = OnnxStreamRestorer(OnnxGenerator(content, "it"), NoiseOptions(channels=len(samples), **noise))
    state, parts = restorer.start(len(samples)), []
    for piece in samples.split(sizes, 1):
        part, state = restorer.push(state, piece)
        parts.append(part)
    return torch.cat([*parts, restorer.finish(state)], 1)


def assert_close(found: Tensor, expected: Tensor, bound: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= bound


@pytest.fixture(scope="module")
def compact_whole(compact: Generator) -> onnxruntime.InferenceSession:
    return session(to_onnx_bytes(compact, whole=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("samples", LENGTHS)
def test_compact_network_equals_torch_at_every_length(
    compact: Generator, compact_whole: onnxruntime.InferenceSession, shape: tuple[int, int], samples: int
) -> None:
    degraded = signal(*shape, samples)
    expected = restore(compact, degraded, seed=3, strength=0.7)
    found = run_whole(compact_whole, degraded, seed=3, strength=0.7)
    assert_close(found, expected, ROUNDING)
    assert_close(found, expected, FULL_SCALE["compact"])


def test_long_and_loud_and_quiet_signals_equal_torch(
    compact: Generator, compact_whole: onnxruntime.InferenceSession
) -> None:
    for gain in (10.0, 1e-4):
        degraded = gain * signal(1, 2, 200_003)
        degraded[..., 50_000:120_000] = 0.0
        expected = restore(compact, degraded)
        assert_close(run_whole(compact_whole, degraded) / gain, expected / gain, FULL_SCALE["compact"])


def test_silence_stays_silent(compact: Generator, compact_whole: onnxruntime.InferenceSession) -> None:
    silence = torch.zeros(1, 2, 5000)
    assert torch.equal(run_whole(compact_whole, silence), silence)
    content = to_onnx_bytes(compact)
    assert torch.equal(run_stream(content, silence[0], [5000]), silence[0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 883), (1, 2, 11_025)])
def test_released_network_equals_torch(released: Generator, shape: tuple[int, int, int]) -> None:
    degraded = signal(*shape)
    expected = restore(released, degraded)
    found = run_whole(session(to_onnx_bytes(released, whole=True)), degraded)
    assert_close(found, expected, ROUNDING)
    assert_close(found, expected, FULL_SCALE["released"])
    streamed = run_stream(to_onnx_bytes(released), degraded[0], [shape[2]])
    assert_close(streamed, expected[0], ROUNDING)


@pytest.mark.parametrize("name", ["dim16_layers2_silence", "dim32_layers2_stereo", "dim64_layers1_mono"])
def test_recorded_outputs_of_the_published_network_are_equal(golden: Path, name: str) -> None:
    mark = "state_dict/"
    with np.load(golden / f"generator_{name}.npz") as vectors:
        state = {key.removeprefix(mark): torch.from_numpy(vectors[key]) for key in vectors if mark in key}
        samples, expected = (torch.from_numpy(vectors[key]) for key in ("input", "output"))
    generator = Generator(infer_config(state)).eval()
    load_published(generator, state)
    items = samples.reshape(-1, *samples.shape[-2:])
    found = run_whole(session(to_onnx_bytes(generator, whole=True)), items).reshape(samples.shape)
    assert_close(found, expected, ROUNDING)


@pytest.mark.parametrize("changes", KINDS)
def test_every_architecture_equals_torch_in_both_forms(changes: dict[str, Any]) -> None:
    generator = small(**changes)
    hop = generator.config.hop_samples
    whole, streaming = session(to_onnx_bytes(generator, whole=True)), to_onnx_bytes(generator)
    for samples in (1, hop + 1, 20 * hop, 100 * hop + 7):
        degraded = signal(2, 2, samples)
        expected = restore(generator, degraded, seed=1)
        assert_close(run_whole(whole, degraded, hop, seed=1), expected, ROUNDING)
        sizes = [1, samples // 3, samples - samples // 3 - 1] if samples > 1 else [1]
        assert_close(run_stream(streaming, degraded[0], sizes, seed=1), expected[0], ROUNDING)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 441, 1000, 44_100])
def test_chunks_equal_the_whole(compact: Generator, channels: int, size: int) -> None:
    samples = 3000 if size == 1 else 100_000
    degraded = signal(channels, samples)
    sizes = [size] * (samples // size) + [samples % size]
    found = run_stream(to_onnx_bytes(compact), degraded, sizes, seed=7, strength=1.5)
    assert_close(found, restore(compact, degraded, seed=7, strength=1.5), ROUNDING)


def test_items_of_a_batch_are_streamed_together(compact: Generator) -> None:
    degraded = signal(2, 2, 30_000)
    generator = OnnxGenerator(to_onnx_bytes(compact), "it")
    restorer = OnnxStreamRestorer(generator, NoiseOptions(channels=2))
    found, state = restorer.push(restorer.start(4), degraded.flatten(0, 1))
    found = torch.cat((found, restorer.finish(state)), 1).view_as(degraded)
    assert_close(found, restore(compact, degraded), ROUNDING)


def test_noise_needs_its_strength_and_its_seed(
    compact: Generator, compact_whole: onnxruntime.InferenceSession
) -> None:
    degraded = signal(1, 2, 22_050)
    none, some, other = (
        run_whole(compact_whole, degraded, seed=seed, strength=strength)
        for seed, strength in ((0, 0.0), (0, 1.0), (1, 1.0))
    )
    assert_close(none, restore(compact, degraded, strength=0.0), ROUNDING)
    assert (some - none).abs().max() > 0.01
    assert (some - other).abs().max() > 0.01


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["compact", "released", "small"])
def test_files_pass_the_checker_of_onnx_and_say_what_they_are(
    request: pytest.FixtureRequest, name: str, whole: bool, int8: bool
) -> None:
    generator = small(causal=True) if name == "small" else request.getfixturevalue(name)
    content = to_onnx_bytes(generator, whole=whole, int8=int8, metadata={"licence": "mine"})
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert [one.name for one in inferred.graph.output] == ["restored", "next_state"][: 1 if whole else 2]
    assert model.producer_name == "apollo-restoration"
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 17
    facts = {one.key: one.value for one in model.metadata_props}
    assert GeneratorConfig.from_dict(json.loads(facts["config"])) == generator.config
    assert (facts["form"], facts["precision"], facts["licence"]) == (
        "whole" if whole else "streaming",
        "int8" if int8 else "float32",
        "mine",
    )
    assert int(facts["lookahead_hops"]) == generator.lookahead_frames
    assert (int(facts["sample_rate"]), int(facts["hop_samples"])) == (44_100, 441)
    session(content)


@pytest.mark.parametrize("int8", [False, True])
def test_same_weights_give_the_same_bytes(tmp_path: Path, int8: bool) -> None:
    for name, seed_change in (("one", 0.0), ("two", 0.0), ("three", 1e-3)):
        generator = small(trunk="frame_convolution", output="mask_and_noise")
        with torch.no_grad():
            next(generator.parameters()).add_(seed_change)
        export_onnx(generator, tmp_path / name, int8=int8)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_int8_is_smaller_and_close_to_float32(compact: Generator) -> None:
    """The signal falls with frequency and ends at 11 kHz, as an MP3 of music does."""
    spectrum = torch.fft.rfft(signal(1, 2, 44_100))
    bins = torch.arange(spectrum.shape[-1])
    degraded = torch.fft.irfft(spectrum / (1 + bins / 300) * (bins < 11_000), 44_100)
    degraded = degraded / degraded.abs().max() / 2
    contents = [to_onnx_bytes(compact, whole=True, int8=int8) for int8 in (False, True)]
    assert len(contents[1]) < 0.7 * len(contents[0])
    exact, quantized = (run_whole(session(content), degraded) for content in contents)
    assert metrics.si_snr(estimate=quantized.double(), reference=exact.double()).min() > 50.0


def test_kernels_are_the_transforms_in_float64() -> None:
    samples = signal(1, 10 * HOP).double()
    window = stft.hann_window(2 * HOP, samples)
    kernel = analysis_kernel(2 * HOP)
    assert kernel.dtype == torch.float64
    found = torch.conv1d(samples[:, None], kernel, stride=HOP).transpose(1, 2)
    spectrum = stft.analyze(samples, window)
    assert_close(found, torch.cat((spectrum.real, spectrum.imag), 2), 1e-12)
    back = torch.conv_transpose1d(found.transpose(1, 2), synthesis_kernel(2 * HOP), stride=HOP)[:, 0]
    assert_close(back[:, HOP:-HOP], samples[:, HOP:-HOP], 1e-12)


@pytest.mark.parametrize("preset", ["sr_gan-small", "ams-small", "replication"])
def test_architectures_without_a_graph_are_refused_with_those_that_have_one(preset: str) -> None:
    with torch.device("meta"):
        generator = Generator(PRESETS[preset])
    with pytest.raises(CheckpointError, match=r"cannot be exported; what can: trunks band_sequence"):
        to_onnx_bytes(generator)
