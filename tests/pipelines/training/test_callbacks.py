"""What the callbacks count without reading what is still on the device."""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.training import callbacks


class _Unread(Mapping[str, float]):
    """Metrics whose values would make the host wait."""

    def __getitem__(self, name: str) -> float:
        raise AssertionError("must not be read")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("must not be read")

    def __len__(self) -> int:
        raise AssertionError("must not be read")


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_are_counted_unread_and_skipped_ones_when_they_are_read(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, float] = {}

    def record(name: str, value: float = 1.0) -> None:
        counts[name] = counts.get(name, 0) + value

    monkeypatch.setattr(callbacks.prometheus, "record", record)
    config: Any = SimpleNamespace(history=False, folder="unused", listening_examples=0)
    context: Any = SimpleNamespace(rank=rank)
    monkeypatch.setattr(callbacks, "Tracker", lambda _: None)
    found = callbacks.RayCallbacks(config, None, None, context, None)  # type: ignore[arg-type]
    for step in (1, 2):
        found.on_train_step_end(step, _Unread(), ["a", "b"])
    found.on_train_step_skipped(1, ["a"])
    first = {"starts": 1, "steps": 2, "skipped_steps": 1} if rank == 0 else {}
    expected = {"examples": 4, **first}
    assert counts == {f"apollo_training_{name}_total": value for name, value in expected.items()}
