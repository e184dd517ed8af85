"""Optimizer steps that the device leaves out: nothing moves, and what follows is as if they had not been."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from apollo.training.conditional_step import StepCount, create_states, step_if, update_average
from apollo.training.config import GanConfig
from apollo.training.optimizers import MuonAdamW, make_adamw, make_generator_optimizer

YES, NO = torch.tensor(True), torch.tensor(False)


def _muon(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return MuonAdamW(
        parameters[:1],
        parameters[1:],
        muon_learning_rate=0.1,
        learning_rate=0.1,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )


def _adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return make_adamw(parameters, learning_rate=0.1, betas=(0.9, 0.98), weight_decay=0.01)


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def _parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in ((4, 6), (5,))]


def _set_gradients(parameters: list[nn.Parameter], seed: int, scale: float = 1.0) -> None:
    for parameter in parameters:
        random = torch.Generator().manual_seed(seed)
        parameter.grad = (scale * torch.randn(parameter.shape, generator=random)).to(parameter.device)


@pytest.mark.parametrize("make", [_muon, _adamw, _sgd])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.0])
def test_steps_that_are_left_out_leave_no_trace(make: Callable[..., Any], value: float) -> None:
    expected, found = _parameters(), _parameters()
    plain, conditional = make(expected), make(found)
    for step in range(6):
        is_taken = step in (1, 2, 4)
        _set_gradients(found, step, 1.0 if is_taken else value)
        step_if(YES if is_taken else NO, conditional)
        if is_taken:
            _set_gradients(expected, step)
            plain.step()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(conditional.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("make", [_muon, _adamw])
def test_created_states_are_zeros_and_stay_zeros_in_a_step_left_out(make: Callable[..., Any]) -> None:
    parameters = _parameters()
    optimizer = make(parameters)
    create_states(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    values = [value for state in before["state"].values() for value in state.values()]
    assert values
    assert not any(value.any() for value in values)
    assert all(parameter.grad is None and (parameter == 1).all() for parameter in parameters)
    _set_gradients(parameters, 0, torch.nan)
    step_if(NO, optimizer)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


def test_muon_reads_nothing_and_keeps_its_states_on_the_device() -> None:
    """Tensors of the device `meta` have no values that could be read."""
    config = GanConfig(generator_optimizer="muon")
    state = make_generator_optimizer(nn.Linear(6, 4), config).state_dict()
    for group in state["param_groups"]:
        del group["capturable"]  # as earlier releases saved it
    network = nn.Linear(6, 4, device="meta")
    optimizer = make_generator_optimizer(network, config)
    optimizer.load_state_dict(state)
    _set_gradients(list(network.parameters()), 0)
    step_if(torch.zeros((), dtype=torch.bool, device="meta"), optimizer)
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert len(values) == 4
    assert {value.device.type for value in values} == {"meta"}


def test_adamw_counts_steps_where_it_does_here_whatever_a_checkpoint_says() -> None:
    parameters = _parameters()
    optimizer = _adamw(parameters)
    _set_gradients(parameters, 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["capturable"] = True  # saved on a GPU
    other = _adamw(_parameters())
    other.load_state_dict(state)
    assert other.param_groups[0]["capturable"] is False
    assert [float(one["step"]) for one in other.state.values()] == [1, 1]


@pytest.mark.parametrize(("steps", "decay"), [(1, 2 / 11), (2, 3 / 12), (500, 0.9)])
def test_the_average_moves_by_its_formula_or_not_at_all(steps: int, decay: float) -> None:
    count = torch.tensor(float(steps), dtype=torch.float64)
    averaged, current = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -1.0])]
    update_average(averaged, current, condition=NO, steps=count, limit=0.9)
    assert averaged[0].tolist() == [1.0, 2.0]
    update_average(averaged, current, condition=YES, steps=count, limit=0.9)
    expected = torch.tensor([1.0, 2.0]).lerp(current[0], 1 - decay)
    torch.testing.assert_close(averaged[0], expected, rtol=0, atol=0)


def test_only_steps_that_are_taken_are_counted() -> None:
    count = StepCount(torch.device("cpu"))
    for condition in (YES, NO, YES):
        count.add(condition)
    assert count.read() == 2
    count.set(7)
    count.add(YES)
    assert count.read() == 8
