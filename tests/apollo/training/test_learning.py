"""It learns: a small network and its discriminator come to know one batch by heart."""

from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.config import GanConfig
from apollo.training.data import Batch
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.losses import magnitude_loss

RATE, SAMPLES = 44_100, 11_025
CUT_HZ = 5_000  # about where MP3 ends at 24 kbps
START_SECONDS = 2.0
MOST_STEPS = 240


@pytest.fixture(params=["recorded", "generated"])
def batch(request: pytest.FixtureRequest) -> Batch:
    """A quarter of a second, [1, 2, samples]: of real music and its MP3, or made here."""
    if request.param == "recorded":
        folder = request.getfixturevalue("recordings") / "apollo-demo" / "24k"
        return Batch(_excerpt(folder / "clean.flac"), _excerpt(folder / "degraded.flac"), ["recorded"])
    clean = _pluck(220.0)[None]
    spectrum = torch.fft.rfft(clean)
    spectrum[..., round(CUT_HZ * SAMPLES / RATE) :] = 0
    noise = 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    return Batch(clean, torch.fft.irfft(spectrum, n=SAMPLES) + noise, ["generated"])


def _excerpt(path: Path) -> Tensor:
    samples, rate = soundfile.read(
        path, SAMPLES, round(START_SECONDS * RATE), dtype="float32", always_2d=True
    )
    assert (rate, len(samples)) == (RATE, SAMPLES)
    return torch.from_numpy(samples.T.copy())[None]


def _pluck(pitch_hz: float) -> Tensor:
    """Make a bright string with a noisy attack, left and right out of step; [2, samples]."""
    time = torch.arange(SAMPLES) / RATE
    string = torch.zeros(2, SAMPLES)
    for harmonic in range(1, 61):
        turns = harmonic * pitch_hz * time + torch.tensor([[0.0], [0.13 * harmonic]])
        string += torch.sin(2 * torch.pi * turns) * torch.exp(-harmonic * time) / harmonic
    attack = torch.randn(2, SAMPLES, generator=torch.Generator().manual_seed(1)) * torch.exp(-20 * time)
    return 0.2 * string + 0.1 * attack


@pytest.mark.parametrize("output", ["correction", "direct"])
def test_one_batch_is_overfitted(output: str, batch: Batch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = _learn(output, batch)
    finally:
        torch.set_num_threads(threads)
    silence, unchanged = (
        magnitude_loss(estimate=estimate, reference=batch.clean).item()
        for estimate in (torch.zeros_like(batch.clean), batch.degraded)
    )
    if output == "correction":
        assert losses[0] == pytest.approx(unchanged, rel=1e-4)  # it begins as the identity
        assert min(losses) < unchanged
    assert min(losses) < losses[0] / 2, f"{len(losses)} steps brought {losses[0]:.3f} to {min(losses):.3f}"
    assert min(losses) < silence


def _learn(output: str, batch: Batch) -> list[float]:
    """Take steps until the loss is below half of where it began, or there were enough; gives the losses."""
    torch.manual_seed(0)
    gan = Gan(
        Generator(GeneratorConfig(dim=32, layers=1, heads=4, output=output)),
        Discriminator(DiscriminatorConfig(windows=(128, 512), norm="rms")),
        GanConfig(
            batch_size=1,
            generator_learning_rate=3e-3,
            weights={"g/adversarial": 0.1, "g/feature": 0.1},
        ),
        DistributedContext(torch.device("cpu")),
    )
    losses: list[float] = []
    while len(losses) < MOST_STEPS and (not losses or losses[-1] >= losses[0] / 2):
        losses.append(gan.step([batch], epoch=0)["g/stft"])
    return losses
