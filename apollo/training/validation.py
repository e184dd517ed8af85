"""Validation of a generator on fixed examples, and selection of the best checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.metrics import log_spectral_distance, si_snr
from apollo.model.generator import Generator
from apollo.training.data import Example, ExampleSource
from apollo.training.distributed import DistributedContext
from apollo.training.losses import magnitude_loss
from apollo.training.spectra import Spectra, limit_bandwidth

STFT_LOSS, SI_SNR, LSD, VISQOL = "valid/stft", "valid/si_snr", "valid/lsd_above_5khz", "valid/visqol"
_SCORES = (STFT_LOSS, SI_SNR, LSD)
SCORES_COMPLETE = "valid/settled"  # 1 once all asynchronous scores of a step have arrived
GENERATOR_STEPS = "valid/generator_steps"  # optimizer steps of the generator so far
DEGRADED_SUFFIX = "/degraded"  # suffix of the degraded input's score
_LEAST_LOSS = 1e-6  # avoids a division by 0 where the input is perfect
_DISTANCE_HZ = 5_000.0  # above it every codec setting of the paper has removed something


@dataclass(frozen=True)
class RestoredExample:
    """A validation example and its restoration: [channels, samples], float32, on the CPU."""

    name: str
    clean: Tensor
    degraded: Tensor
    restored: Tensor


def validate(
    generator: Generator, source: ExampleSource, examples: int, context: DistributedContext
) -> dict[str, float]:
    """Compute validation scores of a generator and of its degraded input.

    Args:
        generator: Network, on its device.
        source: Validation examples, read as epoch 0.
        examples: Number of examples, split over the ranks.
        context: Device and processes of the run.

    Returns:
        Means over examples, the same on all ranks: STFT loss, SI-SNR in dB, log-spectral distance above 5 kHz
        in dB; each also for the input, with the suffix `/degraded`, and for the examples of each degradation,
        with its name as suffix, where there are several.
    """
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    kinds: tuple[str, ...] = getattr(source, "degradations", ())  # of sources that have some
    kinds = kinds if len(kinds) > 1 else ()
    rate = generator.config.sample_rate
    for example in source.read(0, context.shard(range(examples))):
        clean, degraded = (samples[None].to(context.device) for samples in (example.clean, example.degraded))
        with torch.no_grad():
            limit = _limiter(example, rate)
            clean = limit(clean)
            scores = _score(limit(generator(degraded)), clean, rate)
            before = _score(limit(degraded), clean, rate)
            scores |= {name + DEGRADED_SUFFIX: value for name, value in before.items()}
        kind = example.name.rpartition("/")[2]
        scores |= {f"{name}/{kind}": scores[name] for name in _SCORES if kind in kinds}
        for name, value in scores.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0.0) + 1
    endings = ("", DEGRADED_SUFFIX, *(f"/{kind}" for kind in kinds))
    names = sorted({name + ending for name in _SCORES for ending in endings})
    local = torch.tensor(
        [[one.get(name, 0.0) for name in names] for one in (sums, counts)],
        dtype=torch.float64,
        device=context.device,
    )
    total, number = context.all_reduce(local).tolist()
    return {name: value / many for name, value, many in zip(names, total, number, strict=True) if many}


def restore_examples(
    generator: Generator, source: ExampleSource, count: int, device: torch.device
) -> list[RestoredExample]:
    """Restore the first `count` examples; each is cut off where its clean audio ceases to be known."""
    results = []
    for example in source.read(0, range(count)):
        with torch.no_grad():
            restored = generator(example.degraded[None].to(device)).cpu()
        limit = _limiter(example, generator.config.sample_rate)
        signals = (limit(one)[0] for one in (example.clean[None], example.degraded[None], restored))
        results.append(RestoredExample(example.name, *signals))
    return results


def _limiter(example: Example, sample_rate: int) -> Callable[[Tensor], Tensor]:
    """Return a function that removes what lies above the bandwidth of an example's clean audio."""

    def limit(samples: Tensor) -> Tensor:
        if math.isinf(example.bandwidth_hz):
            return samples
        return limit_bandwidth(samples, samples.new_tensor([example.bandwidth_hz]), sample_rate)

    return limit


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
    """Return a sort key for a checkpoint's scores; greater is better.

    First, whether its SI-SNR is at most `floor_db` below the degraded input's: generated content lowers
    SI-SNR, which alone would select a network that changes nothing. Then the improvement over the input: the
    relative decrease of the STFT loss plus the relative increase of ViSQOL, where measured.
    """
    held = scores[SI_SNR] >= scores[SI_SNR + DEGRADED_SUFFIX] - floor_db
    before = scores[STFT_LOSS + DEGRADED_SUFFIX]
    gained = (before - scores[STFT_LOSS]) / max(before, _LEAST_LOSS)
    if VISQOL in scores and VISQOL + DEGRADED_SUFFIX in scores:
        gained += scores[VISQOL] / scores[VISQOL + DEGRADED_SUFFIX] - 1
    return held, gained if math.isfinite(gained) else -math.inf


def choose_best(candidates: Mapping[int, Mapping[str, float]], *, floor_db: float) -> int | None:
    """Return the step with the best scores, the earliest of equals; None without candidates.

    ViSQOL counts only if all candidates have it: a failed measurement must not decide.
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
