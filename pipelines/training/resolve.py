"""Checks before a training starts: network shapes, fingerprint, what the output already holds."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.training.augmentation import OLD_MODES
from apollo.training.config import RESUMABLE_FIT_OVERRIDES, RESUMABLE_GAN_OVERRIDES, GanConfig
from pipelines.cluster.connection import check_cluster
from pipelines.errors import UsageError
from pipelines.runtime.outcome import Exit, Outcome, read_finished
from pipelines.runtime.run import check_fingerprint
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking import run as tracking
from pipelines.tracking.uri import resolve_uri
from pipelines.training.checkpoint_sync import CheckpointSync
from pipelines.training.config import INIT, TrainConfig

_FREE = {  # may change from one start to the next: what is learned stays the same, but for rounding
    "gan": RESUMABLE_GAN_OVERRIDES,
    "fit": RESUMABLE_FIT_OVERRIDES,
    "loader": ("look_ahead", "decode_threads", "fetch_threads", "max_corrupt_share"),
}


@dataclass(frozen=True, kw_only=True)
class ResolvedTraining:
    """A training that was checked against its data and its output.

    Args:
        config: The configuration, with the network shapes of `init`.
        fingerprint: What decides the result; written to the output.
        tracking_uri: Tracking server or database, which is the registry too.
        finished: Outcome of an earlier run that got as far as this one would.
    """

    config: TrainConfig
    fingerprint: dict[str, Any]
    tracking_uri: str
    finished: Outcome | None

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the MLflow run and of the registered version."""
        content = json.dumps(self.fingerprint, sort_keys=True).encode()
        return {
            "git_commit": tracking.git_commit(),
            "config_hash": hashlib.sha256(content).hexdigest()[:16],
            "data_fingerprint": self.fingerprint["data"]["train"],
        }


def resolve(config: TrainConfig) -> ResolvedTraining:
    """Check a configuration against data and output, and claim the output for it.

    Raises:
        UsageError: the output was created with a different configuration, its metrics have no place, or no
            cluster answers at RAY_ADDRESS.
        ValueError: shards, checkpoint or shapes do not fit.
    """
    check_cluster()
    sync = CheckpointSync(config.output, config.folder) if is_uri(config.output) else None
    if sync:
        _check_tracking(config)
        sync.pull_initial()
    if config.init is not None:
        config = replace(config, **_init_shapes(config))
    tracking_uri = resolve_uri(config.tracking.uri, config.output)
    output, fingerprint = Folder(config.output), _fingerprint(config)
    check_fingerprint(output, fingerprint, upgrade=_upgrade_fingerprint)
    if sync:
        sync.bind_to_run()
    return ResolvedTraining(
        config=config,
        fingerprint=fingerprint,
        tracking_uri=tracking_uri,
        finished=_finished(config, output),
    )


def _upgrade_fingerprint(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored fingerprint with what an earlier release named differently or did not have."""
    loader = stored.get("loader", {})
    levels = loader.get("levels", {})
    mode = levels.get("mode")
    drawn = {
        "piece_seconds": 0.0,
        "below_source_bitrate": False,
        "degradation_weights": {},
        "first_degradation_weights": {},
        "weights_change_examples": 0,
        **loader,
    }
    drawn["levels"] = {
        "channels": "stereo",
        "tilt_db": [0.0, 0.0],
        "low_pass_share": 0.0,
        **levels,
        "mode": OLD_MODES.get(mode, mode),
    }
    upgraded = {**stored, "loader": drawn}
    for name, config in (
        ("generator", GeneratorConfig()),
        ("discriminator", DiscriminatorConfig()),
        ("gan", GanConfig()),
    ):
        defaults = {key: value for key, value in asdict(config).items() if key not in _FREE.get(name, ())}
        if name in stored:
            upgraded[name] = {**defaults, **stored[name]}
    return upgraded


def _check_tracking(config: TrainConfig) -> None:
    """Refuse to keep MLflow's database in a local folder that may be lost with its machine."""
    if not config.tracking.uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UsageError(
            f"--output {config.output!r} is not on a disk, so MLflow's database cannot lie in it: name a "
            "server, --tracking.uri http://that-machine:5000 or MLFLOW_TRACKING_URI; or a file of this "
            "machine, --tracking.uri sqlite:////absolute/path/mlflow.db"
        )


def _init_shapes(config: TrainConfig) -> dict[str, Any]:
    """Read the network configurations of the checkpoint that the run starts from."""
    from apollo.checkpoints import checkpoint

    copy = config.folder / INIT
    source = copy if copy.exists() else checkpoint.locate(str(config.init))
    generator = checkpoint.load(source).config
    if config.init_noise_limit is not None:
        generator = replace(generator, noise_limit=config.init_noise_limit)
    if config.init_layers is not None:
        generator = replace(generator, layers=config.init_layers)
    shapes: dict[str, Any] = {"generator": generator}
    discriminator = checkpoint.describe(source).get("discriminator")
    if isinstance(discriminator, dict):
        shapes["discriminator"] = DiscriminatorConfig.from_dict(discriminator)
    return shapes


def _fingerprint(config: TrainConfig) -> dict[str, Any]:
    """Return all that decides the result, as plain JSON values."""
    import torch

    from pipelines.loading.shard_source import ShardSource, ValidationSource

    settings: dict[str, Any] = {
        name: {key: value for key, value in asdict(getattr(config, name)).items() if key not in free}
        for name, free in {**_FREE, "generator": (), "discriminator": ()}.items()
    }
    if config.source == "live":
        shards = Folder(config.shards)
        data = hashlib.sha256(shards.read("plan.json") + shards.read("sources.parquet")).hexdigest()
        settings["live_recipes"] = 2  # 1, or none: of the seed `seed + epoch`
    else:
        data = ShardSource(config.shards, config.loader, epoch_examples=config.fit.epoch_examples).fingerprint
    validation = ValidationSource(config.shards, config.loader, limit=config.fit.validation_examples)
    settings |= {
        "source": config.source,
        "init": config.init,
        "data": {"train": data, "valid": validation.fingerprint},
        "versions": {"torch": torch.__version__.partition("+")[0]},
    }
    return dict(json.loads(json.dumps(settings)))


def _finished(config: TrainConfig, output: Folder) -> Outcome | None:
    """Return the outcome of the output's last run if this run would not train further."""
    result = read_finished(output)
    try:
        steps = config.fit.epochs * (config.fit.epoch_examples // config.gan.batch_size)
        if result is None or result["status"] != "done":
            return None
        reached = result["step"] >= min(steps, config.fit.max_steps or steps)
        reached |= result["ending"] == "early" and result["patience_epochs"] >= config.fit.patience_epochs
        if not reached:
            return None
    except (KeyError, TypeError):
        return None
    facts = {name: value for name, value in result.items() if name not in ("status", "exit_code", "message")}
    prefix = f"{config.output} is finished already: "
    return Outcome(Exit.DONE, prefix + result["message"].removeprefix(prefix), facts)
