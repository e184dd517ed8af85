"""What the deployments make of Ray Serve's answers."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from pipelines.serving import deployment
from pipelines.serving.deployment import APPLICATION, RESTORER, RestorerReplicas


def replicas(answer: BaseException | None) -> RestorerReplicas:
    async def remote(*_: str) -> None:
        if answer is not None:
            raise answer

    return RestorerReplicas(SimpleNamespace(run=SimpleNamespace(remote=remote)))


@pytest.mark.parametrize(
    "answer, done",
    [(None, True), (ActorDiedError(), False), (ActorUnavailableError("a network that fails", None), False)],
)
def test_a_replica_that_died_or_is_not_reached_has_not_done_its_job(
    answer: BaseException | None, done: bool
) -> None:
    assert asyncio.run(replicas(answer).run("song", "job")) is done


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(replicas(ValueError("a bug")).run("song", "job"))


def status(application: str, states: dict[str, int]) -> ServeStatus:
    found: Any = DeploymentStatusOverview(
        status="HEALTHY", status_trigger="UNSPECIFIED", replica_states=states, message=""
    )
    overview: Any = ApplicationStatusOverview(
        status=application, message="no node sees it", last_deployed_time_s=0, deployments={RESTORER: found}
    )
    return ServeStatus(applications={APPLICATION: overview})


def test_running_replicas_are_counted_and_failures_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, ready, failure in (
        (ServeStatus(), 0, "the application was deleted from Ray Serve"),
        (status("DEPLOYING", {"STARTING": 2}), 0, None),
        (status("RUNNING", {"RUNNING": 1, "STOPPING": 1}), 1, None),
        (status("DEPLOY_FAILED", {}), 0, "no node sees it"),
    ):
        monkeypatch.setattr(deployment.serve, "status", lambda found=found: found)
        assert replicas(None).count_ready() == ready
        assert deployment.find_failure() == failure
