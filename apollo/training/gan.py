"""One step of the GAN, in the paper's order: the discriminator first, then the generator against it.

Source: Li and Luo (2024), section II-D and III. Unlike the published code, nothing is computed twice: both
updates share the generator's output, real and fake examples are one batch in the discriminator's update,
every signal is transformed once per window (with gradient accumulation: once per update), and the generator's
update keeps no graph of the reference.

Losses are means over examples: splitting a batch over ranks and micro-batches changes only rounding.

Shape legend: samples [examples, channels, samples].
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from apollo.model.generator import Generator
from apollo.training.config import GanConfig
from apollo.training.data import Batch
from apollo.training.discriminator import Discriminator, DiscriminatorOutput
from apollo.training.distributed import DistributedContext, no_sync
from apollo.training.fused_layers import configure_training_layers
from apollo.training.losses import discriminator_losses, generator_losses
from apollo.training.spectra import Spectra, concatenate

SKIPPED = "step/skipped"
_EMA_WARMUP = 10
_Pair = tuple[Spectra, Spectra]  # clean, and restored with the generator's graph


class Gan:
    """Generator, discriminator, their optimizers, and the exponential moving average (EMA) of the generator.

    Args:
        generator: Network to train, on its device.
        discriminator: Network to train, on the same device.
        config: Losses, optimizers and batches.
        context: Device and processes of the run.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        config: GanConfig,
        context: DistributedContext,
    ) -> None:
        self.generator, self.discriminator, self.config, self.context = (
            generator,
            discriminator,
            config,
            context,
        )
        self.ema_generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.generator_steps = 0  # optimizer steps of the generator, for the warm-up of the EMA
        self.weights = config.all_weights
        self.non_finite_examples: list[str] = []  # of this rank, in the last step
        # Without accumulation, the generator's graph is kept for both updates. With it, memory counts: the
        # output is computed again. The same on all ranks, since it determines the order of collectives.
        self._accumulates = -(-config.batch_size // context.world_size) > config.micro_batch
        discriminator.eval()  # spectral norms are updated explicitly, once a step
        configure_training_layers(generator, recompute=config.recompute, compiled=config.compile)
        self._parallel_generator = context.wrap_ddp(generator)
        self._parallel_discriminator = context.wrap_ddp(discriminator)
        self.generator_optimizer = torch.optim.AdamW(
            generator.parameters(),
            lr=config.generator_learning_rate,
            betas=config.generator_betas,
            weight_decay=config.weight_decay,
        )
        self.discriminator_optimizer = torch.optim.AdamW(
            discriminator.parameters(),
            lr=config.discriminator_learning_rate,
            betas=config.discriminator_betas,
            weight_decay=config.weight_decay,
        )

    def step(
        self, batches: Sequence[Batch], *, epoch: int, discriminator_only: bool = False
    ) -> dict[str, float]:
        """Take one optimizer step.

        Args:
            batches: Micro-batches of this rank, at least one, on the device; over all ranks they hold the
                config's `batch_size` examples.
            epoch: From 0; determines the learning rates.
            discriminator_only: Update only the discriminator.

        Returns:
            Means over the examples of all ranks: the losses by their names in the weight table,
            `d/margin/<window>` (mean of D(real) - D(fake)), `norm/generator` and `norm/discriminator`
            (gradient norms before clipping), and `step/skipped`: 1 if a loss or gradient was non-finite on
            any rank. Then that update and the following one are skipped on all ranks; a discriminator update
            before it, from finite losses, stands.
        """
        self._set_learning_rates(epoch)
        statistics = _StepStatistics(self.context, self.config.batch_size)
        pairs = self._discriminator_step(batches, statistics, discriminator_only=discriminator_only)
        updated = pairs is not None
        if pairs is not None and not discriminator_only:
            updated = self._generator_step(batches, pairs, statistics)
        self.non_finite_examples = statistics.non_finite_examples()
        return statistics.reduce(skipped=not updated)

    def _discriminator_step(
        self, batches: Sequence[Batch], statistics: "_StepStatistics", *, discriminator_only: bool
    ) -> "list[_Pair | None] | None":
        """Update the discriminator; return pairs to reuse in the generator's update, None if skipped."""
        self.discriminator.update_spectral_norms()
        pairs: list[_Pair | None] = []
        keep_graph = not self._accumulates and not discriminator_only
        for batch, is_last in _with_is_last(batches):
            model = self._parallel_generator if keep_graph else self.generator
            with torch.set_grad_enabled(keep_graph), self._autocast():
                estimate = model(batch.degraded).float()
            clean, restored = Spectra(batch.clean), Spectra(estimate)
            pairs.append((clean, restored) if keep_graph else None)
            both = concatenate(clean, restored.detach())
            with no_sync(self._parallel_discriminator, not is_last):
                with self._discriminator_context():
                    real, fake = _split_real_fake(self._parallel_discriminator(both))
                losses = discriminator_losses(real=real, fake=fake)
                (self._weighted_sum(losses) * self._micro_batch_scale(batch)).backward()
            margins = _margins(self.discriminator, real, fake)
            statistics.add(batch, losses | margins)
        updated = self._clip_and_step(
            "discriminator", self.discriminator, self.discriminator_optimizer, statistics
        )
        return pairs if updated else None

    def _generator_step(
        self, batches: Sequence[Batch], pairs: "Sequence[_Pair | None]", statistics: "_StepStatistics"
    ) -> bool:
        """Update the generator against the updated discriminator; return False if skipped."""
        with _frozen(self.discriminator):
            for (batch, is_last), pair in zip(_with_is_last(batches), pairs, strict=True):
                with no_sync(self._parallel_generator, not is_last):
                    if pair is None:
                        with self._autocast():
                            estimate = self._parallel_generator(batch.degraded).float()
                        pair = Spectra(batch.clean), Spectra(estimate)
                    clean, restored = pair
                    with self._discriminator_context():
                        with torch.no_grad():
                            real = self.discriminator(clean)
                        fake = self.discriminator(restored)
                    losses = generator_losses(
                        estimate=restored,
                        reference=clean,
                        real=real,
                        fake=fake,
                        weights=self.weights,
                        cutoff_hz=self.config.cutoff_hz,
                        sample_rate=self.generator.config.sample_rate,
                    )
                    (self._weighted_sum(losses) * self._micro_batch_scale(batch)).backward()
                statistics.add(batch, losses)
        updated = self._clip_and_step("generator", self.generator, self.generator_optimizer, statistics)
        if updated:
            self.generator_steps += 1
            self._update_ema()
        return updated

    def _clip_and_step(
        self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, statistics: "_StepStatistics"
    ) -> bool:
        """Clip gradients and step; return False, without a step, if any rank has non-finite values."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.clip_norm)
        statistics.norms[f"norm/{name}"] = float(norm)
        finite = math.isfinite(float(norm)) and not statistics.non_finite_examples()
        finite = not self.context.any_rank(not finite)
        if finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return finite

    def _weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _micro_batch_scale(self, batch: Batch) -> float:
        """Return the factor on a micro-batch's mean that makes DDP's mean the mean over all examples."""
        return len(batch) * self.context.world_size / self.config.batch_size

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(
            self.context.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        )

    @contextmanager
    def _discriminator_context(self) -> Iterator[None]:
        """Autocast with normalized weights computed once, in float32."""
        with parametrize.cached():
            self.discriminator.compute_weights()
            with self._autocast():
                yield

    def _set_learning_rates(self, epoch: int) -> None:
        scale = self.config.learning_rate_scale(epoch)
        for optimizer, rate in (
            (self.generator_optimizer, self.config.generator_learning_rate),
            (self.discriminator_optimizer, self.config.discriminator_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Update the moving average; its decay rises over the first steps, so initial weights fade fast."""
        steps = self.generator_steps
        decay = min(self.config.ema_decay, (1 + steps) / (_EMA_WARMUP + steps))
        averaged, current = self.ema_generator.parameters(), self.generator.parameters()
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)


