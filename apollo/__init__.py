"""Apollo: restoration of lossy music (Li and Luo, 2024). Needs torch alone; the pipeline is in `pipelines`.

Names are imported on first use, so commands that need no torch start fast.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apollo.checkpoints.checkpoint import load as load
    from apollo.checkpoints.checkpoint import save as save
    from apollo.checkpoints.container import CheckpointError as CheckpointError
    from apollo.inference.restoration import restore as restore
    from apollo.inference.streaming import StreamRestorer as StreamRestorer
    from apollo.model.config import PRESETS as PRESETS
    from apollo.model.config import DiscriminatorConfig as DiscriminatorConfig
    from apollo.model.config import GeneratorConfig as GeneratorConfig
    from apollo.model.generator import Generator as Generator
    from apollo.training.callbacks import Callbacks as Callbacks
    from apollo.training.config import FitConfig as FitConfig
    from apollo.training.config import GanConfig as GanConfig
    from apollo.training.discriminator import Discriminator as Discriminator
    from apollo.training.distributed import DistributedContext as DistributedContext
    from apollo.training.gan import Gan as Gan
    from apollo.training.loop import fit as fit

try:
    __version__ = version("apollo-restoration")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

_MODULES = {
    "CheckpointError": "checkpoints.container",
    "Discriminator": "training.discriminator",
    "DiscriminatorConfig": "model.config",
    "FitConfig": "training.config",
    "Gan": "training.gan",
    "GanConfig": "training.config",
    "Generator": "model.generator",
    "Callbacks": "training.callbacks",
    "fit": "training.loop",
    "DistributedContext": "training.distributed",
    "GeneratorConfig": "model.config",
    "PRESETS": "model.config",
    "StreamRestorer": "inference.streaming",
    "load": "checkpoints.checkpoint",
    "restore": "inference.restoration",
    "save": "checkpoints.checkpoint",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
