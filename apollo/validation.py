"""Scoring a generator on examples that stay the same, and choosing among checkpoints by the scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.examples import Source
from apollo.generator import Generator
from apollo.losses import magnitude_loss
from apollo.metrics import log_spectral_distance, si_snr
from apollo.spectra import Spectra
from apollo.world import World

LOSS, SI_SNR, DISTANCE, VISQOL = "valid/stft", "valid/si_snr", "valid/lsd_above_5khz", "valid/visqol"
SETTLED = "valid/settled"  # whether all scores of a step have come
DEGRADED = "/degraded"  # the same score of the input as it was
_LEAST_LOSS = 1e-6  # an input without fault cannot be improved
_DISTANCE_HZ = 5_000.0  # above it every codec setting of the paper has removed something


@dataclass(frozen=True)
class Heard:
    """A validation example with what became of it; [channels, samples], float32, on the CPU."""

    name: str
    clean: Tensor
    degraded: Tensor
    restored: Tensor


def validate(
    generator: Generator, source: Source, examples: int, world: World, *, keep: int = 0
) -> tuple[dict[str, float], list[Heard]]:
    """Score a generator and, for comparison, its input.

    Args:
        generator: On its device.
        source: Fixed examples, at epoch 0.
        examples: How many of them, dealt out over the ranks.
        world: The processes that share the work.
        keep: How many examples to give back, of rank 0.

    Returns:
        Means over examples, the same on all ranks: reconstruction loss, SI-SNR in dB, log-spectral distance
        above 5 kHz in dB, each also of the input, with the ending `/degraded`; and the kept examples.
    """
    heard: list[Heard] = []
    sums: dict[str, float] = {}
    for example in source.read(0, world.part(range(examples))):
        clean, degraded = (samples[None].to(world.device) for samples in (example.clean, example.degraded))
        with torch.no_grad():
            restored = generator(degraded)
            scores = _score(restored, clean, generator.config.sample_rate)
            scores |= {
                name + DEGRADED: value
                for name, value in _score(degraded, clean, generator.config.sample_rate).items()
            }
        for name, value in scores.items():
            sums[name] = sums.get(name, 0.0) + value
        if world.rank == 0 and len(heard) < keep:
            heard.append(Heard(example.name, example.clean, example.degraded, restored[0].cpu()))
    names = sorted({name + ending for name in (LOSS, SI_SNR, DISTANCE) for ending in ("", DEGRADED)})
    local = torch.tensor([sums.get(name, 0.0) for name in names], dtype=torch.float64, device=world.device)
    means = (world.total(local) / examples).tolist()
    return dict(zip(names, means, strict=True)), heard


def _score(estimate: Tensor, clean: Tensor, sample_rate: int) -> dict[str, float]:
    found, expected = Spectra(estimate), Spectra(clean)
    distance = log_spectral_distance(
        estimate=estimate, reference=clean, sample_rate=sample_rate, cutoff_hz=_DISTANCE_HZ
    )
    return {
        LOSS: float(magnitude_loss(estimate=found, reference=expected)),
        SI_SNR: float(si_snr(estimate=estimate, reference=clean).mean()),
        DISTANCE: float(distance.mean()),
    }


def quality(scores: Mapping[str, float], *, floor_db: float) -> tuple[bool, float]:
    """Rank a checkpoint; the greater tuple is the better one.

    First whether its SI-SNR is at most `floor_db` below its input's: what is invented costs some, and SI-SNR
    alone would choose the network that changes nothing. Then by how much, relative to the input, the
    reconstruction loss fell and ViSQOL (where it was measured) rose.
    """
    held = scores[SI_SNR] >= scores[SI_SNR + DEGRADED] - floor_db
    before = scores[LOSS + DEGRADED]
    gained = (before - scores[LOSS]) / max(before, _LEAST_LOSS)
    if VISQOL in scores and VISQOL + DEGRADED in scores:
        gained += scores[VISQOL] / scores[VISQOL + DEGRADED] - 1
    return held, gained
