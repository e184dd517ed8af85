"""A discriminator in training: the network, its wrapper for several processes, its optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from apollo import rng
from apollo.model.config import DiscriminatorConfig
from apollo.training.config import GanConfig
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.generator_forward import Generated
from apollo.training.optimizers import make_adamw


class TrainedDiscriminator:
    """A discriminator with what its training needs.

    Args:
        network: On the context's device.
        config: Optimizer, precision and losses.
        context: Device and processes of the run.
    """

    def __init__(self, network: Discriminator, config: GanConfig, context: DistributedContext) -> None:
        self.network = network.eval()  # spectral norms are updated explicitly, once a step
        self.parallel = context.wrap_ddp(network)
        self.optimizer = make_adamw(
            network.parameters(),
            learning_rate=config.discriminator_learning_rate,
            betas=config.discriminator_betas,
            weight_decay=config.weight_decay,
        )
        self._config, self._context = config, context

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Autocast with normalized weights computed once, in float32."""
        with parametrize.cached():
            self.network.compute_weights()
            with torch.autocast(
                self._context.device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16"
            ):
                yield

    def penalties(self, generated: Generated, names: Sequence[str], *keys: rng.Key) -> dict[str, Tensor]:
        """Compute the gradient penalty of a micro-batch, if it has weight; always in float32.

        Args:
            generated: The micro-batch.
            names: Names of its examples, which with the keys determine how real and fake ones are mixed.
            keys: Seed and step.
        """
        if not self._config.all_weights["d/gradient_penalty"]:
            return {}
        clean, restored = generated.samples
        shares = [rng.uniform(0, *keys, "gradient penalty", name) for name in names]
        mix = torch.tensor(shares, dtype=clean.samples.dtype).to(self._context.device, non_blocking=True)
        penalty = self.network.gradient_penalty(clean, restored, generated.degraded, mix)
        return {"d/gradient_penalty": penalty}


def build_discriminator(config: DiscriminatorConfig, context: DistributedContext, seed: int) -> Discriminator:
    """Build a discriminator during training: the same weights on all ranks and after a resume."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Discriminator(config).to(context.device)
