"""Recorded vectors of the published implementation: what compatible means (golden/README.md)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apollo import metrics
from apollo.checkpoints.published_format import infer_config, load_published, to_published
from apollo.inference.restoration import restore
from apollo.model.generator import Generator
from apollo.model.layers import rotary_angles
from apollo.training.discriminator import Discriminator, DiscriminatorConfig
from apollo.training.losses import (
    adversarial_loss,
    discriminator_losses,
    feature_loss,
    generator_losses,
    magnitude_loss,
)

FOLDER = os.environ.get("APOLLO_GOLDEN", "")
GENERATORS = sorted(Path(FOLDER).glob("generator_*.npz")) if FOLDER else []
ABSOLUTE = 1e-5  # README of the vectors; what they were recorded with is float32 too
RELATIVE = 1e-4
POWER_ITERATIONS = 400  # the recording's singular vectors had converged

needs_vectors = pytest.mark.skipif(
    not GENERATORS, reason="APOLLO_GOLDEN names no folder with generator_*.npz"
)
each_generator = pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.stem)


def _state(vectors: Mapping[str, Any]) -> dict[str, Tensor]:
    mark = "state_dict/"
    return {key.removeprefix(mark): torch.from_numpy(vectors[key]) for key in vectors if key.startswith(mark)}


def _loaded(path: Path) -> tuple[Generator, Tensor, Tensor]:
    with np.load(path) as vectors:
        state = _state(vectors)
        config = infer_config(state)
        assert (config.dim, config.layers) == (vectors["feature_dim"], vectors["layer"])
        generator = Generator(config).eval()
        load_published(generator, state)
        return generator, torch.from_numpy(vectors["input"]), torch.from_numpy(vectors["output"])


@needs_vectors
@each_generator
def test_generator_equals_the_published_one(path: Path) -> None:
    generator, samples, expected = _loaded(path)
    with torch.inference_mode():
        assert (generator(samples) - expected).abs().max() <= ABSOLUTE
    assert (generator(samples).detach() - expected).abs().max() <= ABSOLUTE


@needs_vectors
@pytest.mark.parametrize("chunk_samples", [441, 1000, 4410, 12_345, 44_100, 10**7])
@each_generator
def test_chunks_equal_the_published_whole(path: Path, chunk_samples: int) -> None:
    generator, samples, expected = _loaded(path)
    restored = restore(generator, samples, chunk_seconds=chunk_samples / 44_100)
    assert (restored - expected).abs().max() <= ABSOLUTE


@needs_vectors
@each_generator
def test_published_weights_come_back_bit_equal(path: Path) -> None:
    with np.load(path) as vectors:
        state = _state(vectors)
    again = to_published(_loaded(path)[0])
    learned = {key: value for key, value in state.items() if not key.endswith(("cos_freq", "sin_freq"))}
    assert set(again) == set(learned)
    assert all(torch.equal(again[key], value) for key, value in learned.items())


@pytest.fixture(scope="module")
def released(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "released_checkpoint_keys.json").read_text())
    return content


def test_default_generator_has_the_released_keys_shapes_and_size(released: dict[str, Any]) -> None:
    with torch.device("meta"):
        generator = Generator()
    assert sum(p.numel() for p in generator.parameters()) == released["parameters"] == 16_539_308
    ours = {key: list(value.shape) for key, value in to_published(Generator()).items()}
    tables = {key for key in released["state_dict"] if key.endswith(("cos_freq", "sin_freq"))}
    assert ours == {key: shape for key, shape in released["state_dict"].items() if key not in tables}


def test_state_dict_of_the_released_keys_loads(released: dict[str, Any]) -> None:
    state = {}
    for key, shape in released["state_dict"].items():
        angles = rotary_angles(shape[0], 32).repeat_interleave(2, 1)
        tables = {"cos_freq": angles.cos(), "sin_freq": angles.sin()}
        state[key] = tables.get(key.rpartition(".")[2], torch.full(shape, 0.01))
        assert list(state[key].shape) == shape
    config = infer_config(state)
    assert config == Generator().config
    generator = Generator(config)
    load_published(generator, state)
    assert all((parameter == 0.01).all() for parameter in generator.parameters())


@pytest.fixture(scope="module")
def adversaries(golden: Path) -> Mapping[str, Any]:
    with np.load(golden / "discriminator_losses.npz") as vectors:
        return dict(vectors)


def _last_weight(vectors: Mapping[str, Any], network: int) -> Tensor | None:
    """Find the last convolution's weight, which recordings may lack."""
    for name in ("weight", "weight_orig"):
        key = f"state_dict/discriminators.{network}.discriminator.6.{name}"
        if key in vectors:
            return torch.from_numpy(vectors[key])
    return None


