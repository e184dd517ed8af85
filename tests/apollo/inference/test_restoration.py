"""Chunks equal the whole, and how far a sample is heard, proven by gradients that are exactly zero beyond."""

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apollo.inference.restoration import receptive_field_frames, receptive_field_samples, restore
from apollo.inference.streaming import StreamRestorer
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator

RATE, HOP = 44100, 441
ROUNDING = 1e-5  # of the output's RMS: float32 sums in another order


def _generator(seed: int = 0, **changes: Any) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**{"dim": 16, "layers": 1, **changes}))
    for group in generator.trunk.merge.groups:  # a correction is zero at first, and would hide mistakes
        nn.init.normal_(group.weight, std=0.2)
        nn.init.normal_(group.bias, std=0.2)
    return generator.eval().requires_grad_(False)


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_chunks_equal_the_whole(generator: Generator, samples: Tensor, chunk_seconds: float) -> None:
    given = samples.clone()
    whole = generator(samples)  # with gradients on, everything is computed at once
    chunked = restore(generator, samples, chunk_seconds=chunk_seconds)
    assert chunked.shape == samples.shape and chunked.dtype == samples.dtype
    assert torch.equal(samples, given)
    assert (chunked - whole).abs().max() <= ROUNDING * whole.square().mean().sqrt()


def _drawn_cases() -> list[tuple[Any, ...]]:
    """Draw lengths and chunks for every kind of generator, around the hop's multiples and far from them."""
    draw = random.Random(0)
    lengths = [1, 2, 440, 441, 442, 881, 882, 883, 1323, 5000, 22_050, 70_001, 100_000]
    chunks = [441, 442, 440, 1000, 4_410, 7_919, 44_100, 10_000_000]
    kinds = itertools.product([1, 2, 3], [False, True], ["direct", "correction"])
    return [
        (*kind, draw.choice([1, 2, 3]), draw.choice(lengths), draw.choice(chunks))
        for kind in kinds
        for _ in range(4)
    ]


@pytest.mark.parametrize("layers, causal, output, channels, samples, chunk_samples", _drawn_cases())
def test_chunks_equal_the_whole(
    layers: int, causal: bool, output: str, channels: int, samples: int, chunk_samples: int
) -> None:
    generator = _generator(layers=layers, causal=causal, output=output)
    _assert_chunks_equal_the_whole(generator, _noise(channels, samples), chunk_samples / RATE)


@pytest.mark.parametrize("chunk_samples", [1, 7, 439, 440, 441, 442, 881, 882, 883, 1323, 2000, 5000])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_of_any_size_equal_the_whole(causal: bool, chunk_samples: int) -> None:
    _assert_chunks_equal_the_whole(_generator(causal=causal), _noise(2, 2000), (chunk_samples + 0.5) / RATE)


@pytest.mark.parametrize("shape", [(3000,), (1, 3000), (2, 3, 3000)])
def test_any_leading_dimensions_are_channels(shape: tuple[int, ...]) -> None:
    _assert_chunks_equal_the_whole(_generator(), _noise(*shape), 0.03)


def test_a_minute_in_chunks_equals_the_whole() -> None:
    _assert_chunks_equal_the_whole(_generator(), _noise(1, 60 * RATE + 17), 10.0)


def test_bfloat16_chunks_stay_within_bfloat16s_own_error() -> None:
    generator, samples = _generator(layers=2).with_precision(torch.bfloat16), _noise(1, 9000)
    with torch.inference_mode():
        whole = generator(samples)
    chunked = restore(generator, samples, chunk_seconds=0.05)
    assert 10 * torch.log10(whole.square().sum() / (chunked - whole).square().sum()) >= 40


def _affected_frames(position: int, past: int, future: int) -> tuple[int, int]:
    """Work out the first and last sample that can change one: the frames it lies in, theirs, their windows.

    Frame k covers samples (k - 1) * hop + 1 to (k + 1) * hop - 1, as the window's first value is zero.
    """
    first, last = position // HOP, -(-position // HOP)
    return (first - past - 1) * HOP + 1, (last + future + 1) * HOP - 1


def _whole(generator: Generator, samples: Tensor) -> Tensor:
    return generator(samples)


def _chunked(generator: Generator, samples: Tensor) -> Tensor:
    restorer = StreamRestorer(generator)
    state, parts = restorer.start(1), []
    for chunk in samples[None].split([1000, 0, 1, 4000, len(samples) - 5001], 1):
        part, state = restorer._push(state, chunk)
        parts.append(part)
    return torch.cat([*parts, restorer._finish(state)], 1)[0]


@pytest.mark.parametrize("path", [_whole, _chunked])
@pytest.mark.parametrize("offset", [0, 1, 2, 220, 439, 440])
@pytest.mark.parametrize(
    "changes", [{}, {"causal": True}, {"output": "correction"}, {"layers": 2, "causal": True}]
)
def test_gradient_is_exactly_zero_beyond_the_receptive_field_and_not_at_its_edges(
    changes: dict[str, Any], offset: int, path: Any
) -> None:
    generator = _generator(**changes).double()
    past, future = receptive_field_samples(generator)
    position = (past // HOP + 2) * HOP + offset  # a hop away from the reflections at the ends
    samples = _noise(position + future + 2 * HOP).double().requires_grad_()
    path(generator, samples)[position].backward()
    assert samples.grad is not None
    heard = samples.grad.nonzero().flatten()
    low, high = _affected_frames(position, *receptive_field_frames(generator))
    assert (int(heard[0]), int(heard[-1])) == (low, high)
    assert position - low <= past and high - position <= future
    if offset == HOP - 1:
        assert position - low == past
    if offset == 1:
        assert high - position == future


@pytest.mark.parametrize(
    "config, frames, samples",
    [
        (GeneratorConfig(), (54, 54), (24_694, 24_694)),
        (GeneratorConfig(causal=True), (108, 0), (108 * 441 + 880, 880)),
        (GeneratorConfig(layers=1), (9, 9), (9 * 441 + 880, 9 * 441 + 880)),
    ],
)
def test_receptive_field_has_its_known_size(
    config: GeneratorConfig, frames: tuple[int, int], samples: tuple[int, int]
) -> None:
    with torch.device("meta"):
        generator = Generator(config)
    assert (receptive_field_frames(generator), receptive_field_samples(generator)) == (frames, samples)


@pytest.mark.parametrize(
    "samples, chunk_seconds, message",
    [
        (torch.zeros(0), 1.0, "nothing to restore"),
        (torch.zeros(2, 0), 1.0, "nothing to restore"),
        (torch.zeros(0, 5), 1.0, "nothing to restore"),
        (torch.tensor([0.0, float("nan")]), 1.0, "non-finite samples"),
        (torch.tensor([0.0, float("inf")]), 1.0, "non-finite samples"),
        (torch.zeros(5), 0.0, "chunk_seconds is 0.0"),
        (torch.zeros(5), -1.0, "chunk_seconds is -1.0"),
        (torch.zeros(5), float("nan"), "chunk_seconds is nan"),
    ],
)
def test_what_cannot_be_restored_is_refused(samples: Tensor, chunk_seconds: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restore(_generator(), samples, chunk_seconds=chunk_seconds)


def test_restoring_leaves_no_graph_and_no_mode_behind() -> None:
    restored = restore(_generator().requires_grad_(), _noise(1000))
    assert not restored.requires_grad and torch.is_grad_enabled()
