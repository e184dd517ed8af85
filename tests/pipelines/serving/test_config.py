"""What the service refuses before it starts, and the answers to load balancers."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ProxyStatus, ServeStatus
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from apollo.web.settings import LOOPBACK_HOSTS
from jobs import serve as job
from pipelines.errors import UsageError
from pipelines.serving import deployment
from pipelines.serving.config import ServeConfig
from pipelines.serving.readiness import Readiness
from pipelines.serving.run import _Run


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"folder": "s3://bucket/served"}, "is no folder on a disk"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"min_replicas": 0}, "min_replicas is 0"),
        ({"min_replicas": 3, "max_replicas": 2}, "less than min_replicas"),
        ({"cpus": 0}, "cpus is 0"),
        ({"port": 65_536}, "port is 65536: it must be at most 65535"),
        ({"queue_per_replica": 0.0}, "queue_per_replica is 0"),
        ({"queue_per_replica": float("nan")}, "queue_per_replica is nan"),
        ({"drain_minutes": -1.0}, "drain_minutes is -1"),
        ({"drain_minutes": float("nan")}, "drain_minutes is nan"),
        ({"host": "192.0.2.1"}, "--token-file"),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ServeConfig(**({"folder": str(tmp_path)} | changes))


@pytest.mark.parametrize("changes", [{"max_mb": 0.0}, {"max_queue": 0}, {"disk_gb": -1.0}])
def test_invalid_limits_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        ServeConfig(folder=str(tmp_path), **changes).read_settings()


def test_the_token_is_read_from_its_file_and_is_not_shown(tmp_path: Path) -> None:
    token = tmp_path / "token"
    config = ServeConfig(folder=str(tmp_path), host="192.0.2.1", token_file=str(token))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        config.read_settings()
    token.write_text("short\n")
    with pytest.raises(ValueError, match="at least 16 ASCII characters"):
        config.read_settings()
    secret = "sixteen characters"  # noqa: S105
    token.write_text(f"{secret}\n")
    settings = config.read_settings()
    assert settings.token == secret
    assert settings.hosts == ()
    assert "sixteen" not in repr(settings)


def test_without_a_token_only_this_machine_is_answered(tmp_path: Path) -> None:
    settings = ServeConfig(folder=str(tmp_path)).read_settings()
    assert settings.token is None
    assert settings.hosts == LOOPBACK_HOSTS


def test_too_few_resources_are_refused(tmp_path: Path) -> None:
    run = _Run(ServeConfig(folder=str(tmp_path), min_replicas=3, max_replicas=3, cpus=2, gpus=0.5))
    with pytest.raises(UsageError, match="3 replicas need 6 CPUs, and the cluster has 4"):
        run._check_resources({"CPU": 4.0})
    run.on_gpu = True
    with pytest.raises(UsageError, match=r"3 replicas need 1\.5 GPUs, and the cluster has 1"):
        run._check_resources({"CPU": 6.0, "GPU": 1.0})
    run._check_resources({"CPU": 6.0, "GPU": 2.0})


def test_a_second_service_on_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    status = ServeStatus()
    monkeypatch.setattr(deployment.serve, "status", lambda: status)
    deployment.check_absent()
    status.proxies["node"] = ProxyStatus.HEALTHY
    with pytest.raises(UsageError, match="Ray Serve runs on this cluster already"):
        deployment.check_absent()


def test_the_command_line_has_every_option(tmp_path: Path) -> None:
    text = job.build_parser().format_help()
    for option in ("--folder", "--checkpoint", "--min_replicas", "--token_file", "--drain_minutes"):
        assert option in text
    with pytest.raises(SystemExit) as ended:
        job.main(["--folder", str(tmp_path), "--min-replicas", "many"])
    assert ended.value.code == 2
    assert '"exit_code": 2' in (tmp_path / "result.json").read_text()


def test_health_is_told_without_a_token_and_uploads_wait_for_a_replica() -> None:
    problem: list[str | None] = ["no replica is ready"]
    answer = Route("/{path:path}", lambda _: PlainTextResponse("application"), methods=["GET", "POST"])
    application = Starlette(routes=[answer])
    application.add_middleware(Readiness, problem=lambda: problem[0], retry_seconds=15)
    with TestClient(application) as client:
        for refused in (client.get("/health"), client.post("/api/songs"), client.head("/health")):
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "15"
        assert client.get("/health").json() == {"error": "no replica is ready"}
        assert client.get("/").text == "application"  # what is done can be downloaded
        problem[0] = None
        assert client.get("/health").json() == {"status": "ready"}
        assert client.post("/health").text == "application"
        assert client.post("/api/songs").text == "application"
