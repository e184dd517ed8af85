"""Fault 15: the same plan gives the same bytes, whatever the scheduling."""

from pathlib import Path

import pytest

from pipelines.dataset.plan import planned_shards
from pipelines.preprocess import run
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit
from tests.support import invariants
from tests.support.datasets import config


@pytest.mark.parametrize("actors", [1, 7])
def test_15_one_two_and_seven_actors_in_any_order_give_the_same_bytes(
    actors: int,
    ray_address: str,
    data: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The undisturbed run had two, which began with the first shard."""
    monkeypatch.setattr(run, "planned_shards", lambda plan: planned_shards(plan)[::-1])
    assert preprocess(config(data, tmp_path / "shards", actors=actors)).code == Exit.DONE
    invariants.check(tmp_path / "shards", undisturbed)