class _StepStatistics:
    """Sums of one step's losses, reduced over ranks once at the end."""

    def __init__(self, context: DistributedContext, examples: int) -> None:
        self._context, self._examples = context, examples
        self._sums: dict[str, Tensor] = {}
        self._finite: list[tuple[Tensor, list[str]]] = []
        self.norms: dict[str, float] = {}

    def add(self, batch: Batch, values: dict[str, Tensor]) -> None:
        """Add the means of a micro-batch, without device synchronization."""
        self._finite.append(
            (torch.isfinite(torch.stack([value.detach() for value in values.values()])).all(), batch.names)
        )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double() * len(batch)

    def non_finite_examples(self) -> list[str]:
        """Return the names of this rank's examples in micro-batches with a non-finite value so far."""
        flags = torch.stack([flag for flag, _ in self._finite]).tolist()
        found = [
            name
            for finite, (_, names) in zip(flags, self._finite, strict=True)
            if not finite
            for name in names
        ]
        return list(dict.fromkeys(found))

    def reduce(self, *, skipped: bool) -> dict[str, float]:
        """Return the means over the examples of all ranks."""
        sums = self._context.all_reduce(torch.stack(list(self._sums.values())))
        means = dict(zip(self._sums, (sums / self._examples).tolist(), strict=True))
        return {**means, **self.norms, SKIPPED: float(skipped)}


def _with_is_last(batches: Sequence[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield (micro-batch, is_last): gradients are all-reduced in the last backward pass only."""
    return ((batch, number == len(batches)) for number, batch in enumerate(batches, 1))


def _split_real_fake(
    outputs: Sequence[DiscriminatorOutput],
) -> tuple[list[DiscriminatorOutput], list[DiscriminatorOutput]]:
    """Split outputs for a batch of real examples followed by fake ones."""
    parts = [(one.logits.chunk(2), [features.chunk(2) for features in one.features]) for one in outputs]
    real, fake = (
        [DiscriminatorOutput(logits[half], [pair[half] for pair in features]) for logits, features in parts]
        for half in (0, 1)
    )
    return real, fake


def _margins(
    discriminator: Discriminator, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> dict[str, Tensor]:
    """Return mean D(real) - mean D(fake) by window."""
    return {
        f"d/margin/{window}": (one.logits.detach().float().mean() - other.logits.detach().float().mean())
        for window, one, other in zip(discriminator.config.windows, real, fake, strict=True)
    }


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Disable gradients of a module's parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
