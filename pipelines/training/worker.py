"""Function of every training worker: build the networks and the data, run the loop."""

from dataclasses import asdict
from typing import Any

import torch

from apollo.checkpoints.checkpoint import WEIGHTS
from apollo.checkpoints.container import read_container
from apollo.model.config import DiscriminatorConfig
from apollo.model.generator import Generator
from apollo.training.config import NonFiniteError
from apollo.training.data import ExampleSource
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.loop import fit
from pipelines.cluster.connection import worker_device
from pipelines.cluster.coordinator import CoordinatorClient
from pipelines.dataset.bad_rows import CorruptDataError
from pipelines.loading.live_source import LiveSource
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.runtime import logs
from pipelines.storage.folder import is_uri
from pipelines.training.callbacks import RayCallbacks
from pipelines.training.checkpoint_sync import CheckpointSync
from pipelines.training.config import INIT, TrainConfig


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Train on this rank; called on all ranks.

    Args:
        settings: `config` (TrainConfig), `run` (tracking.Run), `log_level`, `coordinator`.

    Returns:
        Fields of `apollo.training.loop.FitResult`; empty after an error that is not retried.

    Raises:
        Exception: any error, since the other ranks wait for this one; those that a retry would meet again are
            reported to the driver first.
    """
    config: TrainConfig = settings["config"]
    coordinator = CoordinatorClient(settings["coordinator"])
    if coordinator.failure():
        return {}
    context = DistributedContext(worker_device())
    logs.forward(coordinator.log, rank=context.rank, level=settings["log_level"])
    if context.rank == 0:
        coordinator.start_heartbeat()
    sync = _checkpoint_sync(config, context)
    callbacks = RayCallbacks(config, settings["run"], coordinator, context, sync)
    try:
        validation = ValidationSource(
            config.shards, config.loader, limit=config.fit.validation_examples, on_reject=callbacks.log_reject
        )
        ending = fit(
            _build(config, context),
            _source(config, context, callbacks),
            config.fit,
            output=config.folder,
            validation=validation,
            callbacks=callbacks,
        )
        callbacks.finish()
    except (NonFiniteError, CorruptDataError, torch.OutOfMemoryError, ValueError) as error:
        coordinator.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        callbacks.close()
    return asdict(ending)


def _checkpoint_sync(config: TrainConfig, context: DistributedContext) -> CheckpointSync | None:
    """Upload what an earlier run could not, and download the output to this node, if it is at a URI.

    Rank 0 before the others: what it repairs in the store is there for them.
    """
    if not is_uri(config.output):
        return None
    sync = CheckpointSync(config.output, config.folder, context.rank)
    if context.rank == 0:
        sync.bind_to_run()
        sync.push_newer()
        sync.pull()
        sync.push_intact()
    context.barrier()
    if context.rank:
        sync.pull()
    context.barrier()
    return sync


def _build(config: TrainConfig, context: DistributedContext) -> Gan:
    torch.manual_seed(config.fit.seed)  # the same first weights on every rank
    generator = Generator(config.generator)
    states = {} if config.init is None else read_container(config.folder / INIT / WEIGHTS)
    if config.init is not None:
        generator.load_state_dict(states["generator"])
    discriminator: Discriminator | DiscriminatorConfig = config.discriminator
    trained = config.gan.has_adversarial_loss and "discriminator" in states
    if trained or config.gan.is_adversarial(0):
        discriminator = Discriminator(config.discriminator).to(context.device)
        if trained:
            discriminator.load_state_dict(states["discriminator"])
    return Gan(generator.to(context.device), discriminator, config.gan, context, seed=config.fit.seed)


def _source(config: TrainConfig, context: DistributedContext, callbacks: RayCallbacks) -> ExampleSource:
    settings: dict[str, Any] = {
        "epoch_examples": config.fit.epoch_examples,
        "seed": config.fit.seed,
        "on_reject": callbacks.log_reject,
    }
    if config.source == "live":
        actors = max(config.live_actors // context.world_size, 1)
        return LiveSource(config.shards, config.loader, actors=actors, cache=config.live_cache, **settings)
    return ShardSource(config.shards, config.loader, **settings)