@pytest.fixture(scope="module")
def discriminator(adversaries: Mapping[str, Any]) -> Discriminator:
    """The published discriminator with its singular vectors converged, as far as its weights are recorded."""
    state = _state(adversaries)
    networks = 1 + max(int(key.split(".")[1]) for key in state)
    channels = state["discriminators.0.discriminator.0.0.weight_orig"].shape[1] // 2
    windows = tuple(32 * 2**number for number in range(networks))
    ours = Discriminator(DiscriminatorConfig(channels=channels, windows=windows)).train()
    with torch.no_grad():
        for number, network in enumerate(ours.networks):
            for depth, layer in enumerate(network.layers):
                name = f"discriminators.{number}.discriminator.{depth}.0"
                layer.parametrizations.weight.original.copy_(state[f"{name}.weight_orig"])
                layer.bias.copy_(state[f"{name}.bias"])
                for _ in range(POWER_ITERATIONS):
                    _ = layer.weight
            network.last.bias.copy_(state[f"discriminators.{number}.discriminator.6.bias"])
            weight = _last_weight(adversaries, number)
            if weight is not None:
                network.last.weight.copy_(weight)
    return ours.eval()


def _pair(vectors: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    real, fake = (torch.from_numpy(vectors[name])[None] for name in ("real", "fake"))
    return real, fake


def _close(found: Tensor, expected: Any) -> None:
    assert found.item() == pytest.approx(float(expected), rel=RELATIVE)


def test_discriminator_features_equal_the_published_ones(
    discriminator: Discriminator, adversaries: Mapping[str, Any]
) -> None:
    with torch.no_grad():
        judgements = discriminator(_pair(adversaries)[1])
    recorded = {key for key in adversaries if key.startswith("fake_feature_shape/")}
    assert len(recorded) == sum(len(judgement.features) for judgement in judgements)
    for number, judgement in enumerate(judgements):
        assert judgement.logits.shape == adversaries[f"fake_output/{number}"].shape
        for depth, features in enumerate(judgement.features):
            assert tuple(features.shape) == tuple(adversaries[f"fake_feature_shape/{number}/{depth}"])
            _close(features.abs().mean(), adversaries[f"fake_feature_mean_abs/{number}/{depth}"])


def test_losses_equal_the_published_ones(
    discriminator: Discriminator, adversaries: Mapping[str, Any]
) -> None:
    real, fake = _pair(adversaries)
    with torch.no_grad():
        judged_real, judged_fake = discriminator(real), discriminator(fake)
    recorded = [
        one._replace(logits=torch.from_numpy(adversaries[f"fake_output/{number}"]))
        for number, one in enumerate(judged_fake)
    ]
    _close(feature_loss(real=judged_real, fake=judged_fake), adversaries["loss_feature_matching"])
    _close(magnitude_loss(estimate=fake, reference=real), adversaries["loss_reconstruction"])
    _close(adversarial_loss(recorded), adversaries["loss_adversarial"])
    total = generator_losses(estimate=fake, reference=real, real=judged_real, fake=recorded)
    _close(torch.stack(list(total.values())).sum(), adversaries["loss_generator"])


def test_discriminator_outputs_equal_the_published_ones(
    discriminator: Discriminator, adversaries: Mapping[str, Any]
) -> None:
    if any(_last_weight(adversaries, number) is None for number in range(len(discriminator.networks))):
        pytest.skip("the vectors lack the weight of the last convolution")
    with torch.no_grad():
        judged_real, judged_fake = (discriminator(one) for one in _pair(adversaries))
    for number, judgement in enumerate(judged_fake):
        expected = torch.from_numpy(adversaries[f"fake_output/{number}"])
        assert (judgement.logits - expected).abs().max() <= RELATIVE * expected.abs().max()
    losses = discriminator_losses(real=judged_real, fake=judged_fake)
    _close(losses["d/real"] + losses["d/fake"], adversaries["loss_discriminator"])
    real, fake = _pair(adversaries)
    total = generator_losses(estimate=fake, reference=real, real=judged_real, fake=judged_fake)
    _close(torch.stack(list(total.values())).sum(), adversaries["loss_generator"])


def _read(path: Path) -> Tensor:
    import soundfile

    return torch.from_numpy(soundfile.read(path, dtype="float64", always_2d=True)[0].T.copy())


def test_scores_equal_those_of_fast_bss_eval(golden: Path, recordings: Path) -> None:
    scores = json.loads((golden / "metrics_apollo_demo.json").read_text())["scores"]
    for name, expected in scores.items():
        estimate = _read(recordings / "apollo-demo" / f"{name}.flac")
        reference = _read((recordings / "apollo-demo" / name).with_name("clean.flac"))
        sdr = metrics.sdr(estimate=estimate, reference=reference).mean().item()
        si_snr = metrics.si_snr(estimate=estimate, reference=reference).mean().item()
        assert sdr == pytest.approx(expected["sdr_db"], abs=0.01), name
        assert si_snr == pytest.approx(expected["si_snr_db"], abs=0.01), name
