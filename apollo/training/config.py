"""What a training run is told: the GAN step and the loop around it. Free of torch.

The defaults are the paper's (Li and Luo, 2024, section III), where the published code agrees.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from apollo.model.config import LOSS_WEIGHTS

# what may change from one start of a run to the next: what is learned stays the same, but for rounding
RESUMABLE_GAN_OVERRIDES = ("micro_batch", "compile", "recompute", "max_skipped_steps")
RESUMABLE_FIT_OVERRIDES = (
    "epochs",
    "max_steps",
    "patience_epochs",
    "keep_checkpoints",
    "log_steps",
    "checkpoint_steps",
)
RECOMPUTE = ("nothing", "hidden", "layers")


class NonFiniteError(RuntimeError):
    """A training cannot go on because of what is no number: too many steps, or a weight."""


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """One optimizer step.

    Args:
        generator_learning_rate: Of the first epochs, for AdamW.
        discriminator_learning_rate: Of the first epochs, for AdamW.
        generator_betas: Of AdamW.
        discriminator_betas: Of AdamW.
        weight_decay: Of both.
        decay: Both learning rates are multiplied by this every `decay_epochs` epochs.
        decay_epochs: See `decay`.
        clip_norm: Gradients, of all ranks together, are scaled down to this norm.
        weights: Of the losses by name; those not named keep the paper's.
        cutoff_hz: Up to here `g/spectrum` compares phases.
        batch_size: Examples of an optimizer step, over all ranks.
        micro_batch: Examples that a rank computes at once; more than that are accumulated.
        precision: `float32`, or `bfloat16` for matrix products and the discriminator's convolutions. Residual
            stream, transforms and losses are float32 always.
        compile: Compile the generator's layers, where there is a compiler.
        recompute: What of the generator's forward pass is computed again in the backward pass, to save
            memory: `nothing`, `hidden` (the widest results) or `layers` (all but the layers' inputs). What
            each costs: docs/benchmarks.md.
        ema_decay: Of the average of the generator's weights that is evaluated; after n steps it is at most
            (1 + n) / (10 + n).
        discriminator_warmup_steps: Steps in which the discriminator learns alone; for generators that come
            without theirs.
        max_skipped_steps: Steps with a loss or gradient that is no number are left out; more than this in the
            whole run end it.
    """

    generator_learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-4
    generator_betas: tuple[float, float] = (0.9, 0.999)
    discriminator_betas: tuple[float, float] = (0.5, 0.99)
    weight_decay: float = 0.01
    decay: float = 0.98
    decay_epochs: int = 2
    clip_norm: float = 5.0
    weights: Mapping[str, float] = field(default_factory=dict)
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
        """Refuse what makes no step.

        Raises:
            ValueError: a field is out of its range; says which and what to do.
        """
        unknown = set(self.weights) - set(LOSS_WEIGHTS)
        if unknown:
            raise ValueError(
                f"no loss is called {', '.join(sorted(unknown))}: weights may name {', '.join(LOSS_WEIGHTS)}"
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: a weight must be a number from 0")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}: it must be 'float32' or 'bfloat16'")
        for name in ("batch_size", "micro_batch", "decay_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("generator_learning_rate", "discriminator_learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name in ("weight_decay", "cutoff_hz", "discriminator_warmup_steps", "max_skipped_steps"):
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
                f"compile is {self.compile} and recompute is {self.recompute!r}: a compiler decides by "
                "itself what to keep; leave recompute at 'nothing', or do not compile"
            )

    @property
    def all_weights(self) -> dict[str, float]:
        """Weights of all losses."""
        return {**LOSS_WEIGHTS, **self.weights}

    def learning_rate_scale(self, epoch: int) -> float:
        """Give the factor on both learning rates in an epoch, from 0."""
        return float(self.decay ** (epoch // self.decay_epochs))


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """The loop around the steps.

    Args:
        epochs: Most epochs.
        epoch_examples: Examples of an epoch, whatever the data hold.
        max_steps: Most steps in all; 0 is no limit.
        patience_epochs: The run ends after so many epochs without a lower reconstruction loss in validation.
        checkpoint_steps: Steps from one checkpoint to the next, beside the one at every epoch's end.
        keep_checkpoints: So many of the last are kept, and the best.
        validation_examples: Examples of a validation, the first of those there are.
        floor_db: A checkpoint whose SI-SNR is further below the degraded input's than this is `best` only
            where none is better.
        log_steps: Losses are logged as means over so many steps.
        seed: Of the first weights.
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
        """Refuse what makes no run.

        Raises:
            ValueError: a field is out of its range; says which and what to do.
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
            raise ValueError(f"max_steps is {self.max_steps}: give 0 for no limit, or a number of steps")
