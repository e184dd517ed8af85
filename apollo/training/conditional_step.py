"""Optimizer steps and moving averages that depend on a flag on the device; the host does not wait for it."""

from collections.abc import Iterable

import torch
from torch import Tensor

_EMA_WARMUP = 10


@torch.no_grad()
def step_if(condition: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step an optimizer; where the condition is false, leave parameters and states as they were.

    The step is always computed, with copies of what it changes, and the device chooses between the two.

    Args:
        condition: Boolean, [], on the device of the parameters.
        optimizer: Any whose states are tensors on that device, which its first step creates as zeros.
    """
    parameters = [parameter for parameter in _parameters(optimizer) if parameter.grad is not None]
    before = [parameter.clone() for parameter in parameters]
    states_before = [
        {name: value.clone() for name, value in optimizer.state[parameter].items()}
        for parameter in parameters
    ]
    optimizer.step()
    for parameter, old, old_state in zip(parameters, before, states_before, strict=True):
        torch.where(condition, parameter, old, out=parameter)
        for name, value in optimizer.state[parameter].items():
            old_value = old_state[name] if name in old_state else torch.zeros_like(value)
            torch.where(condition, value, old_value, out=value)


def create_states(optimizer: torch.optim.Optimizer) -> None:
    """Create the states that an optimizer creates in its first step."""
    parameters = list(_parameters(optimizer))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    step_if(torch.zeros((), dtype=torch.bool, device=parameters[0].device), optimizer)
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def update_average(
    averaged: Iterable[Tensor], current: Iterable[Tensor], *, condition: Tensor, steps: Tensor, limit: float
) -> None:
    """Update a moving average; its decay rises over the first steps, so initial weights fade fast.

    Args:
        averaged: Parameters of the average.
        current: Parameters to average, finite.
        condition: Boolean, []; where it is false, the average stays as it was.
        steps: Number of steps, this one included, [], float64.
        limit: The highest decay.
    """
    targets, values = list(averaged), list(current)
    decay = ((1 + steps) / (_EMA_WARMUP + steps)).clamp(max=limit)
    weight = ((1 - decay) * condition).to(targets[0].dtype)
    torch._foreach_lerp_(targets, values, [weight] * len(targets))


class StepCount:
    """A number of steps on the device, with a copy on the host of what was read last.

    Args:
        device: Where to count.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.zeros((), dtype=torch.float64, device=device)
        self._read: int | None = 0

    def add(self, condition: Tensor) -> None:
        """Count a step if the condition, boolean, [], is true."""
        self.value += condition
        self._read = None

    def read(self) -> int:
        """Return the number; waits for the device if it may have changed."""
        if self._read is None:
            self._read = int(self.value.item())
        return self._read

    def set(self, steps: int) -> None:
        """Set the number."""
        self.value.fill_(steps)
        self._read = steps


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
