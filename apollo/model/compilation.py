"""Compiling the generator's pointwise parts with torch.compile, where a compiler is there and time is worth
it.
"""

import warnings

import torch

from apollo.model.generator import Generator
from apollo.model.layers import BandAttention, TimeBlock


def compile_generator(generator: Generator, *, training: bool = False) -> bool:
    """Let a generator run compiled; without a compiler it stays as it is, and a warning says so.

    What is compiled are the parts without memory, so one compilation serves chunks of every length.

    Args:
        generator: At its precision, on its device; changed in place.
        training: Whether there will be backward passes.

    Returns:
        Whether it is compiled now.
    """
    mix_bands, feed_forward = generator.mix_bands, generator.feed_forward
    generator.mix_bands = torch.compile(BandAttention.forward, dynamic=False)
    generator.feed_forward = torch.compile(TimeBlock.feed_forward, dynamic=False)
    device = next(generator.parameters()).device
    try:
        probe = torch.zeros(1, generator.config.sample_rate, device=device)
        if training:
            torch.autograd.grad(generator(probe).sum(), list(generator.parameters()))
        else:
            with torch.inference_mode():
                generator(probe)
    except Exception as error:  # whatever the compiler is missing, eager works
        generator.mix_bands, generator.feed_forward = mix_bands, feed_forward
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"torch.compile does not work here, running eager: {reason}", stacklevel=2)
        return False
    return True
