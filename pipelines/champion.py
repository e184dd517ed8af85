"""The registry's candidate against its champion: who is scored, and whether the alias moves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import UsageError
from pipelines.evaluate_config import EvaluateConfig
from pipelines.progress import say
from pipelines.promotion import decide
from pipelines.registry import CANDIDATE, CHAMPION, Registry, Version
from pipelines.storage import is_uri
from pipelines.tracking_uri import check_uri, resolve_uri

_REASONS = 4_000  # letters of a tag


def tracking_uri(config: EvaluateConfig) -> str:
    """Give where an evaluation is tracked, which is where its models are registered.

    Raises:
        UsageError: nothing can be tracked there, or a decision has no registry to be about.
    """
    told = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not told and config.promote:
        raise UsageError(
            "--promote decides about the models of an MLflow registry: set MLFLOW_TRACKING_URI, or give "
            "--tracking.uri, such as sqlite:////data/runs/paper/mlflow.db"
        )
    if not told and is_uri(config.output):
        raise UsageError(
            f"{config.output} is on no disk, so no database can be made there: set MLFLOW_TRACKING_URI"
        )
    uri = resolve_uri(config.tracking.uri, config.output)
    check_uri(uri, nodes=1)
    if config.tracking.uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri  # names like models:/apollo@champion are looked up there
    return uri


@dataclass(frozen=True)
class Contest:
    """Who is scored, and who of them stands for what.

    Args:
        models: As `find_contestants` takes them.
        candidate: The version that may become champion.
        champion: The version that is it.
        registry: Where they are registered.
    """

    models: tuple[str, ...]
    candidate: Version | None = None
    champion: Version | None = None
    registry: Registry | None = None

    def decide(self, scores: pa.Table, config: EvaluateConfig, run_id: str | None) -> dict[str, Any]:
        """Let `champion` move if the candidate is better, and write down why or why not.

        Returns:
            Facts for result.json.
        """
        assert self.candidate is not None
        assert self.registry is not None
        new, old = self.candidate.label, self.champion.label if self.champion else None
        if new == old:
            reason = f"{new} is the champion already: there is nothing to decide"
            say(reason)
            return {"promoted": False, "reasons": [reason], "champion": old}
        decision = decide(scores, new, old, config.promotion)
        self.registry.tag(
            self.candidate,
            {
                "promotion": "promoted" if decision.promote else "refused",
                "promotion_reasons": "\n".join(decision.reasons)[:_REASONS],
                "promotion_against": old or "no champion yet",
                "promotion_run": run_id or "not tracked",
            },
        )
        if decision.promote:
            self.registry.set_alias(CHAMPION, self.candidate)
        say(f"{new} is {'the new' if decision.promote else 'not'} champion: {'; '.join(decision.reasons)}")
        return {
            "promoted": decision.promote,
            "reasons": list(decision.reasons),
            "champion": new if decision.promote else old,
        }


def open_contest(config: EvaluateConfig, uri: str) -> Contest:
    """Find who is to be scored.

    Raises:
        UsageError: a decision was asked for, and there is no candidate.
    """
    if not config.promote:
        return Contest(config.models)
    registry = Registry(config.registry.name, uri)
    candidate, champion = registry.version(CANDIDATE), registry.version(CHAMPION)
    if candidate is None:
        raise UsageError(
            f"{config.registry.name} has no version with the alias {CANDIDATE} in the registry: training "
            "registers one when it ends"
        )
    if champion is None:
        say(f"{config.registry.name} has no champion yet: the candidate has only the codec to beat")
    versions: Sequence[Version] = [one for one in (candidate, champion) if one is not None]
    named = {one.label: f"{one.label}=models:/{one.name}/{one.number}" for one in versions}
    return Contest((*named.values(), *config.models), candidate, champion, registry)
