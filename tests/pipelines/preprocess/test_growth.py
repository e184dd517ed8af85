"""Each further shard costs a fixed number of storage requests, however many there are."""

import pytest

from benchmarks.growth import make_output, run_step
from benchmarks.measurement import count_requests
from pipelines.dataset.shards import read_commits
from pipelines.storage.folder import Folder

FEW, MANY = 12, 36
REQUESTS_PER_SHARD = {
    "resume": {"read": 2},  # its commit and its content
    "status": {"read": 1},
    "close": {"read": 1},
    "train": {},  # a manifest for all; and, of shards that examples come from, a row group
    "evaluate": {"open": 1, "range": 5},
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    made = {size: str(tmp_path_factory.mktemp("outputs") / str(size)) for size in (FEW, MANY)}
    for size, location in made.items():
        make_output(location, size)
    return made


def test_generated_outputs_are_complete(outputs: dict[int, str]) -> None:
    assert len(read_commits(Folder(outputs[MANY]))) == MANY


@pytest.mark.parametrize("step", REQUESTS_PER_SHARD)
def test_requests_grow_by_a_constant_per_shard(outputs: dict[int, str], step: str) -> None:
    counts = {}
    for size, location in outputs.items():
        with count_requests() as requests:
            run_step(location, step)
        counts[size] = requests
    added = {name: counts[MANY][name] - counts[FEW][name] for name in counts[MANY]}
    assert {name: count for name, count in added.items() if count} == {
        name: count * (MANY - FEW) for name, count in REQUESTS_PER_SHARD[step].items()
    }
