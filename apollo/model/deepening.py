"""Further layers for a trained generator."""

from dataclasses import replace
from typing import cast

from torch import nn

from apollo.model.frame_convolution import FrameBlock, FrameConvolutionTrunk
from apollo.model.generator import Generator


def add_layers(generator: Generator, layers: int) -> Generator:
    """Return a copy with more blocks; the new ones have scale 0, so it computes the same until it is trained.

    Args:
        generator: Generator with the trunk `frame_convolution`.
        layers: Number of blocks of the copy.

    Raises:
        ValueError: another trunk, or fewer layers than now.
    """
    config = generator.config
    if config.trunk != "frame_convolution" or layers < config.layers:
        raise ValueError(
            f"{config.trunk} of {config.layers} layers cannot become one of {layers}: layers are added to "
            "frame_convolution alone, and none is removed"
        )
    deeper = Generator(replace(config, layers=layers))
    deeper.load_state_dict(generator.state_dict(), strict=False)
    for block in cast(FrameConvolutionTrunk, deeper.trunk).blocks[config.layers :]:
        nn.init.zeros_(cast(FrameBlock, block).scale)
    return deeper.to(generator.device).train(generator.training)
