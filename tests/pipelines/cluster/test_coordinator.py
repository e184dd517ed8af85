"""The coordinator of a training: records one way, stop requests the other way, the first failure."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from pipelines.cluster.coordinator import Coordinator, CoordinatorClient


def test_records_are_returned_once_and_in_order() -> None:
    coordinator = Coordinator()
    coordinator.log({"msg": "one"})
    coordinator.log({"msg": "two"})
    assert coordinator.poll(stop=False)[1] == [{"msg": "one"}, {"msg": "two"}]
    assert coordinator.poll(stop=False)[1] == []


def test_a_requested_stop_stays_requested() -> None:
    coordinator = Coordinator()
    assert not coordinator.heartbeat()
    coordinator.poll(stop=True)
    coordinator.poll(stop=False)
    assert coordinator.heartbeat()


def test_the_first_failure_wins() -> None:
    coordinator = Coordinator()
    assert coordinator.failure() == ""
    coordinator.fail("first")
    coordinator.fail("second")
    assert coordinator.failure() == "first"


def test_silence_is_counted_from_the_last_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipelines.cluster.coordinator.time.monotonic", lambda: now[0])
    coordinator = Coordinator()
    now[0] = 107.0
    assert coordinator.poll(stop=False)[0] == 7.0
    coordinator.heartbeat()
    assert coordinator.poll(stop=False)[0] == 0.0


@pytest.fixture
def actor(ray_address: str) -> Iterator[Any]:
    handle = ray.remote(num_cpus=0)(Coordinator).remote()
    yield handle
    ray.kill(handle)


def test_a_client_learns_of_a_stop_and_sends_records_and_failures(actor: Any) -> None:
    client = CoordinatorClient(actor)
    client.log({"msg": "hello"})
    client.fail("broken")
    assert CoordinatorClient(actor).failure() == "broken"
    client.start_heartbeat()
    assert ray.get(actor.poll.remote(stop=True))[1] == [{"msg": "hello"}]
    deadline = time.monotonic() + 30
    while not client.stop_requested():
        assert time.monotonic() < deadline
        time.sleep(0.05)
