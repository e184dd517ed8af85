"""The champion: it moves when it should, says why, and keeps what it was decided on."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from apollo.checkpoints import checkpoint
from apollo.checkpoints.container import CheckpointError
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.models import load_models
from pipelines.evaluation.promotion import PROMOTION, PromotionCase, open_case
from pipelines.registry.model_bundle import pack
from pipelines.registry.registry import (
    CANDIDATE,
    CHAMPION,
    DIGEST,
    Registry,
    RegistryConfig,
    Version,
    register,
)  # fmt: skip
from pipelines.schema import UNTOUCHED
from pipelines.storage.folder import Folder
from pipelines.tracking.client import make_client
from pipelines.tracking.run import TrackingConfig
from tests.support import evaluation_jobs, mlflow_runs, score_rows

V1, V2, V5 = "apollo-v1", "apollo-v2", "apollo-v5"


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of no versions."""
    uri = f"sqlite:///{mlflow_runs.ready_output(tmp_path / 'tracking')}/mlflow.db"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return uri


@pytest.fixture
def config(tmp_path: Path, uri: str) -> EvaluateConfig:
    """An evaluation that decides."""
    return _config(tmp_path / "decision", uri)


@pytest.fixture
def registry(uri: str) -> Registry:
    """Five versions by name alone: the first is champion, the second the candidate."""
    client = make_client(uri)
    client.create_registered_model("apollo")
    for _ in range(5):
        client.create_model_version("apollo", "s3://nowhere/model")
    registry = Registry("apollo", uri)
    registry.set_alias(CHAMPION, Version("apollo", 1))
    registry.set_alias(CANDIDATE, Version("apollo", 2))
    return registry


def _config(output: Path, uri: str) -> EvaluateConfig:
    settings = {"split": "valid", "promote": True, "tracking": TrackingConfig(uri=uri)}
    return evaluation_jobs.config(output.parent / "shards", output, **settings)


def _scores(**visqol: float) -> pa.Table:
    """Eight songs on which models differ by ViSQOL alone; the codec's is 2, and `v2` is apollo-v2's."""
    models = {UNTOUCHED: 2.0} | {f"apollo-{name}": value for name, value in visqol.items()}
    rows = [
        score_rows.row(model, f"item {number}", visqol=value + 0.01 * number, si_snr=10.0)
        for model, value in models.items()
        for number in range(8)
    ]
    return score_rows.table(rows)


def _recorded(config: EvaluateConfig, uri: str) -> PromotionCase:
    case = open_case(config, uri)
    case.record(Folder(config.output))
    return case


def _aliases(registry: Registry) -> tuple[str | None, str | None]:
    found = (registry.version(name) for name in (CANDIDATE, CHAMPION))
    candidate, champion = (one.label if one else None for one in found)
    return candidate, champion


def _tags(registry: Registry, number: int) -> dict[str, str]:
    version = registry.version(number)
    assert version is not None
    return {name: value for name, value in version.tags.items() if name.startswith("promotion")}


def _touch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(*_: Any) -> None:
        raise AssertionError("the registry was written to")

    monkeypatch.setattr(Registry, "set_alias", touch)
    monkeypatch.setattr(Registry, "set_tags", touch)


