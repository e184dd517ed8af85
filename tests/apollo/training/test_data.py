"""How a batch gets to its device."""

from typing import Any

import pytest
import torch
from torch import Tensor

from apollo.training.data import Batch


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_a_gpu_gets_its_batch_from_pinned_memory_without_a_wait(
    device: str, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded calls, as there may be no GPU: a copy from other memory waits for what the GPU has to do."""
    calls: list[Any] = []

    def pin(values: Tensor) -> Tensor:
        calls.append("pinned")
        return values + 1

    def move(values: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
        calls.append((device.type, non_blocking))
        return values

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    found = Batch(torch.zeros(1), torch.zeros(1), ["a"], torch.zeros(1)).to(torch.device(device))
    assert calls == 3 * [*(["pinned"] if pinned else []), (device, True)]
    assert found.bandwidth_hz is not None
    assert [float(one) for one in (found.clean, found.degraded, found.bandwidth_hz)] == 3 * [float(pinned)]
