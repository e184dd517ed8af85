"""Evaluate models x degradations over the same items; the implementation of jobs/evaluate.py.

The files of an evaluation:

    OUTPUT/
      fingerprint.json  models.json   what determines the scores; a run with other values is refused
      scores/                         a file per model and degradation (`pipelines.evaluation.score_files`)
      rtf/                            real-time factors, by model
      promotion.json                  with `promote`: candidate, champion and the decision
      scores.parquet                  all scores: a row per model, item and degradation
      *.csv  *.md  *.png              the tables and figures
      report.html                     the same, with audio examples
      result.json                     status, exit code and summary
"""

import hashlib
import json
import logging
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.cluster.connection import check_cluster
from pipelines.dataset.manifest import read_committed
from pipelines.errors import OutputTakenError, UsageError, root_cause
from pipelines.evaluation import promotion
from pipelines.evaluation.alignment import describe_lags
from pipelines.evaluation.analysis.bootstrap import Bootstrap
from pipelines.evaluation.analysis.summary import summarize_overall
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import ItemSource, find_cutoff_hz
from pipelines.evaluation.models import load_models
from pipelines.evaluation.pair_items import PairItems
from pipelines.evaluation.real_time_factor import collect_facts, measure_models, read_rtf
from pipelines.evaluation.report import (
    REPORT,
    SUMMARY,
    choose_listening_examples,
    is_report_current,
    report_files,
    write_report,
)
from pipelines.evaluation.score_files import Trial, collect_lags, read_commit, read_scores
from pipelines.evaluation.shard_items import ShardItems
from pipelines.evaluation.tracking import RunContent, log_evaluation
from pipelines.redaction import redact
from pipelines.runtime.environment import environment
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.run import check_fingerprint, run_exclusively
from pipelines.runtime.signals import install_sigterm_handler
from pipelines.runtime.versions import software_versions
from pipelines.schema import METRICS, METRICS_VERSION, STATUSES, UNREADABLE
from pipelines.storage.folder import Folder, join
from pipelines.storage.parquet import parquet_bytes

logger = logging.getLogger(__name__)

MODELS, SCORES = "models.json", "scores.parquet"


def evaluate(config: EvaluateConfig) -> Outcome:
    """Run an evaluation and write result.json, whatever its outcome.

    An output that another run holds, or that was created with another configuration, is not changed.
    """
    run = _Evaluation(config)
    resume_hint = "finished scores are kept, run the same command again to continue"
    with environment({promotion.TRACKING_URI: None}):  # restored: later jobs may use another registry
        return run_exclusively(
            run.output, run.prepare, run.work, activity="evaluating", resume_hint=resume_hint
        )


