"""Configuration of a training job."""

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.training.config import FitConfig, GanConfig
from pipelines.cluster.resources import WorkersConfig
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.registry.registry import RegistryConfig
from pipelines.runtime.run import absolute_location
from pipelines.schema import CHANNELS, SAMPLE_RATE
from pipelines.storage.folder import is_uri
from pipelines.tracking.run import TrackingConfig

logger = logging.getLogger(__name__)

INIT = "init"  # copy of the checkpoint that a run started from, below its output


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Args:
        shards: Output of preprocess: path or URI.
        output: Folder of the run, on a disk that all nodes share, or a URI that checkpoints are uploaded to.
        init: Checkpoint to start from: a checkpoint folder, a published or community file, a Hugging Face
            name. Its network configurations replace `generator` and, if it has one, `discriminator`.
        init_noise_limit: Another limit of the noise than that of `init`.
        init_layers: More blocks than those of `init`; they change nothing before they are trained.
        source: `shards`, or `live`: new mixes in every epoch, rendered on the cluster's free CPUs.
        live_actors: Number of actors that render them.
        live_cache: Folder of the decoded sources, if preprocess was given one.
        generator: Network configuration.
        discriminator: Network configuration.
        gan: GAN step.
        fit: Training loop.
        loader: Data loading.
        listening_examples: Validation examples that are scored by ViSQOL and logged as audio; 0 for none.
        heard_examples: Former name of `listening_examples`.
        visqol: Whether ViSQOL is measured.
        workers: Processes and their resources.
        tracking: MLflow.
        registry: Registration of the best weights when training ends.
        history: Whether to write every step's losses and examples to history-<rank>.jsonl in `folder`; the
            host then waits for the device in every step.
        scratch: Local folder of each node for an output at a URI; unset takes one in the temporary folder.
    """

    shards: str
    output: str
    init: str | None = None
    init_noise_limit: float | None = None
    init_layers: int | None = None
    source: Literal["shards", "live"] = "shards"
    live_actors: int = 8
    live_cache: str = ""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    listening_examples: int = 6
    heard_examples: int | None = None
    visqol: bool = True
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    history: bool = False
    scratch: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", absolute_location(self.shards, "--shards"))
        object.__setattr__(self, "output", absolute_location(self.output, "--output"))
        if self.heard_examples is not None:
            logger.warning("--heard_examples is deprecated: use --listening_examples")
            object.__setattr__(self, "listening_examples", self.heard_examples)
            object.__setattr__(self, "heard_examples", None)  # replace() must not apply it again
        if self.gan.batch_size < self.workers.count:
            raise UsageError(
                f"gan.batch_size is {self.gan.batch_size} for {self.workers.count} workers: every worker "
                "needs an example of each step. Use a larger --gan.batch_size or fewer --workers.count"
            )
        if self.fit.epoch_examples < self.gan.batch_size:
            raise UsageError(
                f"fit.epoch_examples is {self.fit.epoch_examples}, gan.batch_size {self.gan.batch_size}: an "
                "epoch needs a step"
            )
        if self.generator.sample_rate != SAMPLE_RATE:
            raise UsageError(f"shards are {SAMPLE_RATE} Hz: leave generator.sample_rate so")
        channels = 1 if self.loader.levels.channels == "mono" else CHANNELS
        if self.gan.has_adversarial_loss and self.discriminator.channels != channels:
            raise UsageError(
                f"discriminator.channels is {self.discriminator.channels}: it must be {channels}, since "
                f"loader.levels.channels is {self.loader.levels.channels}"
            )
        if self.gan.cutoff_hz > SAMPLE_RATE / 2:
            raise UsageError(f"gan.cutoff_hz is {self.gan.cutoff_hz}: it must be at most {SAMPLE_RATE / 2:g}")
        if self.listening_examples < 0 or self.live_actors < 1:
            raise UsageError("listening_examples must be 0 or more, live_actors 1 or more")

    @property
    def folder(self) -> Path:
        """Folder of this node: the output itself, or for a URI a local folder (`checkpoint_sync`)."""
        if not is_uri(self.output):
            return Path(self.output)
        # settings may change on resume, the output may not; a folder of a deleted run: `checkpoint_sync`
        name = hashlib.sha256(self.output.encode()).hexdigest()[:16]
        return Path(self.scratch or Path(tempfile.gettempdir(), f"apollo-{os.getuid()}"), name)
