"""How a run grows with its shards: so many requests a shard, and no more however many there are."""

import pytest

from benchmarks.shard_growth import STEPS, count_requests, make_output
from pipelines.dataset.shards import read_commits
from pipelines.storage.folder import Folder

FEW, MANY = 12, 36
A_SHARD = {  # requests of each kind that one more shard costs
    "resume": {"read": 2},  # its commit and its content
    "status": {"read": 1},
    "close": {"read": 1},
    "train": {"read": 1},  # and of the shards that examples come from, what a row group needs
    "evaluate": {"read": 1, "open": 1, "range": 5},
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    made = {size: str(tmp_path_factory.mktemp("outputs") / str(size)) for size in (FEW, MANY)}
    for size, location in made.items():
        make_output(location, size)
    return made


def test_made_outputs_are_whole(outputs: dict[int, str]) -> None:
    assert len(read_commits(Folder(outputs[MANY]))) == MANY


@pytest.mark.parametrize("step", A_SHARD)
def test_a_shard_more_costs_its_own_requests_alone(outputs: dict[int, str], step: str) -> None:
    asked = {}
    for size, location in outputs.items():
        with count_requests() as requests:
            STEPS[step](location)
        asked[size] = requests
    more = {name: asked[MANY][name] - asked[FEW][name] for name in asked[MANY]}
    assert {name: count for name, count in more.items() if count} == {
        name: count * (MANY - FEW) for name, count in A_SHARD[step].items()
    }
