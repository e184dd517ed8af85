"""One step of the GAN against the same step written plainly, and what it leaves alone."""

import copy
import gc
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apollo.model import device
from apollo.model.compilation import compile_generator
from apollo.model.config import LOSS_WEIGHTS, OUTPUTS, DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training import gan as module
from apollo.training import losses
from apollo.training.config import GanConfig
from apollo.training.data import Batch, collate
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.step_statistics import read_results
from tests.support.gloo_runs import Noise
from tests.support.host_reads import HostReads

CPU = torch.device("cpu")
EXAMPLES = 4
WINDOWS = (64, 256)
EVERYTHING = {
    **{"g/stft": 0.7, "g/adversarial": 0.3, "g/feature": 2.0, "g/waveform": 0.1, "g/spectrum": 0.2},
    **{"g/compressed": 0.4, "d/real": 1.5, "d/fake": 0.5},
}


def _networks() -> tuple[Generator, Discriminator]:
    """A generator that already changes what it is given, so that gradients reach all of it."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2, output="correction"))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return generator, Discriminator(DiscriminatorConfig(windows=WINDOWS))


def _gan(*, double: bool = False, **settings: Any) -> Gan:
    networks = [network.double() if double else network for network in _networks()]
    config = GanConfig(**{"batch_size": EXAMPLES, "micro_batch": EXAMPLES, **settings})
    return Gan(*networks, config, DistributedContext(torch.device("cpu")))


def _batches(step: int, size: int = EXAMPLES, *, double: bool = False) -> list[Batch]:
    """The examples of a step, side by side in batches of a size."""
    examples = list(Noise().read(step, range(EXAMPLES)))
    batches = [collate(examples[begin : begin + size]) for begin in range(0, EXAMPLES, size)]
    if double:
        batches = [Batch(batch.clean.double(), batch.degraded.double(), batch.names) for batch in batches]
    return batches


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _learned(gan: Gan) -> dict[str, Any]:
    """All that learning changes; the singular vectors of the spectral norms are not learned."""
    return {
        "generator": _copies(dict(gan.generator.named_parameters())),
        "average": _copies(dict(gan.ema_generator.named_parameters())),
        "discriminator": _copies(dict(gan.discriminator.named_parameters())),
        "generator_optimizer": copy.deepcopy(gan.generator_optimizer.state_dict()),
        "discriminator_optimizer": copy.deepcopy(gan.discriminator_optimizer.state_dict()),
        "steps": gan.generator_steps,
    }


def _assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], *parts: str) -> None:
    for part in parts or expected:
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0, msg=part)


def _same(found: Any, expected: Any) -> bool:
    return all(torch.equal(found[name], value) for name, value in expected.items())


# the plain step: nothing is shared, cached, joined or accumulated


def _spectrum(samples: Tensor, window_samples: int) -> Tensor:
    window = torch.hann_window(window_samples, dtype=samples.dtype)
    channels = [
        torch.stft(channel, window_samples, window_samples // 2, window=window, return_complex=True)
        for channel in samples
    ]
    return torch.stack(channels)


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).abs().mean() / expected.abs().mean().clamp_min(1e-5)


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values, torch.zeros(())) / len(values)


def _plain_pair_losses(estimate: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """The losses that need no discriminator, of one example [channels, samples]."""

    def soft(spectrum: Tensor) -> Tensor:
        return (spectrum.real**2 + spectrum.imag**2 + 1e-6) ** 0.15

    def terms(windows: tuple[int, ...], of: Any) -> Tensor:
        return _mean([_relative(of(_spectrum(estimate, n)), of(_spectrum(clean, n))) for n in windows])

    kept = int(16_000 * 2048 / 44_100) + 1
    return {
        "g/stft": terms((32, 64, 128, 256, 512, 1024, 2048), torch.abs),
        "g/waveform": _relative(estimate, clean),
        "g/spectrum": terms((2048,), lambda spectrum: spectrum[:, :kept]),
        "g/compressed": terms((512, 2048), soft),
    }


class Plain:
    """The step of the paper, top to bottom, with the published numbers written out."""

    def __init__(self, config: GanConfig) -> None:
        self.generator, self.discriminator = (network.double() for network in _networks())
        self.discriminator.eval()
        self.ema_generator = copy.deepcopy(self.generator)
        self.weights, self.clip, self.decay = config.all_weights, config.clip_norm, config.ema_decay
        self.taken = 0
        self.generator_optimizer = torch.optim.AdamW(
            self.generator.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01
        )
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.99), weight_decay=0.01
        )

    def step(self, batch: Batch, *, epoch: int) -> dict[str, float]:
        for optimizer, rate in ((self.generator_optimizer, 1e-3), (self.discriminator_optimizer, 1e-4)):
            optimizer.param_groups[0]["lr"] = rate * 0.98 ** (epoch // 2)

        # one power iteration a step: a look at every weight in training mode
        self.discriminator.train()
        with torch.no_grad():
            self.discriminator(batch.clean)
        self.discriminator.eval()

        # first the discriminator, on clean and restored examples; the generator learns nothing of it
        estimate = self.generator(batch.degraded).detach()
        real, fake = self.discriminator(batch.clean), self.discriminator(estimate)
        losses = {
            "d/real": _mean([(one.logits - 1).square().mean() for one in real]),
            "d/fake": _mean([one.logits.square().mean() for one in fake]),
        }
        numbers = {
            f"d/margin/{window}": (one.logits.mean() - other.logits.mean()).item()
            for window, one, other in zip(WINDOWS, real, fake, strict=True)
        }
        self._sum(losses).backward()
        numbers["norm/discriminator"] = self._learn(self.discriminator, self.discriminator_optimizer)

        # then the generator, judged by the discriminator as it is now
        estimate = self.generator(batch.degraded)
        with torch.no_grad():
            real = self.discriminator(batch.clean)
        fake = self.discriminator(estimate)
        each = [
            _plain_pair_losses(one, other) for one, other in zip(estimate, batch.clean, strict=True)
        ]  # by example
        for name in ("g/stft", "g/waveform", "g/spectrum", "g/compressed"):
            if self.weights[name]:
                losses[name] = _mean([one[name] for one in each])
        losses["g/adversarial"] = _mean([(one.logits - 1).square().mean() for one in fake])
        losses["g/feature"] = _mean(
            [
                _mean([_relative(one, other) for one, other in zip(found, expected, strict=True)])
                for judged, aimed in zip(fake, real, strict=True)
                for found, expected in zip(judged.features, aimed.features, strict=True)
            ]
        )
        generators = {name: loss for name, loss in losses.items() if name.startswith("g/")}
        self._sum(generators).backward()
        numbers["norm/generator"] = self._learn(self.generator, self.generator_optimizer)
        self.discriminator.zero_grad()

        # and its average, which follows quickly at first
        self.taken += 1
        decay = min(self.decay, (1 + self.taken) / (10 + self.taken))
        with torch.no_grad():
            for slow, fast in zip(self.ema_generator.parameters(), self.generator.parameters(), strict=True):
                slow.copy_(decay * slow + (1 - decay) * fast)
        return numbers | {name: loss.item() for name, loss in losses.items()} | {"step/skipped": 0.0}

    def _sum(self, losses: dict[str, Tensor]) -> Tensor:
        return sum((self.weights[name] * loss for name, loss in losses.items()), torch.zeros(()))

    def _learn(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        norm = float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5
        for gradient in gradients:
            gradient *= min(1.0, self.clip / (norm + 1e-6))
        optimizer.step()
        optimizer.zero_grad()
        return norm


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batch": 1},
        {"micro_batch": 3, "recompute": "layers"},
        {"recompute": "hidden", "weights": EVERYTHING, "clip_norm": 0.05, "ema_decay": 0.2},
        {"micro_batch": 2, "weights": EVERYTHING, "clip_norm": 0.5},
    ],
    ids=["as published", "one by one", "recomputed in threes", "clipped, all terms", "in twos, all terms"],
)
def test_steps_are_those_of_the_plain_ones(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where a wrong term cannot hide in rounding: what is cast to float32 is cast to that."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    gan = _gan(double=True, **settings)
    plain = Plain(gan.config)
    for step in range(4):
        found = gan.step(_batches(step, gan.config.micro_batch, double=True), epoch=step)
        expected = plain.step(_batches(step, double=True)[0], epoch=step)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-10), f"step {step}"
        for name in ("generator", "discriminator", "ema_generator"):
            ours, theirs = getattr(gan, name).state_dict(), getattr(plain, name).state_dict()
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    assert gan.generator_steps == 4


def test_numbers_are_one_flat_dict_named_as_the_weights() -> None:
    found = _compact(weights=dict.fromkeys(LOSS_WEIGHTS, 0.1)).step(_batches(0), epoch=0)
    assert all(isinstance(value, float) for value in found.values())
    others = {"d/margin/64", "d/margin/256", "norm/generator", "norm/discriminator", "step/skipped"}
    assert set(found) == set(LOSS_WEIGHTS) | others


def test_terms_beyond_the_paper_are_absent_at_weight_zero() -> None:
    found = _gan(weights={"g/spectrum": 0.2}).step(_batches(0), epoch=0)
    assert {name for name in found if name.startswith("g/")} == {
        *("g/stft", "g/adversarial", "g/feature", "g/spectrum")
    }


def test_a_loss_of_weight_zero_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"g/adversarial": 0, "d/real": 0, "d/fake": 0}
    expected = _gan(weights=weights).step(_batches(0), epoch=0)
    assert (expected["norm/discriminator"], expected["g/adversarial"] > 0) == (0, True)
    original = losses.adversarial_loss
    monkeypatch.setattr(losses, "adversarial_loss", lambda fake: 1_000 * original(fake))
    found = _gan(weights=weights).step(_batches(0), epoch=0)
    assert found["norm/generator"] == expected["norm/generator"] > 0
    assert found["g/adversarial"] == pytest.approx(1_000 * expected["g/adversarial"])
    assert "g/stft" not in _gan(weights={"g/stft": 0}).step(_batches(0), epoch=0)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("discriminator_only", [False, True])
def test_singular_vectors_move_by_one_iteration_a_step(micro_batch: int, discriminator_only: bool) -> None:
    gan = _gan(micro_batch=micro_batch)
    parts = [
        layer.parametrizations.weight for network in gan.discriminator.networks for layer in network.layers
    ]
    before = [(part.original.detach().flatten(1).clone(), part[0]._u, part[0]._v.clone()) for part in parts]
    gan.step(_batches(0, micro_batch), epoch=0, discriminator_only=discriminator_only)
    for part, (weight, _, right) in zip(parts, before, strict=True):
        left = nn.functional.normalize(weight @ right, dim=0)
        torch.testing.assert_close(part[0]._u, left)
        torch.testing.assert_close(part[0]._v, nn.functional.normalize(weight.T @ left, dim=0))


def test_the_discriminator_gets_gradients_in_its_own_step_only() -> None:
    gan, received = _gan(micro_batch=2), []
    for name, parameter in gan.discriminator.named_parameters():
        parameter.register_hook(lambda _, name=name: received.append(name))
    names = [name for name, _ in gan.discriminator.named_parameters()]
    gan.step(_batches(0, 2), epoch=0)
    assert sorted(received) == sorted(2 * names)  # once a micro-batch
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())
    assert all(parameter.grad is None for parameter in gan.discriminator.parameters())
    assert all(parameter.grad is None for parameter in gan.generator.parameters())


def test_the_discriminator_is_trainable_after_an_error_in_the_generator_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    gan = _gan()
    monkeypatch.setattr(module, "generator_losses", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        gan.step(_batches(0), epoch=0)
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())


def test_the_reference_in_the_generator_step_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    losses = module.generator_losses

    def watch(**sides: Any) -> Any:
        given.append(sides)
        return losses(**sides)

    monkeypatch.setattr(module, "generator_losses", watch)
    _gan().step(_batches(0), epoch=0)
    assert not any(one.logits.requires_grad for one in given[0]["real"])
    assert all(one.logits.requires_grad for one in given[0]["fake"])


@pytest.mark.parametrize(("micro_batch", "halves"), [(4, 1), (1, 2)])
def test_no_signal_is_transformed_twice_through_a_window(
    micro_batch: int, halves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is to be saved, nothing is kept from one half to the other."""
    windows: list[int] = []
    transform = torch.stft

    def count(samples: Tensor, window_samples: int, *arguments: Any, **settings: Any) -> Tensor:
        windows.append(window_samples)
        return transform(samples, window_samples, *arguments, **settings)

    monkeypatch.setattr(torch, "stft", count)
    _gan(micro_batch=micro_batch).step(_batches(0, micro_batch), epoch=0)
    batches, signals = EXAMPLES // micro_batch, 2
    for window in (32, 64, 128, 256, 512, 1024, 2048):
        uses = halves if window in WINDOWS else 1  # the others are compared only
        assert windows.count(window) == batches * signals * uses, window


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_step_leaves_no_tensor_behind(micro_batch: int) -> None:
    """What only Python's search for cycles would free, stays in a GPU's memory until it happens to look."""

    def living() -> int:
        return sum(isinstance(one, Tensor) for one in gc.get_objects())

    gan = _gan(micro_batch=micro_batch)
    gan.step(_batches(0, micro_batch), epoch=0)
    gc.collect()
    before = living()
    gc.disable()
    try:
        gan.step(_batches(1, micro_batch), epoch=0)
        assert living() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_generator_runs_once_per_batch_without_accumulation(micro_batch: int) -> None:
    gan, runs = _gan(micro_batch=micro_batch), []
    gan.generator.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    gan.step(_batches(0, micro_batch), epoch=0)
    assert runs == ([True] if micro_batch == 4 else [False] * 4 + [True] * 4)
    runs.clear()
    gan.step(_batches(1, micro_batch), epoch=0, discriminator_only=True)
    assert runs == [False] * (EXAMPLES // micro_batch)  # nobody will go back through it


def test_compiled_is_the_same_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, forwards and backwards, but not turned into machine code, which takes most of a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = _gan()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile does not work here")
        compiled = _gan(compile=True)
    assert not isinstance(
        compiled.generator.trunk.feed_forward, partial
    )  # what is not compiled is a partial function
    expected, found = plain.step(_batches(0), epoch=0), compiled.step(_batches(0), epoch=0)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("size", [EXAMPLES, 1])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("adversarial", [True, False])
def test_the_host_reads_no_value_in_a_step_and_those_of_all_steps_at_once(
    size: int, optimizer: str, adversarial: bool
) -> None:
    weights = {} if adversarial else {"g/adversarial": 0.0, "g/feature": 0.0}
    gan = _gan(micro_batch=size, weights=weights, generator_optimizer=optimizer)
    with HostReads() as reads:
        reads.ignore_steps_of_adamw(gan)
        results = [gan.step(_batches(0, size), epoch=0), gan.step(_poisoned(1, 2, size, torch.nan), epoch=0)]
        results.append(gan.step(_batches(2, size), epoch=0, step=2))
        assert reads.count == 0
        read_results(results)
        assert reads.count == 1
        assert [result["step/skipped"] for result in results] == [0, 1, 0]
        assert all(result[name] > 0 for result in results[::2] for name in ("g/stft", "norm/generator"))
        assert reads.count == 1
        assert gan.generator_steps == gan.generator_steps == 2
        assert reads.count == 2


def test_the_first_access_to_a_step_reads_that_step_alone() -> None:
    gan = _gan()
    results = [gan.step(_batches(step), epoch=0) for step in range(2)]
    with HostReads() as reads:
        first = dict(results[0])
        assert reads.count == 1
        assert results[0] == first
        assert reads.count == 1
        assert set(results[1]) == set(first)
        assert reads.count == 2


def test_learning_rates_that_rise_know_what_was_skipped() -> None:
    """While they rise, the host reads the number of steps once a step; afterwards, no more."""
    gan = _compact(weights=COMPACT_WEIGHTS, warmup_steps=3, generator_optimizer="muon")
    rates, counts = [], []
    for step in range(6):
        with HostReads() as reads:
            gan.step(_poisoned(step, 2, 4, torch.nan if step == 1 else 0.0), epoch=0, step=step)
        rates.append(gan.generator_optimizer.param_groups[0]["lr"] / gan.config.generator_learning_rate)
        counts.append(reads.count)
    assert rates == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    assert counts == [0, 1, 1, 1, 0, 0]


def test_a_compilation_is_for_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    generator, _ = _networks()
    assert compile_generator(generator, training=True)
    counts = [len(compiled)]
    for frames in (10, 10, 20, 10):
        generator(torch.zeros(1, 441 * frames))
        counts.append(len(compiled))
    assert counts[0] > 0
    assert counts[1] - counts[0] == counts[3] - counts[2] > 0 and counts[1] == counts[2]
    assert counts[3] == counts[4]


def test_without_a_compiler_it_warns_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.warns(UserWarning, match="does not work here, running in eager mode: no compiler"):
        eager = _gan(compile=True)
    assert eager.step(_batches(0), epoch=0) == _gan().step(_batches(0), epoch=0)


def test_bfloat16_stays_near_and_keeps_parameters_and_states_in_float32() -> None:
    exact, rough = _gan(), _gan(precision="bfloat16")
    expected, found = exact.step(_batches(0), epoch=0), rough.step(_batches(0), epoch=0)
    assert found != expected
    for name in ("g/stft", "g/adversarial", "g/feature", "d/real", "d/fake", "norm/generator"):
        assert found[name] == pytest.approx(expected[name], rel=0.02), name
    rough.step(_batches(1), epoch=0)
    states = [
        *rough.generator.state_dict().values(),
        *rough.discriminator.state_dict().values(),
        *rough.ema_generator.state_dict().values(),
        *(value for state in rough.generator_optimizer.state.values() for value in state.values()),
        *(value for state in rough.discriminator_optimizer.state.values() for value in state.values()),
    ]
    assert {value.dtype for value in states} == {torch.float32}
    assert all(value.isfinite().all() for value in states)


@pytest.mark.parametrize("native", [False, True])
def test_emulated_bfloat16_is_warned_about(
    native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "has_native_bfloat16", lambda _: native)
    _gan(), device.choose_precision("float32", CPU)
    assert not caplog.records
    _gan(precision="bfloat16"), device.choose_precision("bfloat16", CPU)  # training and inference
    assert len(caplog.records) == (0 if native else 2)
    assert all("cpu has no native bfloat16 arithmetic" in record.message for record in caplog.records)


@pytest.mark.parametrize("trunk", ["band_sequence", "frame_convolution"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_trunk_and_output_learns(trunk: str, output: str) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2, trunk=trunk, output=output))
    config = GanConfig(batch_size=EXAMPLES, micro_batch=EXAMPLES, generator_learning_rate=2e-3)
    discriminator = Discriminator(DiscriminatorConfig(windows=WINDOWS))
    gan = Gan(generator, discriminator, config, DistributedContext(torch.device("cpu")))
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    losses = [gan.step(_batches(0), epoch=0)["g/stft"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert not [name for name, value in generator.state_dict().items() if torch.equal(value, before[name])]


COMPACT_WEIGHTS = {
    **{"g/stft": 0.0, "g/adversarial": 0.0, "g/feature": 0.0, "g/envelope": 0.6, "g/transients": 1.0},
    **{"g/tones": 0.5, "g/complex": 0.5, "g/error": 0.3, "g/noise_error": 0.15},
}


def _compact(**settings: Any) -> Gan:
    torch.manual_seed(0)
    shape = GeneratorConfig(dim=8, layers=1, trunk="frame_convolution", output="mask_and_noise")
    config = GanConfig(**{"batch_size": EXAMPLES, "micro_batch": EXAMPLES, **settings})
    discriminator = DiscriminatorConfig(windows=WINDOWS)
    return Gan(Generator(shape), discriminator, config, DistributedContext(torch.device("cpu")))


def _context() -> DistributedContext:
    return DistributedContext(torch.device("cpu"))


def _forbid(*_: object, **__: object) -> None:
    raise AssertionError("must not be called")


def test_without_adversarial_losses_no_discriminator_is_built_and_no_noise_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Discriminator, "__init__", _forbid)
    monkeypatch.setattr(Generator, "synthesize", _forbid)
    gan = _compact(weights=COMPACT_WEIGHTS, generator_learning_rate=2e-3)
    losses = [gan.step(_batches(0), epoch=0, step=step) for step in range(6)]
    assert set(losses[0]) == {name for name, weight in COMPACT_WEIGHTS.items() if weight} | {
        *("norm/generator", "step/skipped"),
    }
    totals = [sum(COMPACT_WEIGHTS.get(name, 0) * value for name, value in one.items()) for one in losses]
    assert totals[-1] < totals[0]
    assert not gan.has_discriminator


def test_micro_batches_give_the_losses_and_steps_of_the_whole_batch() -> None:
    whole, parts = _compact(weights=COMPACT_WEIGHTS), _compact(weights=COMPACT_WEIGHTS, micro_batch=1)
    for step in range(3):
        expected = whole.step(_batches(step), epoch=0, step=step)
        assert parts.step(_batches(step, 1), epoch=0, step=step) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(
        parts.generator.state_dict(), whole.generator.state_dict(), rtol=1e-3, atol=1e-5
    )


def test_the_discriminator_is_built_in_its_first_step_and_is_the_same_each_time() -> None:
    weights = {**COMPACT_WEIGHTS, "g/adversarial": 0.1, "g/feature": 0.1}
    gans = [_compact(weights=weights, adversarial_start_step=2) for _ in range(2)]
    for number, gan in enumerate(gans):
        torch.manual_seed(number)  # what has been drawn before must not matter
        for step in range(2):
            found = gan.step(_batches(step), epoch=0, step=step)
            assert not any(name.startswith("d/") or name == "g/adversarial" for name in found)
        assert not gan.has_discriminator
        found = gan.step(_batches(2), epoch=0, step=2)
        assert {"d/real", "d/fake", "g/adversarial", "g/feature", "g/envelope"} <= set(found)
    _assert_same(_learned(gans[0]), _learned(gans[1]))


@pytest.mark.parametrize("losses", [("g/error", "g/complex"), ("g/noise_error",), ("g/tones",), ("g/stft",)])
def test_every_parameter_gets_a_gradient_whatever_the_losses_look_at(losses: tuple[str, ...]) -> None:
    """DistributedDataParallel fails in the second step otherwise."""
    quiet = {"g/stft": 0.0, "g/adversarial": 0.0, "g/feature": 0.0}
    gan = _compact(weights=quiet | dict.fromkeys(losses, 1.0))
    without: list[str] = []
    gan.generator_optimizer.register_step_pre_hook(
        lambda *_: without.extend(
            name for name, value in gan.generator.named_parameters() if value.grad is None
        )
    )
    gan.step(_batches(0), epoch=0)
    assert without == []


def test_losses_of_noise_are_refused_where_there_is_none() -> None:
    with pytest.raises(
        ValueError, match="g/noise_error is a loss of noise, and output 'correction' has none"
    ):
        _gan(weights={"g/noise_error": 1.0})


def test_samples_in_training_have_noise_at_strength_one() -> None:
    gan = _compact(weights={**COMPACT_WEIGHTS, "g/stft": 1.0})
    config = gan.generator.config
    found = []
    for strength in (0.5, 1.0):
        gan.generator.config = replace(config, noise_strength=strength)
        with torch.no_grad():
            found.append(gan._forward(_batches(0)[0].degraded, seed=3, with_parts=True)[0])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_seed_decides_the_weights_of_a_later_discriminator() -> None:
    generator = _compact().generator
    weights = [
        next(
            Gan(
                generator, DiscriminatorConfig(windows=WINDOWS), GanConfig(), _context(), seed=seed
            ).discriminator.parameters()
        ).detach()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_warm_up_counts_steps_of_the_generator() -> None:
    gan = _compact(weights=COMPACT_WEIGHTS | {"g/adversarial": 0.1}, warmup_steps=4)
    for step in range(3):
        gan.step(_batches(0), epoch=0, step=step, discriminator_only=True)
    gan.step(_batches(0), epoch=0, step=3)
    assert gan.generator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_warm_up_of_a_later_discriminator_starts_with_it() -> None:
    config = GanConfig(adversarial_start_step=3, discriminator_warmup_steps=2)
    assert [config.is_discriminator_only(step) for step in range(7)] == [
        *(False, False, False, True, True, False, False)
    ]
    assert [config.is_adversarial(step) for step in range(5)] == [False, False, False, True, True]


def test_what_is_unknown_of_the_clean_audio_teaches_nothing() -> None:
    """A step on clean audio with and without highs above the bandwidth is the same step."""
    weights = {**COMPACT_WEIGHTS, "g/stft": 1.0, "g/adversarial": 0.1, "g/feature": 0.1}
    (batch,) = _batches(0)
    spectrum = torch.fft.rfft(batch.clean)
    spectrum[..., int(10_000 * batch.clean.shape[-1] / 44_100) + 1 :] = 0
    dull = torch.fft.irfft(spectrum, batch.clean.shape[-1])
    edges = torch.full((EXAMPLES,), 10_000.0)
    gans = [_compact(weights=weights) for _ in range(2)]
    found = [
        gan.step([Batch(clean, batch.degraded, batch.names, edges)], epoch=0)
        for gan, clean in zip(gans, (batch.clean, dull), strict=True)
    ]
    sample_losses = ("g/stft", "g/adversarial", "g/feature", "d/real", "d/fake")
    for name in sample_losses:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4), name


def test_learning_rates_fall_by_two_hundredths_every_two_epochs() -> None:
    gan, scales = _gan(), [1, 1, 0.98, 0.98, 0.98**2, 0.98**2]
    for epoch, scale in enumerate(scales):
        gan.step(_batches(0), epoch=epoch, discriminator_only=True)
        assert gan.generator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * scale, rel=1e-12)
        assert gan.discriminator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * scale, rel=1e-12)


