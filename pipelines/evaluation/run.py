"""Evaluate: models x degradations over the same items, scored and told; what jobs/evaluate.py calls.

The files of an evaluation:

    OUTPUT/
      fingerprint.json  models.json   what decides the scores; another run on the same output is refused
      scores/                         a file a model and degradation (`pipelines.evaluation.score_files`)
      rtf/                            real-time factors, by model
      contest.json                    with `promote`: who contested, and what was decided
      scores.parquet                  all scores: a row a model, item and degradation
      *.csv  *.md  *.png              the tables and figures
      report.html                     the same, to look at and to listen to
      result.json                     how the run ended
"""

import hashlib
import json
import logging
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.shards import read_commits
from pipelines.errors import UsageError, root_cause
from pipelines.evaluation import promotion
from pipelines.evaluation.analysis.bootstrap import Bootstrap
from pipelines.evaluation.analysis.summary import conclusions
from pipelines.evaluation.analysis.tables import ModelFacts
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import Collection, find_cutoff_hz
from pipelines.evaluation.models import Contestant, find_contestants
from pipelines.evaluation.pair_items import PairItems
from pipelines.evaluation.real_time_factor import measure
from pipelines.evaluation.report import REPORT, VERDICTS, choose_heard, is_told, tell, told_files
from pipelines.evaluation.score_files import Trial, commit_of, read_scores
from pipelines.evaluation.shard_items import ShardItems
from pipelines.evaluation.tracking import Child, track
from pipelines.redaction import shown
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.runtime.run import claim, run_held
from pipelines.runtime.signals import catch_sigterm
from pipelines.runtime.versions import software_versions
from pipelines.schema import METRICS, STATUSES, UNREADABLE
from pipelines.storage.folder import Folder, join
from pipelines.storage.parquet import parquet_bytes

logger = logging.getLogger(__name__)

MODELS, SCORES = "models.json", "scores.parquet"
_RTF = "rtf"


def evaluate(config: EvaluateConfig) -> Outcome:
    """Evaluate to the end, however it ends, and leave result.json.

    An output that another run holds, or that was begun with something else, is left as it is.
    """
    run = _Evaluation(config)
    left = "what is scored stands, run the same command again to continue"
    with promotion.own_registry():
        return run_held(run.output, run.prepare, run.work, doing="evaluating", left=left)


