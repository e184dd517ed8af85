"""When ranks agree to stop: after every step where that costs nothing, else within ten seconds or so."""

import pytest
import torch
from torch import Tensor

from apollo.training import stop_requests
from apollo.training.distributed import DistributedContext
from apollo.training.stop_requests import StopRequests


class _Ranks(DistributedContext):
    """This rank of two; the other one requests a stop or not, and has the same times."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.world_size, self.other, self.reduced = 2, 0.0, 0

    def all_reduce(self, values: Tensor) -> Tensor:
        self.reduced += 1
        return values + torch.tensor([self.other, float(values[1])])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(stop_requests.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("waits", "step_seconds", "log_steps", "expected"),
    [
        (False, 0.1, 10, list(range(1, 13))),
        (True, 0.1, 5, [1, 5, 10]),
        (True, 0.1, 1_000, [1]),
        (True, 2.5, 1_000, [1, 5, 9]),
        (True, 2.5, 7, [1, 5, 7, 11]),
        (True, 60.0, 1_000, list(range(1, 13))),
    ],
)
def test_ranks_that_wait_for_gpus_decide_where_they_have_waited_or_within_ten_seconds(
    waits: bool, step_seconds: float, log_steps: int, expected: list[int], clock: list[float]
) -> None:
    ranks, found = _Ranks(), []
    requests = StopRequests(ranks, waits=waits)
    for step in range(1, 13):
        clock[0] += step_seconds
        before = ranks.reduced
        assert not requests.agree(False, has_waited=step % log_steps == 0)
        found += [step] * (ranks.reduced - before)
    assert found == expected


def test_a_request_between_decisions_counts_at_the_next(clock: list[float]) -> None:
    requests, found = StopRequests(_Ranks(), waits=True), []
    for step in range(1, 6):
        clock[0] += 0.1
        found.append(requests.agree(step == 2, has_waited=step == 5))
    assert found == [False, False, False, False, True]


def test_a_request_of_another_rank_stops_this_one(clock: list[float]) -> None:
    ranks = _Ranks()
    requests = StopRequests(ranks, waits=False)
    clock[0] += 0.1
    assert not requests.agree(False, has_waited=False)
    ranks.other = 1.0
    assert requests.agree(False, has_waited=False)


def test_a_process_alone_stops_at_once() -> None:
    context = DistributedContext(torch.device("cpu"))
    requests = StopRequests(context, waits=True)
    assert [requests.agree(one, has_waited=False) for one in (False, True)] == [False, True]