class _Evaluation:
    def __init__(self, config: EvaluateConfig) -> None:
        self.config, self.output = config, Folder(config.output)

    def prepare(self) -> Outcome | None:
        """Load items and models, and check the output's fingerprint."""
        config = self.config
        check_cluster()
        self.uri = promotion.resolve_tracking_uri(config)
        self.item_source = open_items(
            config.data, config.split, config.degradations, config.limit, align=config.align_pairs
        )
        if not self.item_source.items:
            raise UsageError(f"{config.data} has no items to score")
        if config.promote and not isinstance(self.item_source, ShardItems):
            raise UsageError(
                f"{config.data} is not an output of preprocess: champions are chosen on its split valid"
            )
        self.case = promotion.open_case(config, self.uri)
        self.models = load_models(self.case.models, self.item_source.result_models)
        self.degradations = [one.name for one in self.item_source.degradations]
        check_fingerprint(self.output, self._fingerprint())
        self._check_model_names()
        self.case.record(self.output)
        self.trials = [
            Trial(one.name, one.digest, name, len(self.item_source.indices(name)))
            for one in self.models
            for name in self.degradations
        ]
        return None

    def _fingerprint(self) -> dict[str, Any]:
        from importlib.metadata import version

        import torch

        from pipelines.audio import zimtohrli

        names = repr([one.name for one in self.item_source.items])
        return {
            "data": self.item_source.fingerprint,
            "split": self.config.split,
            "degradations": self.degradations,
            "items": hashlib.sha256(names.encode()).hexdigest(),
            "precision": self.config.precision,
            "versions": software_versions(None)
            | {
                "metrics": str(METRICS_VERSION),
                "torch": torch.__version__.partition("+")[0],
                "visqol": version("visqol-python"),
                "zimtohrli": zimtohrli.installed_version(),
            },
        }

    def _check_model_names(self) -> None:
        """Record the weights of each name: models may be added, but a name keeps its weights."""
        recorded = json.loads(self.output.read(MODELS)) if self.output.exists(MODELS) else {}
        requested = {
            one.name: {"source": one.source, "digest": one.digest, "parameters": one.parameters}
            for one in self.models
        }
        for name, facts in requested.items():
            if recorded.get(name, facts)["digest"] != facts["digest"]:
                raise OutputTakenError(
                    f"{self.output.location} holds scores of other weights named {name!r}, "
                    f"from {recorded[name]['source']}: give these another name, as in --models "
                    f"new={facts['source']}"
                )
        if recorded | requested != recorded:
            self.output.write(MODELS, json.dumps(recorded | requested, indent=1).encode())

    def work(self) -> Outcome:
        """Score what is pending and write the report."""
        pending = [trial for trial in self.trials if self._is_pending(trial)]
        wanted = [one for one in self.models if one.bundle and self.config.rtf_runs]
        unmeasured = [one for one in wanted if not read_rtf(self.output, one)]
        if pending or unmeasured or not is_report_current(self.output, self._key()):
            failed = self._run(pending)
            if failed:
                return Outcome(Exit.FAILED, f"{failed}; finished scores are kept, run the same command again")
        scores = self._collect_scores()
        facts: dict[str, Any] = {"report": join(self.config.output, REPORT), **_count(scores)}
        facts |= {
            "lags": collect_lags(self.output, self.trials),
            "verdicts": json.loads(self.output.read(SUMMARY)),
            "mlflow_run": self._log_to_mlflow(),
        }
        outcome = self._outcome(scores, facts)
        if self.config.promote and outcome.code == Exit.DONE:  # no decision on an incomplete split
            decision = self.case.decide(scores, self.config, facts["mlflow_run"])
            outcome = replace(outcome, facts=facts | decision)
        return outcome

    def _is_pending(self, trial: Trial) -> bool:
        """Return whether a trial has no scores yet, or unreadable items that are to be tried again."""
        scores = read_scores(self.output, trial)
        retry = self.config.retry_unreadable
        return scores is None or (retry and UNREADABLE in scores["status"].to_pylist())

    def _run(self, pending: list[Trial]) -> str | None:
        """Score and write the report on Ray; return the first error, if any."""
        from pipelines.cluster import connection
        from pipelines.evaluation.tune_trials import render_listening_examples, run_trials, scoring_pool

        cluster = connection.connect()
        install_sigterm_handler()  # Ray has installed its own handler
        measure_models(self.config, self.output, self.models, use_gpus=self.config.gpu and cluster.gpus > 0)
        cutoffs_hz = {name: find_cutoff_hz(self.item_source, name) for name in self.degradations}
        with scoring_pool(self.config, self.item_source, self.models, cutoffs_hz) as pool:
            if pending:
                done = len(self.trials) - len(pending)
                logger.info(f"scoring {len(pending)} of {len(self.trials)} trials ({done} are finished)")
                failed = run_trials(pool, pending)
                if failed:
                    return failed
            scores = self._collect_scores()
            chosen = choose_listening_examples(scores, self._names(), self.config.listening_items)
            numbers = {one.name: number for number, one in enumerate(self.item_source.items)}
            places = [(numbers[one.item], one.degradation) for one in chosen]
            rendered = render_listening_examples(pool, places, self._names()) if chosen else []
            examples = list(zip(chosen, rendered, strict=True))
        facts = collect_facts(self.output, self.models)
        write_report(
            self.config, self.output, scores, facts, examples, key=self._key(), hardware=self._hardware()
        )
        return None

    def _hardware(self) -> str:
        """Describe the hardware of scores and real-time factors."""
        devices = {json.loads(read_commit(self.output, trial))["device"] for trial in self.trials}
        measured = [times for one in self.models for times in read_rtf(self.output, one).values()]
        hardware = {f"{times['device']}, {times['threads']} threads" for times in measured}
        parts = [f"Models ran on {' and '.join(sorted(devices))} in {self.config.precision}."]
        parts += [f"Real-time factors: {'; '.join(sorted(hardware))}."] if hardware else []
        return " ".join(parts)

    def _names(self) -> list[str]:
        return [one.name for one in self.models]

    def _key(self) -> str:
        """Return a hash of all that the tables and the report are made from."""
        commits = [read_commit(self.output, trial) for trial in self.trials]
        measured = [read_rtf(self.output, one) for one in self.models]
        settings = (self.config.bootstrap_resamples, self.config.bootstrap_seed, self.config.listening_items)
        return hashlib.sha256(repr((commits, measured, settings)).encode()).hexdigest()

    def _collect_scores(self) -> pa.Table:
        """Combine all trials' scores in scores.parquet."""
        tables = [read_scores(self.output, trial) for trial in self.trials]
        whole = [table for table in tables if table is not None]
        if len(whole) < len(tables):
            raise RuntimeError(f"{len(tables) - len(whole)} of {len(tables)} score files are missing")
        scores = pa.concat_tables(whole)
        content = parquet_bytes(scores)
        if not self.output.exists(SCORES) or self.output.read(SCORES) != content:
            self.output.write(SCORES, content)
        return scores

    def _log_to_mlflow(self) -> str | None:
        """Log to MLflow; return the run's id, or None if logging failed."""
        config = self.config
        settings = asdict(config)
        del settings["models"]  # models may be added later, and MLflow params cannot change
        trials = [self._run_content(trial) for trial in self.trials]
        try:
            return log_evaluation(
                config.tracking,
                self.uri,
                self.output,
                parent=RunContent(f"evaluation, {config.split}", self._key(), {"config": settings}),
                tags={"data_fingerprint": self.item_source.fingerprint},
                trials=trials,
                files=[SCORES, *report_files(self.output)],
            )
        except Exception as error:  # any error of MLflow only delays logging
            logger.warning(
                f"tracking: {redact(self.uri)} has not got everything ({root_cause(error)}). "
                "Run the same command again to send the rest"
            )
            return None

    def _run_content(self, trial: Trial) -> RunContent:
        scores = read_scores(self.output, trial)
        assert scores is not None  # noqa: S101 - our invariant
        means = {name: pc.mean(scores[name]).as_py() for name in METRICS}
        metrics = {name: value for name, value in means.items() if value is not None}
        counts = {status: pc.sum(pc.equal(scores["status"], status)).as_py() for status in STATUSES}
        return RunContent(
            f"{trial.model}-{trial.degradation}",
            read_commit(self.output, trial),
            {"model": trial.model, "degradation": trial.degradation, "weights": trial.digest},
            metrics | {f"items/{status}": float(count or 0) for status, count in counts.items()},
        )

    def _outcome(self, scores: pa.Table, facts: dict[str, Any]) -> Outcome:
        rejected, share = facts["items"][UNREADABLE], facts["items"][UNREADABLE] / max(scores.num_rows, 1)
        bootstrap = Bootstrap(resamples=self.config.bootstrap_resamples, seed=self.config.bootstrap_seed)
        text = " ".join(summarize_overall(scores, bootstrap=bootstrap)) + describe_lags(facts["lags"])
        if share > self.config.max_reject_share:
            allowed = f"{self.config.max_reject_share:.1%} are allowed"
            return Outcome(
                Exit.REJECTS,
                f"{rejected} of {scores.num_rows} scores are missing, {allowed}; reasons are in {SCORES}, "
                f"and --retry_unreadable true tries again. {text}",
                facts,
            )
        return Outcome(Exit.DONE, text, facts)


def _count(scores: pa.Table) -> dict[str, Any]:
    counted = pc.value_counts(scores["status"]).to_pylist()
    return {"items": dict.fromkeys(STATUSES, 0) | {one["values"]: one["counts"] for one in counted}}


def open_items(
    data: str, split: str, degradations: tuple[str, ...], limit: int | None, *, align: bool = False
) -> ItemSource:
    """Open the items of an output of preprocess or of a folder of pairs.

    Raises:
        UsageError: there are no items.
    """
    if read_committed(Folder(data)):
        return ShardItems(data, split, degradations, limit)
    return PairItems(data, degradations, limit, align=align)