@pytest.mark.parametrize("limit", [0.999, 0.2])
def test_the_ema_follows_the_warm_up_formula(limit: float) -> None:
    gan = _gan(ema_decay=limit)
    first = _copies(gan.generator.state_dict())
    expected = first
    for step, decay in enumerate((2 / 11, 3 / 12, 4 / 13)):
        gan.step(_batches(step), epoch=0)
        decay = min(decay, limit)
        now = gan.generator.state_dict()
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
        torch.testing.assert_close(gan.ema_generator.state_dict(), expected)
    now, slow = gan.generator.state_dict(), gan.ema_generator.state_dict()
    moved = sum((now[name] - first[name]).norm() for name in now)
    assert sum((slow[name] - first[name]).norm() for name in now) > 0.5 * moved > 0


def test_an_ema_without_decay_is_the_generator() -> None:
    gan = _gan(ema_decay=0.0)
    gan.step(_batches(0), epoch=0)
    torch.testing.assert_close(gan.ema_generator.state_dict(), gan.generator.state_dict(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in gan.ema_generator.parameters())


def test_discriminator_only_updates_no_generator() -> None:
    gan = _gan()
    before = _learned(gan)
    found = gan.step(_batches(0), epoch=0, discriminator_only=True)
    after = _learned(gan)
    _assert_same(after, before, "generator", "average", "generator_optimizer", "steps")
    assert not _same(after["discriminator"], before["discriminator"])
    assert not any(name.startswith("g/") for name in found)
    assert found["step/skipped"] == 0


def _poisoned(step: int, number: int, size: int, value: float) -> list[Batch]:
    batches = _batches(step, size)
    batches[number // size].degraded[number % size] = value
    return batches


@pytest.mark.parametrize(("size", "suspects"), [(1, ["1-2"]), (2, ["1-2", "1-3"]), (4, None)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_example_skips_the_step_and_is_named(
    size: int, suspects: list[str] | None, value: float
) -> None:
    gan = _gan(micro_batch=size)
    gan.step(_batches(0, size), epoch=0)
    before = _learned(gan)
    found = gan.step(_poisoned(1, 2, size, value), epoch=0)
    assert found["step/skipped"] == 1
    assert found.non_finite_examples == (suspects or ["1-0", "1-1", "1-2", "1-3"])
    _assert_same(_learned(gan), before)
    again = gan.step(_batches(2, size), epoch=0)  # and the next one goes on
    assert again["step/skipped"] == 0
    assert again.non_finite_examples == []
    assert not _same(_learned(gan)["generator"], before["generator"])


@pytest.mark.parametrize("size", [1, 4])
def test_a_non_finite_discriminator_gradient_skips_both_updates(size: int) -> None:
    gan = _gan(micro_batch=size)
    gan.step(_batches(0, size), epoch=0)
    before = _learned(gan)
    handle = next(gan.discriminator.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    found = gan.step(_batches(1, size), epoch=0)
    handle.remove()
    assert found["step/skipped"] == 1
    assert found.non_finite_examples == []  # the losses were numbers: nobody is suspected
    _assert_same(_learned(gan), before)


def test_a_non_finite_generator_gradient_skips_the_generator_update() -> None:
    gan = _gan()
    gan.step(_batches(0), epoch=0)
    before = _learned(gan)
    handle = next(gan.generator.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    found = gan.step(_batches(1), epoch=0)
    handle.remove()
    assert found["step/skipped"] == 1
    after = _learned(gan)
    _assert_same(after, before, "generator", "average", "generator_optimizer", "steps")
    assert not _same(after["discriminator"], before["discriminator"])  # its half was sound, and came first
    assert gan.step(_batches(2), epoch=0)["step/skipped"] == 0


@pytest.mark.parametrize("half", ["discriminator_losses", "generator_losses"])
def test_a_non_finite_loss_with_a_finite_gradient_skips_both_updates(
    half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = _gan()
    before, losses = _learned(gan), getattr(module, half)

    def spoil(**sides: Any) -> dict[str, Tensor]:
        return {name: loss + torch.tensor(torch.nan) for name, loss in losses(**sides).items()}

    monkeypatch.setattr(module, half, spoil)
    found = gan.step(_batches(0), epoch=0)
    assert found["step/skipped"] == 1
    assert found["norm/discriminator"] > 0
    assert found.non_finite_examples == ["0-0", "0-1", "0-2", "0-3"]
    _assert_same(_learned(gan), before, "generator", "average", "generator_optimizer", "steps")
    learned = not _same(_learned(gan)["discriminator"], before["discriminator"])
    assert learned == (half == "generator_losses")


@pytest.mark.parametrize("sides", [("clean",), ("degraded",), ("clean", "degraded")])
def test_silence_gives_finite_losses(sides: tuple[str, ...]) -> None:
    gan = _gan(weights=EVERYTHING)
    for step in range(2):
        batches = _batches(step)
        for side in sides:
            getattr(batches[0], side)[1] = 0
        found = gan.step(batches, epoch=0)
        assert found["step/skipped"] == 0
        assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
    assert all(value.isfinite().all() for value in gan.generator.state_dict().values())
