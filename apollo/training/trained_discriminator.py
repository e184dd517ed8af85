"""A discriminator in training: the network, its wrapper for several processes, its optimizer."""

import torch

from apollo.model.config import DiscriminatorConfig
from apollo.training.config import GanConfig
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.optimizers import make_adamw


class TrainedDiscriminator:
    """A discriminator with what its training needs.

    Args:
        network: On the context's device.
        config: Optimizer.
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


def build_discriminator(config: DiscriminatorConfig, context: DistributedContext, seed: int) -> Discriminator:
    """Build a discriminator during training: the same weights on all ranks and after a resume."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Discriminator(config).to(context.device)
