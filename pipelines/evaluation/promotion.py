"""The registry's candidate against its champion: who is scored, and whether the alias moves."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.promotion_rule import Decision, decide
from pipelines.registry.registry import CANDIDATE, CHAMPION, Registry, Version
from pipelines.storage.folder import Folder, is_uri
from pipelines.tracking.uri import check_uri, resolve_uri

logger = logging.getLogger(__name__)

PROMOTION, _OLD_PROMOTION = "promotion.json", "contest.json"  # the old name is still read
_URI = "MLFLOW_TRACKING_URI"
_REASONS = 4_000  # letters of a tag


@contextmanager
def preserve_tracking_uri() -> Iterator[None]:
    """Put MLFLOW_TRACKING_URI back at the end: what follows in this process has another registry."""
    before = os.environ.get(_URI)
    try:
        yield
    finally:
        os.environ.pop(_URI, None)
        if before is not None:
            os.environ[_URI] = before


def resolve_tracking_uri(config: EvaluateConfig) -> str:
    """Give where an evaluation is tracked, which is where its models are registered.

    Raises:
        UsageError: nothing can be tracked there, or a decision has no registry to be about.
    """
    explicit = config.tracking.uri or os.environ.get(_URI)
    if not explicit and config.promote:
        raise UsageError(
            "--promote decides about the models of an MLflow registry: set MLFLOW_TRACKING_URI, or give "
            "--tracking.uri, such as sqlite:////data/runs/paper/mlflow.db"
        )
    if not explicit and is_uri(config.output):
        raise UsageError(
            f"{config.output} is on no disk, so no database can be made there: set MLFLOW_TRACKING_URI"
        )
    uri = resolve_uri(config.tracking.uri, config.output)
    check_uri(uri, nodes=1)
    if config.tracking.uri:
        os.environ[_URI] = uri  # names like models:/apollo@champion are looked up there
    return uri


@dataclass(frozen=True)
class PromotionCase:
    """Who is scored, and who of them stands for what.

    Args:
        models: As `load_models` takes them.
        candidate: The version that may become champion.
        champion: The version that was it when the contest began.
        registry: Where they are registered.
        decision: What an earlier run decided, as `decide` gave it.
    """

    models: tuple[str, ...]
    candidate: Version | None = None
    champion: Version | None = None
    registry: Registry | None = None
    decision: dict[str, Any] | None = None

    def record(self, output: Folder) -> None:
        """Remember who contests: later runs on the output go on with them, wherever the aliases move."""
        if self.candidate is not None and _read_stored(output) is None:
            self._write(output, None)

    def decide(self, scores: pa.Table, config: EvaluateConfig, run_id: str | None) -> dict[str, Any]:
        """Let `champion` move if the candidate is better, and write down why or why not.

        What was decided stays: asked again, the registry is left alone. A run that was killed on the way is
        completed by the next.

        Returns:
            Facts for result.json.
        """
        if self.decision is not None:
            logger.info(f"decided before, and it stays: {'; '.join(self.decision['reasons'])}")
            return self.decision
        assert self.candidate is not None and self.registry is not None  # noqa: S101, PT018 - our invariant
        output = Folder(config.output)
        new, old = self.candidate.label, self.champion.label if self.champion else None
        if new == old:
            reason = f"{new} is the champion already: there is nothing to decide"
            logger.info(reason)
            return self._write(output, {"promoted": False, "reasons": [reason], "champion": old})
        verdict = decide(scores, new, old, config.promotion)
        now = self.registry.version(CHAMPION)  # scoring took hours, and others decide too
        holder = now.label if now else None
        if holder != old and not (verdict.promote and holder == new):  # new: a killed run had moved the alias
            became = f"{holder} became champion" if holder else f"{self.registry.name} lost its champion"
            reason = f"{became} meanwhile: run again with another --output"
            logger.info(f"nothing is decided: {reason}")
            return {"promoted": False, "reasons": [reason], "champion": holder}
        if verdict.promote:
            self.registry.set_alias(CHAMPION, self.candidate)  # first: no tag may say what is not so
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
    for name in (PROMOTION, _OLD_PROMOTION):
        if output.exists(name):
            stored: dict[str, Any] = json.loads(output.read(name))
            return stored
    return None


def open_case(config: EvaluateConfig, uri: str) -> PromotionCase:
    """Find who is to be scored: whom the aliases name, or who contested on this output before.

    Raises:
        UsageError: a decision was asked for, and there is no candidate, or the output is about another one.
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
        logger.info(f"{config.registry.name} has no champion yet: the candidate has only the codec to beat")
    versions = [one for one in (candidate, champion) if one is not None]
    names = dict.fromkeys(f"{one.label}=models:/{one.name}/{one.number}" for one in versions)
    decision = stored["decision"] if stored else None
    return PromotionCase((*names, *config.models), candidate, champion, registry, decision)


def _resume(
    stored: dict[str, Any], registry: Registry, candidate: Version | None, output: str
) -> tuple[Version, Version | None]:
    """Find the candidate and the champion that contested on an output before.

    Raises:
        UsageError: the registry has another candidate by now, or has lost one of the two.
    """
    before = Version(stored["name"], stored["candidate"])
    now = candidate or before
    if (registry.name, now.number) != (before.name, before.number):
        did = "decided about" if stored["decision"] else "was begun for"
        asked = candidate.label if candidate else f"models of {registry.name}"
        raise UsageError(f"{output} {did} {before.label}: name another --output for {asked}")

    def find(number: int) -> Version:
        version = registry.version(number)
        if version is None:
            raise UsageError(
                f"{output} is about {Version(registry.name, number).label}, which the registry does not have "
                "any more: name another --output"
            )
        return version

    champion = stored["champion"]
    return find(before.number), None if champion is None else find(champion)
