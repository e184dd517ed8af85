"""What the generator needs of a trunk, and the trunks by name (`apollo.model.config.TRUNKS`).

Shape legend: spectrum [batch, frames, bins], complex64.
"""

from importlib import import_module
from typing import Any, Protocol, cast

from torch import Tensor, nn

from apollo.model.config import TRUNKS, GeneratorConfig
from apollo.model.noise import NoiseOptions

_BAND_SEQUENCE_KEYS = ("split.", "layers.", "merge.")  # of weights saved before there were other trunks


class Trunk(Protocol):
    """Predicts from a spectrum what the output is made of, a chunk of frames at a time.

    It is a `torch.nn.Module` with these attributes, created from a `GeneratorConfig`.

    Attributes:
        normalizes_level: Whether it needs the spectrum divided by its level.
        has_noise: Whether what it predicts is stochastic.
        lookahead_frames: Frames after a frame that it depends on.
        past_frames: Frames before a frame that it depends on.
        features_per_frame: Numbers that a frame takes in its widest layer.
    """

    normalizes_level: bool
    has_noise: bool

    @property
    def lookahead_frames(self) -> int: ...  # noqa: D102

    @property
    def past_frames(self) -> int: ...  # noqa: D102

    @property
    def features_per_frame(self) -> int: ...  # noqa: D102

    def initial_state(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first chunk of a spectrum like this one."""
        ...

    def __call__(
        self,
        spectrum: Tensor,
        state: tuple[Tensor, ...],
        *,
        final: bool,
        noise: NoiseOptions,
        first_frame: int,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames.

        Args:
            spectrum: [batch, frames, bins]; frames may be 0.
            state: What the last chunk returned.
            final: Whether no frames follow.
            noise: Strength and seed of noise.
            first_frame: Index of the first frame of the spectrum.

        Returns:
            Complex numbers [batch, frames out, bins]; for outputs of `apollo.model.outputs` that need one, a
            real number for each of them, else None; and the next state. Without `final` there are up to
            `lookahead_frames` fewer frames in all than came in.
        """
        ...


def build_trunk(config: GeneratorConfig) -> Trunk:
    """Create the trunk that a configuration names."""
    module, _, name = TRUNKS[config.trunk].partition(":")
    return cast(Trunk, getattr(import_module(module), name)(config))


def add_trunk_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Accept weights that were saved before there were other trunks."""
    for key in [key for key in state if key.startswith(tuple(prefix + old for old in _BAND_SEQUENCE_KEYS))]:
        state[f"{prefix}trunk.{key.removeprefix(prefix)}"] = state.pop(key)
