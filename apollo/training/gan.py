"""One step of the GAN, in the paper's order: the discriminator first, then the generator against it.

Source: Li and Luo (2024), section II-D and III. Unlike the published code, nothing is computed twice: both
updates share the generator's output, real and fake examples are one batch in the discriminator's update,
every signal is transformed once per window (with gradient accumulation: once per update), and the generator's
update keeps no graph of the reference.

Losses are means over examples: splitting a batch over ranks and micro-batches changes only rounding.

Shape legend: samples [examples, channels, samples].
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from apollo.model.config import DiscriminatorConfig
from apollo.model.device import warn_if_bfloat16_is_emulated
from apollo.model.generator import Generator
from apollo.training.conditional_step import StepCount, step_if, update_average
from apollo.training.config import GanConfig
from apollo.training.data import Batch
from apollo.training.discriminator import Discriminator, DiscriminatorOutput, mean_margins, split_real_fake
from apollo.training.distributed import DistributedContext, no_sync
from apollo.training.fused_layers import configure_training_layers
from apollo.training.generator_forward import Generated, GeneratorForward, prepare
from apollo.training.losses import SAMPLE_LOSSES, discriminator_losses, generator_losses
from apollo.training.optimizers import make_generator_optimizer
from apollo.training.spectra import concatenate
from apollo.training.spectral_losses import SPECTRAL_LOSSES, check_weights, spectral_losses
from apollo.training.step_statistics import StepResult, StepStatistics
from apollo.training.trained_discriminator import TrainedDiscriminator, build_discriminator


class Gan:
    """Generator, discriminator, their optimizers, and the exponential moving average (EMA) of the generator.

    Args:
        generator: Network to train, on its device.
        discriminator: Network to train, on the same device; or its configuration, to build it in the first
            step that has one.
        config: Losses, optimizers and batches.
        context: Device and processes of the run.
        seed: Seed of the initial weights of a discriminator that is built later.

    Raises:
        ValueError: a loss is of noise, which the generator's output does not have.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | DiscriminatorConfig,
        config: GanConfig,
        context: DistributedContext,
        *,
        seed: int = 0,
    ) -> None:
        check_weights(config.all_weights, generator.config)
        if config.precision == "bfloat16" and context.rank == 0:
            warn_if_bfloat16_is_emulated(context.device)
        self.generator, self.config, self.context = generator, config, context
        self.ema_generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self._steps, self._is_warmed_up = StepCount(context.device), config.warmup_steps == 0
        self.weights = config.all_weights
        # Without accumulation, the generator's graph is kept for both updates. With it, memory counts: the
        # output is computed again. The same on all ranks, since it determines the order of collectives.
        self._accumulates = -(-config.batch_size // context.world_size) > config.micro_batch
        self._needs_spectra = any(self.weights[name] for name in SPECTRAL_LOSSES)
        self._needs_samples = any(self.weights[name] for name in SAMPLE_LOSSES)
        configure_training_layers(generator, recompute=config.recompute, compiled=config.compile)
        self._forward = GeneratorForward(generator)
        self._parallel_generator = context.wrap_ddp(self._forward)
        self.generator_optimizer = make_generator_optimizer(generator, config)
        self._initial_rates = [group["lr"] for group in self.generator_optimizer.param_groups]
        self._seed, self._trained_discriminator = seed, None
        if isinstance(discriminator, DiscriminatorConfig):
            self._discriminator_config = discriminator
        else:
            self._discriminator_config = discriminator.config
            self._trained_discriminator = TrainedDiscriminator(discriminator, config, context)

    @property
    def generator_steps(self) -> int:
        """Optimizer steps of the generator, without those that were skipped; read from the device."""
        return self._steps.read()

    @generator_steps.setter
    def generator_steps(self, steps: int) -> None:
        self._steps.set(steps)
        self._is_warmed_up = self.config.warmup_steps == 0

    @property
    def has_discriminator(self) -> bool:
        """Whether the discriminator has been built."""
        return self._trained_discriminator is not None

    @property
    def discriminator(self) -> Discriminator:
        """The discriminator; built on first access."""
        return self._discriminator_state.network

    @property
    def discriminator_optimizer(self) -> torch.optim.Optimizer:
        """Its optimizer."""
        return self._discriminator_state.optimizer

    @property
    def _discriminator_state(self) -> TrainedDiscriminator:
        if self._trained_discriminator is None:
            network = build_discriminator(self._discriminator_config, self.context, self._seed)
            self._trained_discriminator = TrainedDiscriminator(network, self.config, self.context)
        return self._trained_discriminator

    def step(
        self, batches: Sequence[Batch], *, epoch: int, step: int = 0, discriminator_only: bool = False
    ) -> StepResult:
        """Update the discriminator, if the step has one, then the generator.

        The host does not wait for the device, except while the learning rates rise (`warmup_steps`), since
        they depend on how many steps were skipped.

        Args:
            batches: Micro-batches of this rank, at least one, on the device; over all ranks they hold the
                config's `batch_size` examples.
            epoch: From 0; determines the learning rates.
            step: From 0; determines the learning rates, the noise, and whether there is a discriminator.
            discriminator_only: Update only the discriminator.

        Returns:
            Means over the examples of all ranks, read from the device upon first access: the losses by their
            names in the weight table, `d/margin/<window>` (mean of D(real) - D(fake)), `norm/generator` and
            `norm/discriminator` (gradient norms before clipping), of the networks that the step updates, and
            `step/skipped`: 1 if a loss or gradient was non-finite on any rank. Then that update and the next
            are skipped on all ranks; a discriminator update before it, from finite losses, stands.
        """
        statistics = StepStatistics(self.context, self.config.batch_size)
        adversarial = self.config.is_adversarial(step) or discriminator_only
        self._set_learning_rates(epoch, step, adversarial=adversarial)
        generated: list[Generated | None] = [None] * len(batches)
        if adversarial:
            generated = self._discriminator_step(
                batches, step, statistics, discriminator_only=discriminator_only
            )
        if not discriminator_only:
            self._generator_step(batches, step, generated, statistics, adversarial=adversarial)
        return statistics.result()

    def _generate(
        self, model: nn.Module, batch: Batch, step: int, *, with_samples: bool, with_parts: bool
    ) -> Generated:
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.context.device.type, torch.bfloat16, enabled=bfloat16):
            output = model(batch.degraded, seed=step, with_samples=with_samples, with_parts=with_parts)
        return prepare(
            output,
            batch,
            self.generator,
            with_degraded=self._discriminator_config.is_conditional,
            with_consistent=self.weights["g/consistency"] > 0,
        )

    def _discriminator_step(
        self, batches: Sequence[Batch], step: int, statistics: StepStatistics, *, discriminator_only: bool
    ) -> list[Generated | None]:
        """Update the discriminator; return outputs to reuse in the generator's update."""
        part = self._discriminator_state
        part.network.update_spectral_norms()
        outputs: list[Generated | None] = []
        keep_graph = not self._accumulates and not discriminator_only
        for batch, is_last in _mark_last(batches):
            model = self._parallel_generator if keep_graph else self._forward
            with torch.set_grad_enabled(keep_graph):
                parts = keep_graph and self._needs_spectra
                generated = self._generate(model, batch, step, with_samples=True, with_parts=parts)
            outputs.append(generated if keep_graph else None)
            clean, restored = generated.samples
            both = concatenate(clean, restored.detach())
            with no_sync(part.parallel, not is_last):
                with part.computing():
                    real, fake = split_real_fake(part.parallel(both, generated.degraded_twice))
                losses = discriminator_losses(
                    real=real, fake=fake, adversarial=self.config.adversarial_loss
                ) | part.penalties(generated, batch.names, self._seed, step)
                (self._weighted_sum(losses) * self._micro_batch_scale(batch)).backward()
            statistics.add(batch, losses | mean_margins(part.network, real, fake))
        self._clip_and_step("discriminator", part.network, part.optimizer, statistics)
        return outputs

    def _generator_step(
        self,
        batches: Sequence[Batch],
        step: int,
        outputs: Sequence[Generated | None],
        statistics: StepStatistics,
        *,
        adversarial: bool,
    ) -> None:
        """Update the generator, against the discriminator if there is one, and its moving average."""
        with _frozen(self.discriminator if adversarial else None):
            for (batch, is_last), output in zip(_mark_last(batches), outputs, strict=True):
                with no_sync(self._parallel_generator, not is_last):
                    generated = output or self._generate(
                        self._parallel_generator,
                        batch,
                        step,
                        with_samples=adversarial or self._needs_samples,
                        with_parts=self._needs_spectra,
                    )
                    losses = self._generator_losses(generated, adversarial=adversarial)
                    total = self._weighted_sum(losses) + generated.zero_for_ddp
                    (total * self._micro_batch_scale(batch)).backward()
                statistics.add(batch, losses)
        finite = self._clip_and_step("generator", self.generator, self.generator_optimizer, statistics)
        self._steps.add(finite)
        update_average(
            self.ema_generator.parameters(),
            self.generator.parameters(),
            condition=finite,
            steps=self._steps.value,
            limit=self.config.ema_decay,
        )

    def _generator_losses(self, generated: Generated, *, adversarial: bool) -> dict[str, Tensor]:
        real: list[DiscriminatorOutput] = []
        fake: list[DiscriminatorOutput] = []
        if adversarial:
            with self._discriminator_state.computing():
                with torch.no_grad():
                    real = self.discriminator(generated.samples[0], generated.degraded)
                fake = self.discriminator(generated.samples[1], generated.degraded)
        losses: dict[str, Tensor] = {}
        if generated.restored is not None:
            losses |= generator_losses(
                estimate=generated.restored,
                reference=generated.samples[0],
                real=real,
                fake=fake,
                weights=self.weights,
                adversarial=self.config.adversarial_loss,
                cutoff_hz=self.config.cutoff_hz,
                sample_rate=self.generator.config.sample_rate,
            )
        if generated.spectral is not None:
            losses |= spectral_losses(generated.spectral, self.weights, self.generator.config)
        return losses

    def _clip_and_step(
        self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, statistics: StepStatistics
    ) -> Tensor:
        """Clip gradients and step, unless any rank has non-finite values; return whether it stepped."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.clip_norm)
        finite = statistics.end_update(name, norm)
        step_if(finite, optimizer)
        optimizer.zero_grad(set_to_none=True)
        return finite

    def _weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _micro_batch_scale(self, batch: Batch) -> float:
        """Return the factor on a micro-batch's mean that makes DDP's mean the mean over all examples."""
        return len(batch) * self.context.world_size / self.config.batch_size

    def _set_learning_rates(self, epoch: int, step: int, *, adversarial: bool) -> None:
        scale = self.config.learning_rate_scale(epoch, step)
        warmup = 1.0 if self._is_warmed_up else self.config.warmup_scale(self.generator_steps)
        self._is_warmed_up = warmup == 1.0
        for group, rate in zip(self.generator_optimizer.param_groups, self._initial_rates, strict=True):
            group["lr"] = rate * scale * warmup
        if adversarial:
            for group in self.discriminator_optimizer.param_groups:
                group["lr"] = self.config.discriminator_learning_rate * scale


def _mark_last(batches: Sequence[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield (micro-batch, is_last): gradients are all-reduced in the last backward pass only."""
    return ((batch, number == len(batches)) for number, batch in enumerate(batches, 1))


@contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
    """Disable gradients of a module's parameters."""
    if module is not None:
        module.requires_grad_(False)
    try:
        yield
    finally:
        if module is not None:
            module.requires_grad_(True)
