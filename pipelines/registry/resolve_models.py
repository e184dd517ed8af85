"""Names of the registry as checkpoints: `models:/…` and `runs:/…` for `apollo.checkpoints.checkpoint`.

A version's checkpoint is downloaded once, into a cache of this user, and verified at every use: then against
what was registered, later against its own manifest.
"""

import logging
import os
import re
from pathlib import Path

from apollo.checkpoints.checkpoint import CONFIG, PORTABLE, load, verify
from apollo.checkpoints.published_format import CheckpointError
from pipelines.redaction import shown
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
from pipelines.runtime.run import root_cause
from pipelines.tracking.client import short_timeouts
from pipelines.tracking.uri import database_path

logger = logging.getLogger(__name__)

_ALIAS = re.compile(r"models:/(?P<name>[\w.-]+)@(?P<what>(?!\d+$)[\w.-]+)")
_NUMBER = re.compile(r"models:/(?P<name>[\w.-]+)/(?P<what>[0-9]{1,9})")
_RUN = re.compile(r"runs:/(?P<run>[0-9a-f]{32})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILES = (CONFIG, PORTABLE)
_REQUEST_SECONDS = 60


def resolve(name: str) -> Path:
    """Turn a name of the registry into a checkpoint folder on this machine.

    Args:
        name: `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, or `runs:/ID` of a training run. While there is no
            champion, the candidate stands in for it, with a warning.

    Raises:
        CheckpointError: there is no such version, or no registry, or it does not answer.
    """
    return _fetch(*find_version(name))


def find_version(name: str) -> tuple[Version, str]:
    """Find the version that a name stands for now, and the registry's URI.

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
    if database and not os.path.exists(database):  # MLflow would make one
        raise CheckpointError(f"{name}: MLFLOW_TRACKING_URI names {database}, and there is no such file")
    asked = _ALIAS.fullmatch(name) or _NUMBER.fullmatch(name)
    run = _RUN.fullmatch(name)
    if not asked and not run:
        raise CheckpointError(
            f"{name} is no name of a model: models:/NAME@ALIAS, models:/NAME/NUMBER, runs:/ID"
        )
    try:
        if run:
            found = find_version_of_run(uri, run["run"])
            advice = "training registers its best weights when it ends; run it again"
        else:
            assert asked  # noqa: S101 - our invariant
            found = _version(Registry(asked["name"], uri), asked["what"])
            advice = "training registers a candidate when it ends; jobs/evaluate.py --promote makes champions"
    except Exception as error:  # whatever a server or a database throws
        raise CheckpointError(f"{name}: {shown(uri)} does not answer: {root_cause(error)}") from error
    if found is None:
        raise CheckpointError(f"{name}: there is no such version in {shown(uri)}. {advice}")
    return found, uri


def _version(registry: Registry, what: str) -> Version | None:
    found = registry.version(what)
    if found is None and what == CHAMPION and (candidate := registry.version(CANDIDATE)):
        logger.warning(
            f"{registry.name} has no champion yet: taking the candidate, version {candidate.number}"
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
                f"{version.uri} holds other weights than were registered: their digest is not the tag "
                f"{DIGEST}. Register them again"
            )
        return fresh

    try:
        target = cache_folder("models") / f"{digest[:16]}-{version.number}"
        return fetch(target, _FILES, download)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a store of artifacts throws
        raise CheckpointError(f"{version.uri} cannot be fetched: {root_cause(error)}") from error


def _download(version: Version, uri: str, scratch: Path) -> Path:
    import mlflow

    place = f"{version.uri}/artifacts/{ARTIFACT}"
    with short_timeouts(_REQUEST_SECONDS), default_tracking_uri(uri):
        found = mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(scratch))
    return Path(found)
