"""Compile the generator's frame-wise layers with torch.compile."""

import warnings

import torch

from apollo.model.band_sequence import BandSequenceTrunk
from apollo.model.generator import Generator
from apollo.model.layers import BandAttention, TimeBlock


def compile_generator(generator: Generator, *, training: bool = False) -> bool:
    """Compile a generator in place; if torch.compile fails here, warn and leave it as it is.

    Only layers without state are compiled. A compilation is for one number of frames: on a GPU, and in
    training, every other length of input compiles again, and after `torch._dynamo.config.recompile_limit` of
    them (8) torch runs the rest in eager mode: cut input into equal lengths. Inference on a CPU takes slices
    of few frames, equal but for each chunk's last.

    Args:
        generator: Network at its final precision, on its device.
        training: Whether to compile backward passes too.

    Returns:
        True if it is compiled now.
    """
    trunk = generator.trunk
    if not isinstance(trunk, BandSequenceTrunk):
        return False  # so small that compiling it does not pay
    mix_bands, feed_forward = trunk.mix_bands, trunk.feed_forward
    trunk.mix_bands = torch.compile(BandAttention.forward, dynamic=False)
    trunk.feed_forward = torch.compile(TimeBlock.feed_forward, dynamic=False)
    device = generator.device
    try:
        probe = torch.zeros(1, generator.config.sample_rate, device=device)
        if training:
            torch.autograd.grad(generator(probe).sum(), list(generator.parameters()))
        else:
            with torch.inference_mode():
                generator(probe)
    except Exception as error:  # eager mode works whatever the compiler lacks
        trunk.mix_bands, trunk.feed_forward = mix_bands, feed_forward
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"torch.compile does not work here, running in eager mode: {reason}", stacklevel=2)
        return False
    return True
