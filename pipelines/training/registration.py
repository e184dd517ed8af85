"""Registration of the best weights of a finished training."""

import logging
import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.errors import root_cause
from pipelines.redaction import redact
from pipelines.storage.folder import is_uri
from pipelines.tracking import run
from pipelines.tracking.mlflow_sync import read_run_file
from pipelines.tracking.uri import resolve_uri
from pipelines.training.config import TrainConfig

logger = logging.getLogger(__name__)

_SEND_SECONDS = 5.0  # short: closing the run has waited for the server already


def needs_registration(config: TrainConfig, facts: Mapping[str, Any]) -> bool:
    """Return whether a finished training has weights to register that are not registered yet."""
    return config.registry.register and facts.get("best") is not None and not facts.get("registered")


def register_best(config: TrainConfig, facts: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """Register the best weights of a finished training; an unreachable registry does not fail the training.

    Args:
        config: The training.
        facts: Its result: `best` (a step) and `scores`.
        tags: Tags of the version.

    Returns:
        For result.json: `registered`, the version's URI, or None and `not_registered`, the reason.
    """
    if not config.registry.register:
        return {"registered": None, "not_registered": "registry.register is false"}
    if facts.get("best") is None:
        logger.warning("no best checkpoint: nothing is registered")
        return {"registered": None, "not_registered": "there is no best checkpoint yet"}
    uri = resolve_uri(config.tracking.uri, config.output)
    try:
        from pipelines.registry.registry import register

        version = register(
            config.output if is_uri(config.output) else posixpath.join(config.output, "best"),
            config.registry,
            uri,
            run_id=_run_id(config),
            tags={**tags, "step": str(facts["best"])},
            scores=facts.get("scores") or {},
        )
    except Exception as error:  # whatever a server, a database or a store raises: the training is done
        reason = f"{config.output}/best is not registered in {redact(uri)}: {root_cause(error)}"
        logger.error(f"{reason}. Run the same command again to register it")
        return {"registered": None, "not_registered": reason}
    logger.info(f"registered {version.uri} as models:/{version.name}@candidate")
    return {"registered": version.uri}


def _run_id(config: TrainConfig) -> str:
    """Return the id of the MLflow run, which is created now if no server has answered so far."""
    folder = str(config.folder / run.FOLDER)
    if not read_run_file(folder).get("run_id"):
        run.send_pending(replace(config.tracking, close_seconds=_SEND_SECONDS), str(config.folder))
    found = read_run_file(folder).get("run_id")
    if not found:
        raise RuntimeError("it does not have this run yet")
    return str(found)