class _Evaluation:
    def __init__(self, config: EvaluateConfig) -> None:
        self.config, self.output = config, Folder(config.output)

    def prepare(self) -> Outcome | None:
        """Find items and models, and claim the output."""
        config = self.config
        self.uri = promotion.tracking_uri(config)
        self.collection = open_collection(config.data, config.split, config.degradations, config.limit)
        if not self.collection.items:
            raise UsageError(f"{config.data} has no items to score")
        if config.promote and not isinstance(self.collection, ShardItems):
            raise UsageError(
                f"{config.data} is no output of preprocess: champions are chosen on its split valid"
            )
        self.contest = promotion.open_contest(config, self.uri)
        self.contestants = find_contestants(self.contest.models, self.collection.given)
        self.degradations = [one.name for one in self.collection.degradations]
        claim(self.output, self._fingerprint())
        self._claim_names()
        self.contest.begin(self.output)
        self.trials = [
            Trial(one.name, one.digest, name, len(self.collection.numbers(name)))
            for one in self.contestants
            for name in self.degradations
        ]
        return None

    def _fingerprint(self) -> dict[str, Any]:
        from importlib.metadata import version

        import torch

        names = repr([one.name for one in self.collection.items])
        return {
            "data": self.collection.fingerprint,
            "split": self.config.split,
            "degradations": self.degradations,
            "items": hashlib.sha256(names.encode()).hexdigest(),
            "precision": self.config.precision,
            "versions": software_versions(None)
            | {"torch": torch.__version__.partition("+")[0], "visqol": version("visqol-python")},
        }

    def _claim_names(self) -> None:
        """Keep which weights a name stands for: models may be added, but never change behind a name."""
        there = json.loads(self.output.read(MODELS)) if self.output.exists(MODELS) else {}
        here = {
            one.name: {"source": one.source, "digest": one.digest, "parameters": one.parameters}
            for one in self.contestants
        }
        for name, facts in here.items():
            if there.get(name, facts)["digest"] != facts["digest"]:
                raise UsageError(
                    f"{self.output.location} holds scores of other weights called {name!r}, from "
                    f"{there[name]['source']}: give these a name of their own, as in --models "
                    f"new={facts['source']}"
                )
        if there | here != there:
            self.output.write(MODELS, json.dumps(there | here, indent=1).encode())

    def work(self) -> Outcome:
        """Score what is open, and tell it."""
        opened = [trial for trial in self.trials if self._is_open(trial)]
        wanted = [one for one in self.contestants if one.bundle and self.config.rtf_runs]
        unmeasured = [one for one in wanted if not self._real_times(one)]
        if opened or unmeasured or not is_told(self.output, self._key()):
            failed = self._run(opened)
            if failed:
                return Outcome(Exit.FAILED, f"{failed}; what is scored stands, run the same command again")
        scores = self._gather()
        facts: dict[str, Any] = {"report": join(self.config.output, REPORT), **_count(scores)}
        facts |= {"verdicts": json.loads(self.output.read(VERDICTS)), "mlflow_run": self._track()}
        outcome = self._judge(scores, facts)
        if self.config.promote and outcome.code == Exit.DONE:  # nothing is decided on what is left of a split
            decision = self.contest.decide(scores, self.config, facts["mlflow_run"])
            outcome = replace(outcome, facts=facts | decision)
        return outcome

    def _is_open(self, trial: Trial) -> bool:
        """Tell whether a trial is to be run: what could not be read may be there by now."""
        scores = read_scores(self.output, trial)
        return scores is None or UNREADABLE in scores["status"].to_pylist()

    def _run(self, opened: list[Trial]) -> str | None:
        """Do what needs Ray; gives what failed, if anything."""
        from pipelines.cluster import connection
        from pipelines.evaluation.tune_trials import hear, run_trials, scoring_pool

        connection.connect()
        catch_sigterm()  # Ray has put its own handler there
        self._measure()
        cutoffs_hz = {name: find_cutoff_hz(self.collection, name) for name in self.degradations}
        with scoring_pool(self.config, self.collection, self.contestants, cutoffs_hz) as pool:
            if opened:
                done = len(self.trials) - len(opened)
                logger.info(f"scoring {len(opened)} of {len(self.trials)} trials ({done} are done)")
                failed = run_trials(pool, opened)
                if failed:
                    return failed
            scores = self._gather()
            wanted = choose_heard(scores, self._names(), self.config.heard_items)
            numbers = {one.name: number for number, one in enumerate(self.collection.items)}
            places = [(numbers[one.item], one.degradation) for one in wanted]
            heard = list(zip(wanted, hear(pool, places, self._names()), strict=True)) if wanted else []
        tell(self.config, self.output, scores, self._facts(), heard, key=self._key(), making=self._making())
        return None

    def _making(self) -> str:
        """Say on which hardware scores and real-time factors were made."""
        devices = {json.loads(commit_of(self.output, trial))["device"] for trial in self.trials}
        measured = [times for one in self.contestants for times in self._real_times(one).values()]
        hardware = {f"{times['device']}, {times['threads']} threads" for times in measured}
        parts = [f"Models ran on {' and '.join(sorted(devices))} in {self.config.precision}."]
        parts += [f"Real-time factors: {'; '.join(sorted(hardware))}."] if hardware else []
        return " ".join(parts)

    def _names(self) -> list[str]:
        return [one.name for one in self.contestants]

    def _key(self) -> str:
        """Give what the tables and the page are made of, as a hash."""
        commits = [commit_of(self.output, trial) for trial in self.trials]
        measured = [self._real_times(one) for one in self.contestants]
        settings = (self.config.bootstrap_resamples, self.config.bootstrap_seed, self.config.heard_items)
        return hashlib.sha256(repr((commits, measured, settings)).encode()).hexdigest()

    def _measure(self) -> None:
        """Measure real-time factors, one after the other, before anything else of this run computes."""
        from pipelines.cluster import connection
        from pipelines.evaluation.tune_trials import measure_alone

        config = self.config
        devices = ("cpu", "cuda") if config.gpu and connection.connect().gpus else ("cpu",)
        for one in (one for one in self.contestants if one.bundle and config.rtf_runs):
            found = {"digest": one.digest, **self._real_times(one)}
            for device in (name for name in devices if name not in found):
                arguments = one.bundle, config.precision, device, config.rtf_runs, config.rtf_seconds
                measured = measure_alone(measure, *arguments, gpu=device == "cuda")
                if measured is None:
                    logger.warning(
                        f"no machine was free to measure the real-time factor of {one.name} ({device})"
                    )
                    continue
                found[device] = asdict(measured)
                logger.info(
                    f"{one.name}: {measured.milliseconds:.1f} ms for a second of mono, {measured.device}"
                )
            if len(found) > 1:
                self.output.write(f"{_RTF}/{one.name}.json", json.dumps(found, indent=1).encode())

    def _real_times(self, one: Contestant) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.output.read(f"{_RTF}/{one.name}.json"))
        except (OSError, ValueError):
            return {}
        return found if found.pop("digest", None) == one.digest else {}

    def _facts(self) -> dict[str, ModelFacts]:
        measured = {one.name: self._real_times(one) for one in self.contestants}
        return {
            one.name: ModelFacts(
                parameters=one.parameters,
                rtf_ms={device: times["milliseconds"] for device, times in measured[one.name].items()},
                rtf_runs={device: times["runs"] for device, times in measured[one.name].items()},
            )
            for one in self.contestants
        }

    def _gather(self) -> pa.Table:
        """Put all trials' scores together in scores.parquet."""
        tables = [read_scores(self.output, trial) for trial in self.trials]
        whole = [table for table in tables if table is not None]
        if len(whole) < len(tables):
            raise RuntimeError(f"{len(tables) - len(whole)} of {len(tables)} files of scores are not there")
        scores = pa.concat_tables(whole)
        content = parquet_bytes(scores)
        if not self.output.exists(SCORES) or self.output.read(SCORES) != content:
            self.output.write(SCORES, content)
        return scores

    def _track(self) -> str | None:
        """Bring everything to MLflow; gives the run's id, or None where nothing could be brought there."""
        config = self.config
        settings = asdict(config)
        del settings["models"]  # there may be more next time, and MLflow keeps what it was told first
        children = [self._child(trial) for trial in self.trials]
        try:
            return track(
                config.tracking,
                self.uri,
                self.output,
                parent=Child(f"evaluation, {config.split}", self._key(), {"config": settings}),
                tags={"data_fingerprint": self.collection.fingerprint},
                children=children,
                files=[SCORES, *told_files(self.output)],
            )
        except Exception as error:  # whatever a server, a database or a disk throws only delays
            logger.warning(
                f"tracking: {shown(self.uri)} has not got everything ({root_cause(error)}). "
                "Run the same command again to send the rest"
            )
            return None

    def _child(self, trial: Trial) -> Child:
        scores = read_scores(self.output, trial)
        assert scores is not None  # noqa: S101 - our invariant
        means = {name: pc.mean(scores[name]).as_py() for name in METRICS}
        metrics = {name: value for name, value in means.items() if value is not None}
        counts = {status: pc.sum(pc.equal(scores["status"], status)).as_py() for status in STATUSES}
        return Child(
            f"{trial.model}-{trial.degradation}",
            commit_of(self.output, trial),
            {"model": trial.model, "degradation": trial.degradation, "weights": trial.digest},
            metrics | {f"items/{status}": float(count or 0) for status, count in counts.items()},
        )

    def _judge(self, scores: pa.Table, facts: dict[str, Any]) -> Outcome:
        rejected, share = facts["items"][UNREADABLE], facts["items"][UNREADABLE] / max(scores.num_rows, 1)
        bootstrap = Bootstrap(resamples=self.config.bootstrap_resamples, seed=self.config.bootstrap_seed)
        text = " ".join(conclusions(scores, bootstrap=bootstrap))
        if share > self.config.max_reject_share:
            allowed = f"{self.config.max_reject_share:.1%} are allowed"
            return Outcome(
                Exit.REJECTS, f"{rejected} of {scores.num_rows} scores are missing, {allowed}. {text}", facts
            )
        return Outcome(Exit.DONE, text, facts)


def _count(scores: pa.Table) -> dict[str, Any]:
    counted = pc.value_counts(scores["status"]).to_pylist()
    return {"items": dict.fromkeys(STATUSES, 0) | {one["values"]: one["counts"] for one in counted}}


def open_collection(data: str, split: str, degradations: tuple[str, ...], limit: int | None) -> Collection:
    """Open what is to be scored, whichever of the two it is.

    Raises:
        UsageError: there is nothing to score.
    """
    if read_commits(Folder(data)):
        return ShardItems(data, split, degradations, limit)
    return PairItems(data, degradations, limit)
