"""Every architecture: gradients reach it, it learns a batch by heart, it is saved, loaded and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from apollo.checkpoints import checkpoint
from apollo.inference.restoration import restore
from apollo.model.config import PRESETS, DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.config import FitConfig, GanConfig
from apollo.training.data import Batch
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.loop import fit
from apollo.training.losses import magnitude_loss
from tests.apollo.training.test_learning import CUT_HZ, RATE, SAMPLES, _pluck
from tests.support.gloo_runs import Noise

STUDY = Path(__file__).parents[3] / "jobs/configs/study"
NAMES = sorted(path.stem for path in STUDY.glob("*.yaml"))
SMALLER: dict[str, dict[str, Any]] = {  # than in the study, so that seconds are enough
    "apollo": {"dim": 32, "layers": 1},
    "ams": {"dim": 32, "layers": 1},
    "compact": {"dim": 32, "layers": 2},
    "sr_gan": {"dim": 64, "layers": 3, "window_samples": 882},
}
# direct prediction first has to learn the identity, which takes longest with a discriminator
ALONE = {"g/adversarial": 0.0, "g/feature": 0.0, "g/waveform": 0.5}
LEARNING: dict[str, dict[str, Any]] = {"apollo": {"weights": ALONE, "generator_learning_rate": 1e-2}}
MOST_STEPS = 120


def _settings(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((STUDY / f"{name}.yaml").read_text())
    return settings


def _gan(name: str, *, seed: int = 0, **changes: Any) -> Gan:
    """A small network with the discriminator and the losses of the study."""
    settings = _settings(name)
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**settings["generator"] | SMALLER[name]))
    judge = {"windows": [64, 512]} | settings.get("discriminator", {}) | {"channels": 2}
    if "dim" in judge:
        judge |= {"dim": 16, "layers": 2, "windows": [512]}
    every_step = {"discriminator_steps": 1, "discriminator_warmup_steps": 0}  # has a generator's update
    rates = {"cosine_steps": 0, "warmup_steps": 0, "micro_batch": 16}
    gan = settings["gan"] | every_step | rates | changes
    context = DistributedContext(torch.device("cpu"))
    return Gan(generator, DiscriminatorConfig(**judge), GanConfig(**gan), context, seed=seed)


def test_there_is_a_small_configuration_of_each_architecture() -> None:
    assert sorted(SMALLER) == NAMES
    for name in NAMES:
        generator = Generator(GeneratorConfig(**_settings(name)["generator"]))
        assert 1_000_000 <= sum(value.numel() for value in generator.parameters()) <= 2_000_000
    for preset in ("sr_gan", "ams"):
        assert GeneratorConfig(**_settings(preset)["generator"]) == PRESETS[f"{preset}-small"]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    generator = _gan(name).generator
    for value in generator.parameters():  # heads that start at zero let no gradient through
        value.data += 0.02 * torch.randn_like(value)
    samples = 0.1 * torch.randn(1, 1, 9_000)
    parts = generator.decompose(samples)
    loss = generator(samples).square().sum()
    loss = loss + (0 if parts.amplitude is None else parts.amplitude.sum())
    loss.backward()
    for key, value in generator.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), key


def _batch() -> Batch:
    clean = _pluck(220.0)[None]
    spectrum = torch.fft.rfft(clean)
    spectrum[..., round(CUT_HZ * SAMPLES / RATE) :] = 0
    return Batch(clean, torch.fft.irfft(spectrum, n=SAMPLES), ["one"])


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_is_overfitted_below_the_loss_of_the_codec(name: str) -> None:
    batch = _batch()
    unchanged = float(magnitude_loss(estimate=batch.degraded, reference=batch.clean))
    changes = {"generator_learning_rate": 3e-3} | LEARNING.get(name, {})
    gan = _gan(name, batch_size=1, **changes)
    found = []
    for step in range(MOST_STEPS):
        result = gan.step([batch], epoch=0, step=step)
        assert result["step/skipped"] == 0
        if step % 10 == 9:
            with torch.no_grad():
                restored = gan.generator(batch.degraded)
            found.append(float(magnitude_loss(estimate=restored, reference=batch.clean)))
            if found[-1] < 0.9 * unchanged:
                return
    raise AssertionError(f"{MOST_STEPS} steps brought {unchanged:.3f} to {found}")


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_as_an_undisturbed_one_and_its_checkpoint_restores_the_same(
    name: str, tmp_path: Path
) -> None:
    def run(folder: Path, max_steps: int) -> Gan:
        gan = _gan(name, batch_size=2)
        config = FitConfig(epochs=1, epoch_examples=8, max_steps=max_steps, checkpoint_steps=2, log_steps=2)
        fit(gan, Noise(), config, output=folder)
        return gan

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "resumed", 2)
    resumed = run(tmp_path / "resumed", 4)
    for key, value in whole.generator.state_dict().items():
        assert torch.equal(value, resumed.generator.state_dict()[key]), key
    loaded = checkpoint.load(tmp_path / "resumed/checkpoints/step-00000004")
    degraded = 0.1 * torch.randn(2, 9_000)
    expected = restore(whole.ema_generator, degraded)
    assert torch.equal(restore(loaded, degraded), expected)
    chunks = restore(loaded, degraded, chunk_seconds=0.05)
    assert (chunks - expected).square().mean().sqrt() < 1e-5 * expected.square().mean().sqrt()
