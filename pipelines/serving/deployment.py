"""The deployments on Ray Serve: what answers HTTP, and what restores; no other module here imports Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError

from apollo.web.application import create_application
from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import SongStore
from pipelines.cluster.placement import cpu_node_resource
from pipelines.errors import UsageError
from pipelines.runtime import logs
from pipelines.serving.config import ServeConfig
from pipelines.serving.queue_worker import QueueWorker
from pipelines.serving.readiness import Readiness
from pipelines.serving.service_folder import check_folder

APPLICATION, RESTORER, INGRESS = "apollo", "Restorer", "Ingress"
_MAX_CONNECTIONS = 200
_MAX_WAITING_CONNECTIONS = 100
_GRACE_SECONDS = 60.0
_HEALTH_CHECK_SECONDS = 2.0
_SCALE_UP_SECONDS, _SCALE_DOWN_SECONDS = 5.0, 120.0


@dataclass(frozen=True)
class Service:
    """Configuration shared by all replicas.

    Args:
        run: Content of the file in the service's folder that tells whether a node sees it.
        model: Of the restoring replicas.
        description: Of the model, for users.
        settings: Limits and access.
        on_gpu: Whether each restoring replica has a GPU.
    """

    run: str
    model: ModelOptions
    description: dict[str, Any]
    settings: WebSettings
    on_gpu: bool


class RestorerReplicas:
    """The restoring replicas, as the queue sees them.

    Args:
        handle: Ray Serve's handle of their deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def run(self, song_path: str, job: str) -> bool:
        """Do a job; return False if the replica died, or was not reached."""
        try:
            await self._handle.run.remote(song_path, job)
        except RayActorError:
            return False
        return True

    def count_ready(self) -> int:
        """Return the number of replicas that work."""
        application = serve.status().applications.get(APPLICATION)
        found = application.deployments.get(RESTORER) if application else None
        return int(found.replica_states.get("RUNNING", 0)) if found else 0


class Ingress:
    """Answers HTTP; all state is in the service's folder, so any number of these may run.

    Args:
        folder: The service's folder.
        service: Configuration shared by all replicas.
        restorers: Ray Serve's handle of the restoring replicas.
    """

    async def __init__(self, folder: str, service: Service, restorers: Any) -> None:  # type: ignore[misc]
        logs.configure()
        check_folder(folder, service.run)
        self._songs, self._settings = SongStore(Path(folder)), service.settings
        replicas = RestorerReplicas(restorers)
        self._worker = QueueWorker(self._songs, replicas, service.description, service.settings.max_seconds)
        await self._worker.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray Serve calls it after the constructor."""
        application = create_application(self._songs, self._worker, self._settings)
        application.add_middleware(
            Readiness, problem=self._worker.problem, retry_seconds=self._settings.retry_seconds
        )
        return application

    def check_health(self) -> None:
        """Raise if this replica is to be replaced."""
        self._worker.check_health()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.close()


def check_absent() -> None:
    """Check that Ray Serve does not run on this cluster: it has one address, and one set of limits, for all.

    Raises:
        UsageError: it runs.
    """
    found = serve.status()
    if found.proxies:
        names = ", ".join(sorted(found.applications)) or "none"
        raise UsageError(
            f"Ray Serve runs on this cluster already (applications: {names}), and a cluster has one HTTP "
            "address: end it with `serve shutdown`, or use another cluster"
        )


def start(config: ServeConfig, service: Service) -> None:
    """Start the service and wait until it restores.

    Raises:
        RuntimeError: a replica cannot be started, or the address not be listened on; the text says why.
    """
    from pipelines.serving.restorer import Restorer  # imports torch, which ingress replicas do not need

    serve.start(
        proxy_location="EveryNode",
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.max_request_minutes * 60,
        },
    )
    health = {"health_check_period_s": _HEALTH_CHECK_SECONDS, "graceful_shutdown_timeout_s": _GRACE_SECONDS}
    place: dict[str, Any] = {"num_cpus": config.cpus, **({"num_gpus": config.gpus} if service.on_gpu else {})}
    if not service.on_gpu:
        place["resources"] = cpu_node_resource()
    restorers = serve.deployment(
        Restorer,
        name=RESTORER,
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.queue_per_replica,
            "upscale_delay_s": _SCALE_UP_SECONDS,
            "downscale_delay_s": _SCALE_DOWN_SECONDS,
        },
        ray_actor_options=place,
        **health,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=_MAX_CONNECTIONS,
        max_queued_requests=_MAX_WAITING_CONNECTIONS,
        ray_actor_options={"num_cpus": 0},
        **health,
    )
    bound = restorers.bind(
        config.folder, service.run, service.model, service.settings.max_seconds, config.cpus
    )
    serve.run(ingress.bind(config.folder, service, bound), name=APPLICATION, route_prefix="/")


def find_failure() -> str | None:
    """Return why the service cannot go on; None if it can."""
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return "the application was deleted from Ray Serve"
    return application.message if application.status == "DEPLOY_FAILED" else None


def stop() -> None:
    """End all replicas and Ray Serve; ongoing requests have a grace time."""
    serve.shutdown()
