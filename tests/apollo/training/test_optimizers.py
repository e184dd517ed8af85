"""Optimizers of the generator: Muon's updates, AdamW's equality to torch's, learning rates."""

import copy
import math

import pytest
import torch
from torch import nn

from apollo.model.config import PRESETS
from apollo.model.generator import Generator
from apollo.training.config import GanConfig
from apollo.training.optimizers import MuonAdamW, make_generator_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(24, 24), (12, 48), (48, 12)])
def test_orthogonalized_matrices_keep_directions_and_lose_scales(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * torch.logspace(0, -1, shape[1])
    found = orthogonalize(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ found @ right.T  # diagonal where the singular vectors are the same
    assert found.dtype == torch.float32
    assert ((rotated.diagonal() > 0.5) & (rotated.diagonal() < 1.3)).all()
    assert (rotated - rotated.diagonal().diag()).abs().max() < 1e-3


def test_other_parameters_get_adamw_as_torch_has_it() -> None:
    torch.manual_seed(0)
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    settings = {"betas": (0.9, 0.98), "weight_decay": 0.01}
    first = MuonAdamW([], ours.parameters(), muon_learning_rate=1.0, learning_rate=1e-2, **settings)  # type: ignore[arg-type]
    second = torch.optim.AdamW(theirs.parameters(), lr=1e-2, **settings)  # type: ignore[arg-type]
    for step in range(5):
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for network, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-7)


def test_muon_moves_every_direction_by_the_learning_rate() -> None:
    matrix = nn.Parameter(torch.zeros(6, 6))
    optimizer = MuonAdamW(
        [matrix], [], muon_learning_rate=0.1, learning_rate=1.0, betas=(0.9, 0.9), weight_decay=0.0
    )
    matrix.grad = torch.diag(torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5]))
    optimizer.step()
    moved = -matrix.detach().diagonal()
    assert ((moved > 0.05) & (moved < 0.13)).all()


def test_muon_takes_the_matrices_of_hidden_layers_only() -> None:
    generator = Generator(PRESETS["compact"])
    optimizer = make_generator_optimizer(generator, GanConfig(generator_optimizer="muon"))
    others, matrices = (group["params"] for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in generator.named_parameters()}
    assert {names[id(parameter)].split(".", 3)[3] for parameter in matrices} == {
        "expand.weight",
        "contract.weight",
    }
    assert len(matrices) + len(others) == len(names)


def test_states_are_saved_and_loaded() -> None:
    def train(optimizer: MuonAdamW, weights: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()

    def make() -> tuple[MuonAdamW, list[nn.Parameter]]:
        weights = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(5))]
        return MuonAdamW(
            weights[:1],
            weights[1:],
            muon_learning_rate=0.1,
            learning_rate=0.1,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        ), weights

    whole, expected = make()
    train(whole, expected, range(6))
    first, halfway = make()
    train(first, halfway, range(3))
    second, found = make()
    with torch.no_grad():
        for weight, value in zip(found, halfway, strict=True):
            weight.copy_(value)
    second.load_state_dict(first.state_dict())
    train(second, found, range(3, 6))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_cosine_schedule_and_warm_up_by_hand() -> None:
    config = GanConfig(warmup_steps=4, cosine_steps=100)
    assert [config.warmup_scale(step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    scales = [config.learning_rate_scale(7, step) for step in (0, 50, 100, 500)]
    assert scales == pytest.approx([1.0, 0.01 + 0.99 / 2, 0.01, 0.01])
    assert GanConfig().learning_rate_scale(4, 12_345) == pytest.approx(0.98**2)
    assert math.isclose(GanConfig().warmup_scale(0), 1.0)


def test_a_generator_without_parameters_is_not_trained() -> None:
    with pytest.raises(ValueError, match="no parameters: there is nothing to train"):
        make_generator_optimizer(Generator(PRESETS["replication"]), GanConfig())
