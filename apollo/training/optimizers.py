"""Optimizers whose steps wait for no value from the device.

Source of Muon: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks". torch.optim
has it in bfloat16 only, which many CPUs emulate a hundred times slower; this one computes in float32.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from apollo.training.conditional_step import create_states
from apollo.training.config import GanConfig

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, as in the source
_ITERATIONS = 5
_MOMENTUM = 0.95
_EPSILON = 1e-8
_HEADS = ("input.", "noise.", "merge.", "gains.", "split.")  # layers to and from spectra: no hidden layers


def make_generator_optimizer(generator: nn.Module, config: GanConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the config names, for all parameters of a generator."""
    if not any(True for _ in generator.parameters()):
        raise ValueError("the generator has no parameters: there is nothing to train")
    if config.generator_optimizer == "adamw":
        return make_adamw(
            generator.parameters(),
            learning_rate=config.generator_learning_rate,
            betas=config.generator_betas,
            weight_decay=config.weight_decay,
        )
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in generator.named_parameters():
        name = name.removeprefix("trunk.")
        is_hidden_matrix = parameter.dim() == 2 and not name.startswith(_HEADS)
        (matrices if is_hidden_matrix else others).append(parameter)
    return _prepare(
        MuonAdamW(
            matrices,
            others,
            muon_learning_rate=config.muon_learning_rate,
            learning_rate=config.generator_learning_rate,
            betas=config.generator_betas,
            weight_decay=config.weight_decay,
        )
    )


def make_adamw(
    parameters: Iterable[Tensor], *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """Return torch's AdamW; it counts steps where its parameters are, also on a GPU."""
    listed = list(parameters)
    return _prepare(
        torch.optim.AdamW(
            listed, lr=learning_rate, betas=betas, weight_decay=weight_decay, capturable=listed[0].is_cuda
        )
    )


def _prepare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Create all states, and keep them on the device of the parameters when a checkpoint is loaded."""
    create_states(optimizer)
    optimizer.register_load_state_dict_pre_hook(_keep_capturable)
    return optimizer


def _keep_capturable(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Replace the field that decides where steps are counted: checkpoints may come from other devices."""
    capturable = optimizer.param_groups[0]["capturable"]
    return {**state, "param_groups": [{**one, "capturable": capturable} for one in state["param_groups"]]}


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of hidden layers, AdamW for all other parameters.

    Args:
        matrices: Parameters with two dimensions.
        others: All others.
        muon_learning_rate: Of the matrices: each step changes a matrix by an orthogonal one of this scale,
            times the root of the ratio of its sides where it has more rows than columns.
        learning_rate: Of AdamW.
        betas: Of AdamW.
        weight_decay: Of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        muon_learning_rate: float,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": list(others), "lr": learning_rate, "betas": betas, "orthogonal": False},
            {"params": list(matrices), "lr": muon_learning_rate, "betas": betas, "orthogonal": True},
        ]
        # torch's name for counting steps where the parameters are
        defaults = {"weight_decay": weight_decay, "capturable": True}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            update = _muon if group["orthogonal"] else _adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)


def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
    direction = orthogonalize(gradient.lerp(momentum, _MOMENTUM))  # Nesterov's momentum
    parameter.add_(direction, alpha=-group["lr"] * max(1.0, len(parameter) / parameter.shape[1]) ** 0.5)


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    (first, second), steps = group["betas"], state["step"].double()
    mean = state["mean"].lerp_(gradient, 1 - first)
    square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = (square / (1 - second**steps)).sqrt_().add_(_EPSILON)
    parameter.add_(mean * (-group["lr"] / (1 - first**steps)) / root)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix with about the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    x: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
