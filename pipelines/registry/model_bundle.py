"""A generator as plain arrays, to send to nodes that do not see the checkpoint's disk."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ModelBundle:
    """A generator's configuration and weights.

    Args:
        config: As `GeneratorConfig.to_dict` gives it.
        weights: Arrays by name.
        digest: SHA-256 over both, hexadecimal.
    """

    config: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    digest: str


def pack(generator: Any) -> ModelBundle:
    """Copy the configuration and weights of a generator."""
    config = generator.config.to_dict()
    weights = {name: value.detach().cpu().numpy() for name, value in generator.state_dict().items()}
    hashed = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, value in sorted(weights.items()):
        hashed.update(f"{name} {value.dtype} {value.shape}".encode())
        hashed.update(np.ascontiguousarray(value).tobytes())
    return ModelBundle(config, weights, hashed.hexdigest())


def unpack(bundle: ModelBundle) -> Any:
    """Build the generator of a bundle, in evaluation mode: float32, on the CPU."""
    import torch

    from apollo.model.config import GeneratorConfig
    from apollo.model.generator import Generator

    generator = Generator(GeneratorConfig.from_dict(bundle.config))
    generator.load_state_dict({name: torch.tensor(value) for name, value in bundle.weights.items()})
    return generator.eval()
