"""Apollo: restoration of lossy music (Li and Luo, 2024). Needs torch alone; the pipeline is in `pipelines`.

Names are imported when they are first used, so that commands which need no torch answer at once.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apollo.checkpoint import load as load
    from apollo.checkpoint import save as save
    from apollo.config import PRESETS as PRESETS
    from apollo.config import DiscriminatorConfig as DiscriminatorConfig
    from apollo.config import GeneratorConfig as GeneratorConfig
    from apollo.discriminator import Discriminator as Discriminator
    from apollo.gan import Gan as Gan
    from apollo.generator import Generator as Generator
    from apollo.hooks import Hooks as Hooks
    from apollo.loop import fit as fit
    from apollo.published import CheckpointError as CheckpointError
    from apollo.restoration import restore as restore
    from apollo.streaming import StreamRestorer as StreamRestorer
    from apollo.training import FitConfig as FitConfig
    from apollo.training import GanConfig as GanConfig
    from apollo.world import World as World

try:
    __version__ = version("apollo-restoration")
except PackageNotFoundError:  # run from a checkout that nobody installed
    __version__ = "0+unknown"

_HOMES = {
    "CheckpointError": "published",
    "Discriminator": "discriminator",
    "DiscriminatorConfig": "config",
    "FitConfig": "training",
    "Gan": "gan",
    "GanConfig": "training",
    "Generator": "generator",
    "Hooks": "hooks",
    "fit": "loop",
    "World": "world",
    "GeneratorConfig": "config",
    "PRESETS": "config",
    "StreamRestorer": "streaming",
    "load": "checkpoint",
    "restore": "restoration",
    "save": "checkpoint",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
