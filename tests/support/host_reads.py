"""Counts how often the host reads values of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from apollo.training.gan import Gan

_FUNCTIONS = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__")


class HostReads(TorchFunctionMode):
    """Counts reads while active; on a GPU, each makes the host wait.

    Counted are functions of Python, and operations that read a number within others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._ignored = False
        self._operations = _ReadOperations(self._count_operation)

    def __enter__(self) -> "HostReads":
        self._operations.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._operations.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if getattr(function, "__name__", "") not in _FUNCTIONS or self._ignored:
            return function(*arguments, **(keywords or {}))
        self.count += 1
        self._ignored = True  # the operations of this function
        try:
            return function(*arguments, **(keywords or {}))
        finally:
            self._ignored = False

    def _count_operation(self) -> None:
        self.count += not self._ignored

    def ignore_steps_of_adamw(self, gan: Gan) -> None:
        """Do not count what torch's AdamW reads on CPUs: its count of steps; on GPUs it reads nothing."""
        for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
            if isinstance(optimizer, torch.optim.AdamW):
                optimizer.step = self._ignoring(optimizer.step)  # type: ignore[method-assign]

    def _ignoring(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self._ignored = True
            try:
                return step(*arguments)
            finally:
                self._ignored = False

        return run


class _ReadOperations(TorchDispatchMode):
    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self._count()
        return function(*arguments, **(keywords or {}))
