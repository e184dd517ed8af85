"""Scoring a generator on examples that stay the same, and choosing among checkpoints by the scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.metrics import log_spectral_distance, si_snr
from apollo.model.generator import Generator
from apollo.training.data import ExampleSource
from apollo.training.distributed import DistributedContext
from apollo.training.losses import magnitude_loss
from apollo.training.spectra import Spectra

STFT_LOSS, SI_SNR, LSD, VISQOL = "valid/stft", "valid/si_snr", "valid/lsd_above_5khz", "valid/visqol"
SCORES_COMPLETE = "valid/settled"  # 1 once all scores of a step have come
GENERATOR_STEPS = "valid/generator_steps"  # steps that the generator had learned from
DEGRADED_SUFFIX = "/degraded"  # the same score of the input as it was
_LEAST_LOSS = 1e-6  # an input without fault cannot be improved
_DISTANCE_HZ = 5_000.0  # above it every codec setting of the paper has removed something


@dataclass(frozen=True)
class RestoredExample:
    """A validation example with what became of it; [channels, samples], float32, on the CPU."""

    name: str
    clean: Tensor
    degraded: Tensor
    restored: Tensor


def validate(
    generator: Generator, source: ExampleSource, examples: int, context: DistributedContext
) -> dict[str, float]:
    """Score a generator and, for comparison, its input.

    Args:
        generator: On its device.
        source: Fixed examples, at epoch 0.
        examples: How many of them, dealt out over the ranks.
        context: The processes that share the work.

    Returns:
        Means over examples, the same on all ranks: reconstruction loss, SI-SNR in dB, log-spectral distance
        above 5 kHz in dB, each also of the input, with the ending `/degraded`.
    """
    sums: dict[str, float] = {}
    rate = generator.config.sample_rate
    for example in source.read(0, context.shard(range(examples))):
        clean, degraded = (samples[None].to(context.device) for samples in (example.clean, example.degraded))
        with torch.no_grad():
            scores = _score(generator(degraded), clean, rate)
            scores |= {name + DEGRADED_SUFFIX: value for name, value in _score(degraded, clean, rate).items()}
        for name, value in scores.items():
            sums[name] = sums.get(name, 0.0) + value
    names = sorted({name + ending for name in (STFT_LOSS, SI_SNR, LSD) for ending in ("", DEGRADED_SUFFIX)})
    local = torch.tensor([sums.get(name, 0.0) for name in names], dtype=torch.float64, device=context.device)
    means = (context.all_reduce(local) / examples).tolist()
    return dict(zip(names, means, strict=True))


def restore_examples(
    generator: Generator, source: ExampleSource, count: int, device: torch.device
) -> list[RestoredExample]:
    """Restore the first examples to be heard; the same ones, however many ranks there are."""
    results = []
    for example in source.read(0, range(count)):
        with torch.no_grad():
            restored = generator(example.degraded[None].to(device))[0].cpu()
        results.append(RestoredExample(example.name, example.clean, example.degraded, restored))
    return results


def _score(estimate: Tensor, clean: Tensor, sample_rate: int) -> dict[str, float]:
    found, expected = Spectra(estimate), Spectra(clean)
    distance = log_spectral_distance(
        estimate=estimate, reference=clean, sample_rate=sample_rate, cutoff_hz=_DISTANCE_HZ
    )
    return {
        STFT_LOSS: float(magnitude_loss(estimate=found, reference=expected)),
        SI_SNR: float(si_snr(estimate=estimate, reference=clean).mean()),
        LSD: float(distance.mean()),
    }


def quality(scores: Mapping[str, float], *, floor_db: float) -> tuple[bool, float]:
    """Rank a checkpoint; the greater tuple is the better one.

    First whether its SI-SNR is at most `floor_db` below its input's: what is invented costs some, and SI-SNR
    alone would choose the network that changes nothing. Then by how much, relative to the input, the
    reconstruction loss fell and ViSQOL (where it was measured) rose.
    """
    held = scores[SI_SNR] >= scores[SI_SNR + DEGRADED_SUFFIX] - floor_db
    before = scores[STFT_LOSS + DEGRADED_SUFFIX]
    gained = (before - scores[STFT_LOSS]) / max(before, _LEAST_LOSS)
    if VISQOL in scores and VISQOL + DEGRADED_SUFFIX in scores:
        gained += scores[VISQOL] / scores[VISQOL + DEGRADED_SUFFIX] - 1
    return held, gained if math.isfinite(gained) else -math.inf


def choose_best(candidates: Mapping[int, Mapping[str, float]], *, floor_db: float) -> int | None:
    """Choose among steps by their scores; the earlier of two equals.

    ViSQOL counts where all of them have it: one measurement that failed must not decide.
    """
    with_visqol = all(
        VISQOL in scores and VISQOL + DEGRADED_SUFFIX in scores for scores in candidates.values()
    )
    ranked = {
        step: quality(
            {name: value for name, value in scores.items() if with_visqol or not name.startswith(VISQOL)},
            floor_db=floor_db,
        )
        for step, scores in candidates.items()
    }
    return max(ranked, key=lambda step: (ranked[step], -step), default=None)
