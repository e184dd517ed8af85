"""What becomes of a training that ended: its best weights as a version in the registry."""

import posixpath
from collections.abc import Mapping
from typing import Any

from pipelines import tracking
from pipelines.delivery import read_run_file
from pipelines.progress import say
from pipelines.runs import root_cause
from pipelines.tracking_uri import shown
from pipelines.train_config import TrainConfig


def is_open(config: TrainConfig, facts: Mapping[str, Any]) -> bool:
    """Tell whether a finished training has something to register and has not done so."""
    return config.registry.register and facts.get("best") is not None and not facts.get("registered")


def register_best(config: TrainConfig, facts: Mapping[str, Any], tags: Mapping[str, str]) -> str | None:
    """Register the best weights of a finished training. A registry that does not answer is no failure of it.

    Args:
        config: The training.
        facts: How it ended: `best` (a step) and `scores`.
        tags: What the version is to be known by.

    Returns:
        The version's URI; None where it is not registered, which is said.
    """
    if not is_open(config, facts):
        if config.registry.register and facts.get("best") is None:
            say("no checkpoint has learned anything yet, so nothing is registered")
        return None
    uri = tracking.resolve_uri(config.tracking.uri, config.output)
    run_id = read_run_file(posixpath.join(config.output, tracking.FOLDER)).get("run_id")
    try:
        if not run_id:
            raise RuntimeError("it has not heard of this run yet")
        from pipelines.registry import register

        version = register(
            posixpath.join(config.output, "best"),
            config.registry,
            uri,
            run_id=run_id,
            facts={**tags, "step": str(facts["best"])},
            scores=facts.get("scores") or {},
        )
    except Exception as error:  # whatever a server, a database or a store throws: the training is done
        say(
            f"{shown(uri)} has not registered {config.output}/best ({root_cause(error)}); the same command "
            "again registers it"
        )
        return None
    say(f"registered {version.uri}, as models:/{version.name}@candidate")
    return version.uri
