"""Actor pools without Ray, for tests of what actors make: one worker, in the test's own process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from pipelines.cluster import actor_pool, connection
from pipelines.evaluation import tune_trials
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import ItemSource
from pipelines.evaluation.models import EvaluatedModel
from pipelines.evaluation.score_files import Trial, write_scores
from pipelines.evaluation.scorer import Scorer
from pipelines.preprocess import run as preprocess_run
from pipelines.storage.folder import Folder


class _Here(NamedTuple):
    """A value that is not sent anywhere."""

    value: Any

    def get(self) -> Any:
        return self.value


class _Pool(NamedTuple):
    scorer: Scorer
    item_source: ItemSource
    models: dict[str, Any]
    output: Folder


def replace_actors(patch: pytest.MonkeyPatch) -> None:
    """Let preprocess, restore and evaluate work without Ray, which takes seconds to start each actor."""
    patch.setattr(connection, "connect", _connect)
    patch.setattr(connection, "_find_cluster", lambda: None)
    patch.setattr(connection, "share", _Here)
    patch.setattr(actor_pool, "run_actors", _run_actors)
    patch.setattr(preprocess_run, "connect", _connect)
    patch.setattr(preprocess_run, "run_actors", _run_actors)
    patch.setattr(tune_trials, "scoring_pool", _scoring_pool)
    patch.setattr(tune_trials, "run_trials", _run_trials)
    patch.setattr(tune_trials, "render_listening_examples", _render_listening_examples)


def _connect() -> connection.Cluster:
    return connection.Cluster(cpus=1, nodes=1, joined=False, gpus=0, pool_cpus=1)


def _run_actors(
    items: list[dict[str, Any]], worker: type, arguments: tuple[Any, ...], **_: object
) -> Iterator[dict[str, Any]]:
    actor = worker(*arguments)
    for item in items:
        yield actor(item)


@contextmanager
def _scoring_pool(
    config: EvaluateConfig,
    item_source: ItemSource,
    models: Sequence[EvaluatedModel],
    cutoffs_hz: dict[str, float],
) -> Iterator[_Pool]:
    scorer = Scorer(item_source, cutoffs_hz, config.precision, config.data)
    yield _Pool(scorer, item_source, {one.name: one.bundle for one in models}, Folder(config.output))


def _run_trials(pool: _Pool, trials: Sequence[Trial]) -> None:
    for trial in trials:
        numbers = pool.item_source.indices(trial.degradation)
        rows = pool.scorer.score(numbers, trial.degradation, trial.model, pool.models[trial.model])
        write_scores(pool.output, trial, rows, "cpu")


def _render_listening_examples(
    pool: _Pool, wanted: Sequence[tuple[int, str]], names: Sequence[str]
) -> list[dict[str, Any]]:
    models = {name: pool.models[name] for name in names}
    return [pool.scorer.render(number, degradation, models) for number, degradation in wanted]
