"""What tests of the model share."""

import pytest
import torch

from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator

# one thread for small networks: several would wait for each other on a busy machine
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A correction of zero: what it restores stays what it was."""
    torch.manual_seed(0)
    return Generator(GeneratorConfig(dim=16, layers=1, output="correction")).eval()
