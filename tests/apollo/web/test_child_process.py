"""A process that renders, whose device fails."""

from typing import Any, cast

import pytest
import torch

from apollo.web.child_process import ProcessDiedError, RenderProcess
from apollo.web.settings import ModelOptions


class BrokenDevice:
    """Options of a model whose device fails when it is used."""

    checkpoint = precision = "compact"

    @property
    def device(self) -> str:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice")


def test_a_process_whose_device_failed_is_replaced() -> None:
    renderer = RenderProcess(cast(ModelOptions, BrokenDevice()), 60.0)
    try:
        with pytest.raises(
            ProcessDiedError, match=r"^the device failed: CUDA error: an illegal memory access"
        ) as error:
            renderer.call("describe")
        assert "advice" not in str(error.value)
        assert renderer._process is None
        found: dict[str, Any] = renderer.call("inspect", "/dev/null")
        assert found["kind"] == "empty"
    finally:
        renderer.close()
