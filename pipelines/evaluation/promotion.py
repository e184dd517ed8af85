"""Promotion: score the registry's candidate and champion, and move the alias `champion` if rules hold."""

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import OutputTakenError, UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.promotion_rule import Decision, decide
from pipelines.registry.registry import CANDIDATE, CHAMPION, Registry, Version
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking.uri import check_uri, database_path, resolve_uri

logger = logging.getLogger(__name__)

PROMOTION = "promotion.json"
TRACKING_URI = "MLFLOW_TRACKING_URI"
_REASONS = 4_000  # longest text of a tag


def resolve_tracking_uri(config: EvaluateConfig) -> str:
    """Return the tracking URI of an evaluation, which is its model registry too.

    Raises:
        UsageError: the URI cannot be used, or `promote` is set without one.
    """
    explicit = config.tracking.uri or os.environ.get(TRACKING_URI)
    if not explicit and config.promote:
        raise UsageError(
            "--promote needs an MLflow model registry: set MLFLOW_TRACKING_URI or --tracking.uri, such as "
            "sqlite:////data/runs/paper/mlflow.db"
        )
    if not explicit and is_uri(config.output):
        raise UsageError(
            f"no database can be created in {config.output}, which is not local: set MLFLOW_TRACKING_URI"
        )
    uri = resolve_uri(config.tracking.uri, config.output)
    check_uri(uri, nodes=1)
    database = database_path(uri)
    if config.promote and database and not os.path.exists(database):  # MLflow would make an empty one
        raise UsageError(
            f"--promote: the model registry {uri} does not exist. If it was moved, name its new place in "
            "MLFLOW_TRACKING_URI or --tracking.uri"
        )
    if config.tracking.uri:
        os.environ[TRACKING_URI] = uri  # resolves names like models:/apollo@champion
    return uri


@dataclass(frozen=True)
class PromotionCase:
    """The models to score, and which of them are candidate and champion.

    Args:
        models: As `load_models` takes them.
        candidate: Version that may become champion.
        champion: Champion when the evaluation started.
        registry: Registry of both.
        decision: Result of `decide` of an earlier run.
    """

    models: tuple[str, ...]
    candidate: Version | None = None
    champion: Version | None = None
    registry: Registry | None = None
    decision: dict[str, Any] | None = None

    def record(self, output: Folder) -> None:
        """Record candidate and champion: later runs on the output use them, even if the aliases move."""
        if self.candidate is not None and _read_stored(output) is None:
            self._write(output, None)

    def decide(self, scores: pa.Table, config: EvaluateConfig, run_id: str | None) -> dict[str, Any]:
        """Move the alias `champion` if the candidate is better, and record the reasons.

        Idempotent: an existing decision is returned without a change of the registry, and a decision that
        was interrupted is completed.

        Args:
            scores: Of candidate, champion and untouched codec.
            config: Of the evaluation.
            run_id: MLflow run of the evaluation.

        Returns:
            Values for result.json.
        """
        if self.decision is not None:
            logger.info(f"already decided: {'; '.join(self.decision['reasons'])}")
            return self.decision
        assert self.candidate is not None and self.registry is not None  # noqa: S101, PT018 - our invariant
        output = Folder(config.output)
        new, old = self.candidate.label, self.champion.label if self.champion else None
        if new == old:
            reason = f"{new} is the champion already: nothing to decide"
            logger.info(reason)
            return self._write(output, {"promoted": False, "reasons": [reason], "champion": old})
        verdict = decide(scores, new, old, config.promotion)
        now = self.registry.version(CHAMPION)  # another job may have moved it during the scoring
        holder = now.label if now else None
        if holder != old and not (verdict.promote and holder == new):  # moved by an interrupted run
            became = f"{holder} became champion" if holder else f"{self.registry.name} lost its champion"
            reason = f"{became} meanwhile: run again with another --output"
            logger.info(f"no decision: {reason}")
            return {"promoted": False, "reasons": [reason], "champion": holder}
        if verdict.promote:
            self.registry.set_alias(CHAMPION, self.candidate)  # before the tags, which must be true
        self._tag(verdict, run_id)
        logger.info(
            f"{new} is {'the new' if verdict.promote else 'not'} champion: {'; '.join(verdict.reasons)}"
        )
        champion = new if verdict.promote else old
        decision = {"promoted": verdict.promote, "reasons": list(verdict.reasons), "champion": champion}
        return self._write(output, decision)

    def _tag(self, decision: Decision, run_id: str | None) -> None:
        assert self.candidate is not None  # noqa: S101 - our invariant
        assert self.registry is not None  # noqa: S101 - our invariant
        self.registry.set_tags(
            self.candidate,
            {
                "promotion": "promoted" if decision.promote else "refused",
                "promotion_reasons": "\n".join(decision.reasons)[:_REASONS],
                "promotion_against": self.champion.label if self.champion else "no champion yet",
                "promotion_run": run_id or "not tracked",
            },
        )

    def _write(self, output: Folder, decision: dict[str, Any] | None) -> dict[str, Any]:
        assert self.candidate is not None  # noqa: S101 - our invariant
        stored = {
            "name": self.candidate.name,
            "candidate": self.candidate.number,
            "champion": self.champion.number if self.champion else None,
            "decision": decision,
        }
        output.write(PROMOTION, json.dumps(stored, indent=1).encode())
        return decision or {}


def _read_stored(output: Folder) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(output.read_renamed(PROMOTION, old_name="contest.json"))
    except FileNotFoundError:
        return None
    return stored


def open_case(config: EvaluateConfig, uri: str) -> PromotionCase:
    """Find the models to score: those of the aliases, or those that the output was created for.

    Raises:
        UsageError: `promote` is set and there is no candidate, or the output is about another one.
    """
    if not config.promote:
        return PromotionCase(config.models)
    registry = Registry(config.registry.name, uri)
    candidate, champion = registry.version(CANDIDATE), registry.version(CHAMPION)
    stored = _read_stored(Folder(config.output))
    if stored:
        candidate, champion = _resume(stored, registry, candidate, config.output)
    elif candidate is None:
        raise UsageError(
            f"{config.registry.name} has no version with the alias {CANDIDATE} in the registry: training "
            "registers one when it ends"
        )
    if champion is None:
        logger.info(
            f"{config.registry.name} has no champion yet: the candidate is compared with the codec only"
        )
    versions = [one for one in (candidate, champion) if one is not None]
    names = dict.fromkeys(f"{one.label}=models:/{one.name}/{one.number}" for one in versions)
    decision = stored["decision"] if stored else None
    return PromotionCase((*names, *config.models), candidate, champion, registry, decision)


def _resume(
    stored: dict[str, Any], registry: Registry, candidate: Version | None, output: str
) -> tuple[Version, Version | None]:
    """Return the candidate and the champion that an output was created for.

    Raises:
        OutputTakenError: the registry has another candidate now, or one of the two was deleted.
    """
    before = Version(stored["name"], stored["candidate"])
    now = candidate or before
    if (registry.name, now.number) != (before.name, before.number):
        did = "decided about" if stored["decision"] else "was created for"
        asked = candidate.label if candidate else f"models of {registry.name}"
        raise OutputTakenError(f"{output} {did} {before.label}: use another --output for {asked}")

    def find(number: int) -> Version:
        version = registry.version(number)
        if version is None:
            raise OutputTakenError(
                f"{output} is about {Version(registry.name, number).label}, which was deleted from the "
                "registry: use another --output"
            )
        return version

    champion = stored["champion"]
    return find(before.number), None if champion is None else find(champion)
