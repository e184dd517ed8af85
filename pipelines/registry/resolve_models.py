"""Checkpoints by registry name: `models:/…` and `runs:/…` for `apollo.checkpoints.checkpoint`.

A version's checkpoint is downloaded once, into a cache of this user. It is verified against the registered
digest when it is downloaded, and against its own manifest at every use.
"""

import logging
import os
import re
from pathlib import Path

from apollo.checkpoints.checkpoint import CONFIG, SAFETENSORS, load, verify
from apollo.checkpoints.container import CheckpointError, CheckpointUnreachableError
from pipelines.errors import root_cause
from pipelines.redaction import redact
from pipelines.registry.checkpoint_cache import cache_folder, fetch
from pipelines.registry.model_bundle import pack
from pipelines.registry.registry import (
    ARTIFACT,
    CANDIDATE,
    CHAMPION,
    DIGEST,
    Registry,
    Version,
    default_tracking_uri,
    find_version_of_run,
)  # fmt: skip
from pipelines.tracking.client import short_timeouts
from pipelines.tracking.uri import database_path

logger = logging.getLogger(__name__)

_ALIAS = re.compile(r"models:/(?P<name>[\w.-]+)@(?P<what>(?!\d+$)[\w.-]+)")
_NUMBER = re.compile(r"models:/(?P<name>[\w.-]+)/(?P<what>[0-9]{1,9})")
_RUN = re.compile(r"runs:/(?P<run>[0-9a-f]{32})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILES = (CONFIG, SAFETENSORS)
_REQUEST_SECONDS = 60


def resolve(name: str) -> Path:
    """Return the local checkpoint folder of a registry name, downloaded if necessary.

    Args:
        name: `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, or `runs:/ID` of a training run. While there is no
            champion, `@champion` resolves to the candidate, with a warning.

    Raises:
        CheckpointError: there is no such version, or the registry is unreachable.
    """
    return _fetch(*find_version(name))


def find_version(name: str) -> tuple[Version, str]:
    """Return the version that a name resolves to now, and the URI of the registry.

    Raises:
        CheckpointError: as `resolve` does.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise CheckpointError(
            f"{name} is in an MLflow registry: set MLFLOW_TRACKING_URI to its server, or to the database of "
            "a training, as in sqlite:////data/runs/paper/mlflow.db"
        )
    database = database_path(uri)
    if database and not os.path.exists(database):  # MLflow would create it
        raise CheckpointError(f"{name}: MLFLOW_TRACKING_URI names {database}, which does not exist")
    model = _ALIAS.fullmatch(name) or _NUMBER.fullmatch(name)
    run = _RUN.fullmatch(name)
    if not model and not run:
        raise CheckpointError(
            f"{name} is not a model name: models:/NAME@ALIAS, models:/NAME/NUMBER, runs:/ID"
        )
    try:
        if run:
            found = find_version_of_run(uri, run["run"])
            advice = "training registers its best weights when it ends; run it again"
        else:
            assert model  # noqa: S101 - our invariant
            found = _version(Registry(model["name"], uri), model["what"])
            advice = "training registers a candidate when it ends; jobs/evaluate.py --promote makes champions"
    except Exception as error:  # whatever a server or a database raises
        raise CheckpointUnreachableError(
            f"{name}: MLflow server {redact(uri)} unreachable: {root_cause(error)}"
        ) from None
    if found is None:
        raise CheckpointError(f"{name}: no such version in {redact(uri)}. {advice}")
    return found, uri


def _version(registry: Registry, what: str) -> Version | None:
    found = registry.version(what)
    if found is None and what == CHAMPION and (candidate := registry.version(CANDIDATE)):
        logger.warning(
            f"{registry.name} has no champion yet: using the candidate, version {candidate.number}",
        )
        return candidate
    return found


def _fetch(version: Version, uri: str) -> Path:
    """Return the checkpoint folder of a version in the cache, downloaded if it is not there or damaged."""
    digest = version.tags.get(DIGEST, "")
    if not _DIGEST.fullmatch(digest):
        raise CheckpointError(f"{version.uri} was not registered by this project: it has no tag {DIGEST}")

    def download(scratch: Path) -> Path:
        fresh = _download(version, uri, scratch)
        verify(fresh, _FILES)
        if pack(load(fresh)).digest != digest:
            raise CheckpointError(
                f"{version.uri} has other weights than were registered: their digest differs from the tag "
                f"{DIGEST}. Register the model again"
            )
        return fresh

    try:
        target = cache_folder("models") / f"{digest[:16]}-{version.number}"
        return fetch(target, _FILES, download)
    except CheckpointError:
        raise
    except Exception as error:  # whatever an artifact store raises
        raise CheckpointError(
            f"cannot download {version.uri} of {redact(uri)}: {root_cause(error)}. Its files lie where they "
            "were when it was registered: if that folder was moved, move it back, or register the weights "
            "again (docs/registry.md)"
        ) from error


def _download(version: Version, uri: str, scratch: Path) -> Path:
    import mlflow

    place = f"{version.uri}/artifacts/{ARTIFACT}"
    with short_timeouts(_REQUEST_SECONDS), default_tracking_uri(uri):
        found = mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(scratch))
    return Path(found)
