"""Configuration of the GAN step and the training loop. Imports no torch.

The defaults are the paper's (Li and Luo, 2024, section III), where the published code agrees.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from apollo.model.config import LOSS_WEIGHTS

# fields that may differ when a run is resumed: the result stays the same, but for rounding
RESUMABLE_GAN_OVERRIDES = ("micro_batch", "compile", "recompute", "max_skipped_steps")
RESUMABLE_FIT_OVERRIDES = (
    "epochs",
    "max_steps",
    "patience_epochs",
    "keep_checkpoints",
    "log_steps",
    "checkpoint_steps",
)
_LAST_SCALE = 0.01  # of the learning rates, after `cosine_steps`
RECOMPUTE = ("nothing", "hidden", "layers")


class NonFiniteError(RuntimeError):
    """Training stopped: too many steps with non-finite losses or gradients, or a non-finite weight."""


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """Configuration of one optimizer step.

    Args:
        generator_optimizer: `adamw`, or `muon` for the matrices of hidden layers and AdamW for the rest.
        muon_learning_rate: Initial learning rate of Muon.
        generator_learning_rate: Initial learning rate of AdamW.
        discriminator_learning_rate: Initial learning rate of AdamW.
        generator_betas: Betas of AdamW.
        discriminator_betas: Betas of AdamW.
        weight_decay: Weight decay of both optimizers.
        decay: Factor on both learning rates every `decay_epochs` epochs.
        decay_epochs: See `decay`.
        warmup_steps: Steps over which the generator's learning rates rise from 0.
        cosine_steps: Steps over which all learning rates fall to a hundredth, along half a
            period of a cosine, instead of `decay`; 0 for `decay`.
        clip_norm: Maximum gradient norm, of the gradients averaged over ranks.
        weights: Loss weights by name; others keep the paper's.
        adversarial_loss: `least_squares`, as published, or `wasserstein`, which needs a weight of
            `d/gradient_penalty`.
        discriminator_steps: Updates of the discriminator for each of the generator, which is left out in the
            other steps.
        adversarial_start_step: Steps before the first with a discriminator. Until then, and always if
            `g/adversarial` and `g/feature` have weight 0, no discriminator is built or computed.
        cutoff_hz: Highest frequency of `g/spectrum`.
        batch_size: Examples per optimizer step, over all ranks.
        micro_batch: Examples per forward pass of a rank; more are accumulated.
        precision: `float32`, or `bfloat16` for matrix products and the discriminator's convolutions. Residual
            stream, the generator's convolutions, transforms and losses are always float32.
        compile: Compile the layers of the trunk `band_sequence` with torch.compile, if it works here.
        recompute: Activations of the trunk `band_sequence` to recompute in the backward pass, to save memory:
            `nothing`, `hidden` (the widest ones) or `layers` (all but the layers' inputs). Costs:
            docs/benchmarks.md.
        ema_decay: Decay of the moving average of the generator's weights, which is evaluated; after n steps
            at most (1 + n) / (10 + n).
        discriminator_warmup_steps: First steps with a discriminator that update only the discriminator; for a
            trained generator with a new discriminator.
        max_skipped_steps: Steps with a non-finite loss or gradient are skipped; more than this many in the
            whole run end it, when the next losses are read.
    """

    generator_optimizer: str = "adamw"
    muon_learning_rate: float = 0.01
    generator_learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-4
    generator_betas: tuple[float, float] = (0.9, 0.999)
    discriminator_betas: tuple[float, float] = (0.5, 0.99)
    weight_decay: float = 0.01
    decay: float = 0.98
    decay_epochs: int = 2
    warmup_steps: int = 0
    cosine_steps: int = 0
    clip_norm: float = 5.0
    weights: Mapping[str, float] = field(default_factory=dict)
    adversarial_loss: str = "least_squares"
    discriminator_steps: int = 1
    adversarial_start_step: int = 0
    cutoff_hz: float = 16_000.0
    batch_size: int = 8
    micro_batch: int = 1
    precision: str = "float32"
    compile: bool = False
    recompute: str = "nothing"
    ema_decay: float = 0.999
    discriminator_warmup_steps: int = 0
    max_skipped_steps: int = 20

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a field is out of range.
        """
        self._check_losses()
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}: it must be 'float32' or 'bfloat16'")
        for name in ("batch_size", "micro_batch", "decay_epochs", "discriminator_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.generator_optimizer not in ("adamw", "muon"):
            raise ValueError(
                f"generator_optimizer is {self.generator_optimizer!r}: it must be 'adamw' or 'muon'"
            )
        for name in (
            *("muon_learning_rate", "generator_learning_rate", "discriminator_learning_rate", "clip_norm"),
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name in (
            *("weight_decay", "cutoff_hz", "discriminator_warmup_steps", "max_skipped_steps"),
            *("warmup_steps", "cosine_steps", "adversarial_start_step"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}: it must be above 0, and 1 for none")
        for name in ("generator_betas", "discriminator_betas"):
            if not all(0 <= beta < 1 for beta in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}: both must be from 0 to below 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must be from 0 to below 1")
        if self.recompute not in RECOMPUTE:
            raise ValueError(f"recompute is {self.recompute!r}: it must be one of {', '.join(RECOMPUTE)}")
        if self.compile and self.recompute != "nothing":
            raise ValueError(
                f"compile is {self.compile} and recompute is {self.recompute!r}: torch.compile decides "
                "itself what to recompute; leave recompute at 'nothing', or do not compile"
            )

    def _check_losses(self) -> None:
        unknown = set(self.weights) - set(LOSS_WEIGHTS)
        if unknown:
            raise ValueError(
                f"unknown losses in weights: {', '.join(sorted(unknown))}; "
                f"the losses are {', '.join(LOSS_WEIGHTS)}"
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: it must be finite and at least 0")
        if not any(weight for name, weight in self.all_weights.items() if name.startswith("g/")):
            raise ValueError("weights leaves the generator no loss: give one of g/... a weight above 0")
        if self.adversarial_start_step and not any(
            weight
            for name, weight in self.all_weights.items()
            if name.startswith("g/") and name not in ("g/adversarial", "g/feature")
        ):
            raise ValueError(
                f"weights leaves the generator no loss before adversarial_start_step "
                f"({self.adversarial_start_step}): give another of g/... a weight above 0"
            )
        if self.adversarial_loss not in ("least_squares", "wasserstein"):
            raise ValueError(
                f"adversarial_loss is {self.adversarial_loss!r}: it must be 'least_squares' or 'wasserstein'"
            )
        if self.adversarial_loss == "wasserstein" and not self.all_weights["d/gradient_penalty"]:
            raise ValueError(
                "adversarial_loss is 'wasserstein', whose discriminator has no bound without a gradient "
                "penalty: give d/gradient_penalty a weight above 0, such as 10"
            )

    @property
    def all_weights(self) -> dict[str, float]:
        """Weights of all losses by name."""
        return {**LOSS_WEIGHTS, **self.weights}

    @property
    def has_adversarial_loss(self) -> bool:
        """Whether any step has a discriminator."""
        return bool(self.all_weights["g/adversarial"] or self.all_weights["g/feature"])

    def is_adversarial(self, step: int) -> bool:
        """Return whether a step, from 0, has a discriminator."""
        return self.has_adversarial_loss and step >= self.adversarial_start_step

    def is_discriminator_only(self, step: int) -> bool:
        """Return whether a step, from 0, updates only the discriminator."""
        past_warmup = step - self.adversarial_start_step - self.discriminator_warmup_steps
        leaves_out = past_warmup < 0 or (past_warmup + 1) % self.discriminator_steps != 0
        return self.is_adversarial(step) and leaves_out

    def learning_rate_scale(self, epoch: int, step: int = 0) -> float:
        """Return the factor on all learning rates in a step, from 0, of an epoch, from 0."""
        if not self.cosine_steps:
            return float(self.decay ** (epoch // self.decay_epochs))
        done = min(step / self.cosine_steps, 1.0)
        return _LAST_SCALE + (1 - _LAST_SCALE) * (1 + math.cos(math.pi * done)) / 2

    def warmup_scale(self, generator_steps: int) -> float:
        """Return the factor on the generator's learning rates after so many of its steps."""
        return min((generator_steps + 1) / self.warmup_steps, 1.0) if self.warmup_steps else 1.0


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Configuration of the training loop.

    Args:
        epochs: Maximum number of epochs.
        epoch_examples: Examples per epoch, independent of the size of the data.
        max_steps: Maximum number of steps in total; 0 for no limit.
        patience_epochs: Stop early after this many epochs without a lower STFT loss in validation.
        checkpoint_steps: Steps between checkpoints; every epoch ends with one as well.
        keep_checkpoints: Number of latest checkpoints to keep, besides the best.
        validation_examples: Number of examples per validation, from the first on.
        floor_db: A checkpoint whose SI-SNR is lower than the degraded input's by more than this becomes
            `best` only if there is no other.
        log_steps: Steps per log entry; losses are means over them, read from the device once.
        seed: Seed of the initial weights.
    """

    epochs: int = 500
    epoch_examples: int = 40_000
    max_steps: int = 0
    patience_epochs: int = 20
    checkpoint_steps: int = 1_000
    keep_checkpoints: int = 2
    validation_examples: int = 500
    floor_db: float = 3.0
    log_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a field is out of range.
        """
        for name in (
            *("epochs", "epoch_examples", "patience_epochs", "checkpoint_steps", "keep_checkpoints"),
            *("validation_examples", "log_steps"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.floor_db < math.inf:
            raise ValueError(f"floor_db is {self.floor_db}: it must be 0 or more")
        if self.max_steps < 0:
            raise ValueError(f"max_steps is {self.max_steps}: it must be 0 (no limit) or more")