def test_rerun_uses_the_recorded_versions_after_the_alias_moved(
    config: EvaluateConfig, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With versions that can be loaded: both are scored again, or the tables would lose the old champion."""
    client = make_client(uri)
    experiment = client.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri())
    folders = evaluation_jobs.write_model(tmp_path / "old"), evaluation_jobs.write_identity(tmp_path / "new")
    registry = Registry("apollo", uri)
    for number, folder in enumerate(folders, 1):
        run_id = client.create_run(experiment).info.run_id
        made = register(str(folder), RegistryConfig(), uri, run_id=run_id, tags={}, scores={})
        assert made.number == number
        if number == 1:
            registry.set_alias(CHAMPION, made)
    case = _recorded(config, uri)
    models = load_models(case.models, ())
    assert [one.name for one in models] == [UNTOUCHED, V2, V1]
    assert [one.digest for one in models[1:]] == [
        pack(checkpoint.load(folder)).digest for folder in reversed(folders)
    ]
    facts = case.decide(_scores(v1=2.5, v2=3.0), config, "a run")
    assert facts["promoted"] is True and facts["champion"] == V2
    assert facts["reasons"] and all(reason.startswith("passed: ") for reason in facts["reasons"])
    assert _aliases(registry) == (V2, V2)
    assert _tags(registry, 2) == {
        "promotion": "promoted",
        "promotion_reasons": "\n".join(facts["reasons"]),
        "promotion_against": V1,
        "promotion_run": "a run",
    }
    before = evaluation_jobs.states(Path(config.output))
    _touch_nothing(monkeypatch)
    again = _recorded(config, uri)
    assert again.models == case.models
    assert load_models(again.models, ())[2].digest == models[2].digest
    assert again.decide(_scores(v1=2.5, v2=3.0), config, None) == facts
    assert evaluation_jobs.states(Path(config.output)) == before


def test_a_candidate_that_is_not_better_is_refused_with_reasons(
    config: EvaluateConfig, uri: str, registry: Registry
) -> None:
    facts = _recorded(config, uri).decide(_scores(v1=3.0, v2=2.5), config, None)
    assert facts["promoted"] is False and facts["champion"] == V1
    assert facts["reasons"][0].startswith(f"failed: ViSQOL against the champion ({V1}): the improvement must")
    assert _aliases(registry) == (V2, V1)
    tags = _tags(registry, 2)
    assert (tags["promotion"], tags["promotion_against"]) == ("refused", V1)
    assert (tags["promotion_reasons"], tags["promotion_run"]) == ("\n".join(facts["reasons"]), "not tracked")
    assert open_case(config, uri).decision == facts


def test_without_a_champion_the_candidate_is_compared_with_the_codec(
    config: EvaluateConfig, uri: str, registry: Registry
) -> None:
    registry.client.delete_registered_model_alias("apollo", CHAMPION)
    case = _recorded(config, uri)
    assert case.models == (f"{V2}=models:/apollo/2",)
    facts = case.decide(_scores(v2=3.0), config, None)
    assert facts["promoted"] is True and "champion (" not in "".join(facts["reasons"])
    assert _aliases(registry) == (V2, V2)
    assert _tags(registry, 2)["promotion_against"] == "no champion yet"
    again = open_case(config, uri)
    assert again.champion is None and again.models == case.models and again.decision == facts


def test_candidate_that_is_the_champion_needs_no_decision(
    config: EvaluateConfig, uri: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_alias(CHAMPION, Version("apollo", 2))
    _touch_nothing(monkeypatch)
    case = _recorded(config, uri)
    assert case.models == (f"{V2}=models:/apollo/2",)
    facts = case.decide(_scores(v2=3.0), config, None)
    assert facts == {
        "promoted": False,
        "reasons": [f"{V2} is the champion already: nothing to decide"],
        "champion": V2,
    }


@pytest.mark.parametrize("visqol", [3.0, 2.2])
def test_a_champion_that_was_not_scored_is_never_replaced(
    config: EvaluateConfig, uri: str, registry: Registry, visqol: float
) -> None:
    case = _recorded(config, uri)
    registry.set_alias(CHAMPION, Version("apollo", 5))
    scores = _scores(v1=2.5, v2=visqol)
    for _ in range(2):  # it stays undecided
        facts = case.decide(scores, config, None)
        reason = f"{V5} became champion meanwhile: run again with another --output"
        assert facts == {"promoted": False, "reasons": [reason], "champion": V5}
        assert _aliases(registry) == (V2, V5) and _tags(registry, 2) == {}
        case = _recorded(config, uri)
        assert case.decision is None and case.champion == registry.version(1)
    registry.client.delete_registered_model_alias("apollo", CHAMPION)
    (reason,) = case.decide(scores, config, None)["reasons"]
    assert reason == "apollo lost its champion meanwhile: run again with another --output"
    assert _aliases(registry) == (V2, None)


def _fail(*_: Any) -> None:
    raise OSError("killed")


@pytest.mark.parametrize(
    ("owner", "method", "moved", "tagged"),
    [(Registry, "set_alias", V1, 0), (Registry, "set_tags", V2, 0), (PromotionCase, "_write", V2, 4)],
)
def test_interrupted_decision_is_completed(
    config: EvaluateConfig,
    uri: str,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    moved: str,
    tagged: int,
) -> None:
    scores, case = _scores(v1=2.5, v2=3.0), _recorded(config, uri)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, _fail)
        with pytest.raises(OSError, match="killed"):
            case.decide(scores, config, None)
    assert _aliases(registry) == (V2, moved)
    assert len(_tags(registry, 2)) == tagged  # none says promoted before it is
    again = _recorded(config, uri)
    assert again.decision is None and again.models == case.models
    facts = again.decide(scores, config, None)
    assert facts["promoted"] is True and _aliases(registry) == (V2, V2)
    assert (_tags(registry, 2)["promotion"], _tags(registry, 2)["promotion_against"]) == ("promoted", V1)
    assert open_case(config, uri).decision == facts


@pytest.mark.parametrize("is_decided", [False, True])
def test_another_candidate_needs_another_output(
    config: EvaluateConfig, uri: str, registry: Registry, tmp_path: Path, is_decided: bool
) -> None:
    case = _recorded(config, uri)
    if is_decided:
        case.decide(_scores(v1=2.5, v2=3.0), config, None)
    before = evaluation_jobs.states(Path(config.output))
    registry.set_alias(CANDIDATE, Version("apollo", 3))
    words = "decided about" if is_decided else "was created for"
    with pytest.raises(UsageError, match=f"{words} {V2}: use another --output for apollo-v3"):
        open_case(config, uri)
    assert evaluation_jobs.states(Path(config.output)) == before
    other = open_case(_config(tmp_path / "other", uri), uri)
    assert other.candidate == registry.version(3)
    registry.client.delete_registered_model_alias("apollo", CANDIDATE)
    assert open_case(config, uri).models == case.models  # no other candidate
    registry.client.delete_model_version("apollo", "1")
    with pytest.raises(UsageError, match=f"is about {V1}, which was deleted from the registry"):
        open_case(config, uri)


def test_case_is_recorded_once(config: EvaluateConfig, uri: str, registry: Registry) -> None:
    case, output = open_case(config, uri), Folder(config.output)
    assert not Path(config.output).exists()  # the output is not claimed yet
    case.record(output)
    kept = {"name": "apollo", "candidate": 2, "champion": 1, "decision": None}
    assert json.loads(output.read(PROMOTION)) == kept
    decision = case.decide(_scores(v1=2.5, v2=3.0), config, None)
    case.record(output)
    assert json.loads(output.read(PROMOTION)) == kept | {"decision": decision}
    PromotionCase(("a model",)).record(Folder(f"{config.output}-plain"))
    assert not Path(f"{config.output}-plain").exists()


def test_a_decision_under_the_old_file_name_is_still_read(
    config: EvaluateConfig, uri: str, registry: Registry
) -> None:
    facts = _recorded(config, uri).decide(_scores(v1=2.5, v2=3.0), config, None)
    output = Path(config.output)
    (output / PROMOTION).rename(output / "contest.json")
    with pytest.warns(FutureWarning, match="contest.json is now called promotion.json") as seen:
        case = _recorded(config, uri)
    assert len({str(one.message) for one in seen if one.category is FutureWarning}) == 1
    assert case.decision == facts
    assert not (output / PROMOTION).exists()


def test_weights_with_another_digest_are_refused(uri: str, tmp_path: Path) -> None:
    client = make_client(uri)
    experiment = client.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri())
    folder, run_id = (
        evaluation_jobs.write_model(tmp_path / "model"),
        client.create_run(experiment).info.run_id,
    )
    version = register(str(folder), RegistryConfig(), uri, run_id=run_id, tags={}, scores={})
    digest = version.tags[DIGEST]
    client.set_model_version_tag("apollo", "1", DIGEST, f"{int(digest, 16) ^ 1:064x}")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="models:/apollo/1 has other weights than"):
            checkpoint.load("models:/apollo/1")
        assert list((tmp_path / "cache" / "apollo" / "models").iterdir()) == []
    client.set_model_version_tag("apollo", "1", DIGEST, digest)
    assert pack(checkpoint.load("models:/apollo/1")).digest == digest
