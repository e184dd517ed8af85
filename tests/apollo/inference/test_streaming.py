"""Streams equal the whole, in any pieces, with states that the caller may keep, and within the latency."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apollo.checkpoints.checkpoint import load
from apollo.inference.streaming import StreamRestorer, StreamState
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions

HOP = 441
ROUNDING = 1e-5  # of the output's RMS: float32 sums in another order
KINDS = [
    {"causal": True},
    {"causal": True, "layers": 2, "output": "correction"},
    {"causal": False},
    {"causal": False, "output": "correction"},
]


def _generator(**changes: Any) -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**{"dim": 16, "layers": 1, **changes}))
    for group in generator.trunk.merge.groups:  # a correction is zero at first, and would hide mistakes
        nn.init.normal_(group.weight, std=0.2)
    return generator.eval()


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _pieces(samples: int, seed: int) -> list[int]:
    """Cut into random sizes, nothing and single samples among them."""
    draw, sizes = random.Random(seed), [0, 1]
    while sum(sizes) < samples:
        sizes.append(min(draw.choice([0, 1, 2, 100, 441, 882, draw.randrange(3000)]), samples - sum(sizes)))
    return sizes


def _stream(restorer: StreamRestorer, samples: Tensor, sizes: list[int]) -> Tensor:
    state, parts = restorer.start(len(samples)), []
    for piece in samples.split(sizes, 1):
        part, state = restorer.push(state, piece)
        parts.append(part)
    return torch.cat([*parts, restorer.finish(state)], 1)


def _whole(generator: Generator, samples: Tensor) -> Tensor:
    with torch.inference_mode():
        return generator(samples)


def _assert_equal(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    assert found.shape == expected.shape
    if found.numel():
        assert (found - expected).abs().max() <= ROUNDING * scale.square().mean().sqrt()


def _tensors(state: StreamState) -> list[Tensor]:
    tensors = [state.buffer, state.tail]
    if (inner := state.generator_state) is not None:
        tensors += [
            *inner.trunk,
            inner.frames_without_output,
            inner.level_and_side,
            inner.frames_without_level,
        ]
        tensors += [] if inner.average is None else [inner.average.values]
    return tensors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("changes", KINDS)
def test_any_pieces_equal_the_whole(changes: dict[str, Any], seed: int) -> None:
    generator, samples = _generator(**changes), _noise(2, 20_000 + 137 * seed)
    found = _stream(StreamRestorer(generator), samples, _pieces(samples.shape[1], seed))
    whole = _whole(generator, samples)
    _assert_equal(found, whole, whole)


@pytest.mark.parametrize("samples", [1, 2, 440, 441, 442, 443, 881, 882, 883, 884, 1322, 1323, 1324])
@pytest.mark.parametrize("changes", KINDS)
def test_short_streams_equal_the_whole(changes: dict[str, Any], samples: int) -> None:
    generator = _generator(**changes)
    whole = _whole(generator, _noise(1, samples))
    for sizes in ([samples], [samples - 1, 1], [1, samples - 1, 0]):
        found = _stream(StreamRestorer(generator), _noise(1, samples), sizes)
        _assert_equal(found, whole, whole)


@pytest.mark.parametrize("changes", KINDS)
def test_streams_in_step_equal_streams_apart(changes: dict[str, Any]) -> None:
    restorer, samples = StreamRestorer(_generator(**changes)), _noise(3, 9000)
    sizes = _pieces(9000, 5)
    together = _stream(restorer, samples, sizes)
    apart = torch.cat([_stream(restorer, row[None], sizes) for row in samples])
    _assert_equal(together, apart, apart)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("before", [0, 300, 5000])
def test_a_state_is_never_changed_and_may_be_used_again(changes: dict[str, Any], before: int) -> None:
    restorer, samples = StreamRestorer(_generator(**changes)), _noise(1, 12_000)
    _, state = restorer.push(restorer.start(1), samples[:, :before])
    kept = [tensor.clone() for tensor in _tensors(state)]
    counters = (state.reflected, state.received, state.returned)
    first, _ = restorer.push(state, samples[:, before:])
    ended = restorer.finish(state)
    _ = restorer.push(state, 10 * samples)
    again, _ = restorer.push(state, samples[:, before:])
    assert torch.equal(first, again) and torch.equal(ended, restorer.finish(state))
    assert (state.reflected, state.received, state.returned) == counters
    assert all(torch.equal(one, other) for one, other in zip(kept, _tensors(state), strict=True))


@pytest.mark.parametrize("changes", KINDS)
def test_samples_are_returned_within_the_latency_and_never_early(changes: dict[str, Any]) -> None:
    restorer = StreamRestorer(_generator(**changes))
    state, received, given = restorer.start(1), 0, 0
    backlog = []
    for size in [*_pieces(9000, 3), *[7] * 130]:
        part, state = restorer.push(state, _noise(1, size))
        received, given = received + size, given + part.shape[1]
        assert received - restorer.latency_samples <= given <= received
        assert (state.received, state.returned) == (received, given)
        backlog.append(received - given)
    assert max(backlog) > restorer.latency_samples - 2 * HOP  # the latency is no idle promise


@pytest.mark.parametrize(
    "config, latency",
    [(GeneratorConfig(causal=True), 882), (GeneratorConfig(), 24_696), (GeneratorConfig(layers=1), 4851)],
)
def test_latency_is_a_window_and_the_lookahead(config: GeneratorConfig, latency: int) -> None:
    with torch.device("meta"):
        assert StreamRestorer(Generator(config)).latency_samples == latency


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("known", [700, 4851, 9000])
def test_returned_samples_do_not_depend_on_later_input(changes: dict[str, Any], known: int) -> None:
    generator = _generator(**changes)
    restorer, past = StreamRestorer(generator), _noise(1, known)
    given, _ = restorer.push(restorer.start(1), past)
    assert given.shape[1] >= known - restorer.latency_samples
    for future in (5 * _noise(1, 6000, seed=2), torch.zeros(1, 6000), _noise(1, 0)):
        whole = _whole(generator, torch.cat((past, future), 1))
        _assert_equal(given, whole[:, : given.shape[1]], whole)


@pytest.mark.parametrize("batch", [1, 3])
def test_no_samples_give_no_samples(batch: int) -> None:
    restorer = StreamRestorer(_generator())
    state = restorer.start(batch)
    assert restorer.finish(state).shape == (batch, 0)
    part, state = restorer.push(state, torch.zeros(batch, 0))
    assert part.shape == (batch, 0) and restorer.finish(state).shape == (batch, 0)


@pytest.mark.parametrize("shape", [(1, 500), (3, 500), (500,), (2, 1, 500)])
def test_another_batch_than_the_states_is_refused(shape: tuple[int, ...]) -> None:
    restorer = StreamRestorer(_generator())
    with pytest.raises(ValueError, match="2 rows"):
        restorer.push(restorer.start(2), torch.zeros(shape))


def test_float64_generator_streams_in_float64() -> None:
    generator, samples = _generator().double(), _noise(1, 8000).double()
    found = _stream(StreamRestorer(generator), samples, _pieces(8000, 1))
    assert found.dtype == torch.float64
    assert (found - _whole(generator, samples)).abs().max() <= 1e-12


@pytest.mark.parametrize("frames", [1, 441, 5_000, 60_000])
def test_separate_noise_times_strength_is_what_is_added(frames: int) -> None:
    samples, sizes = _noise(2, frames), _pieces(frames, seed=3)

    def restore(**options: Any) -> Tensor:
        return _stream(StreamRestorer(load(), NoiseOptions(channels=2, **options)), samples, sizes)

    deterministic, noise = restore(separate=True).split(2)
    assert noise.abs().max() > 0
    assert torch.equal(deterministic, restore(strength=0.0))
    for strength in (0.4, 1.0, 1.5):
        mixed = deterministic + strength * noise
        torch.testing.assert_close(mixed, restore(strength=strength), atol=ROUNDING * 0.1, rtol=0)
