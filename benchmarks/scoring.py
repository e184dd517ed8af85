"""Cost of scoring in addition to the metrics: `python -m benchmarks.scoring [SHARDS [SPLIT]]`.

CPU time of the metrics alone, on samples in memory; of a scoring actor's code, which reads and decodes shards
and writes rows; and of the whole machine during a Tune trial on Ray with ready actors: it should be idle.
"""

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measurement import album_config, measure_rounds, median_and_range, print_row
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import EvaluationItem, find_cutoff_hz
from pipelines.evaluation.metrics import score
from pipelines.evaluation.scorer import Scorer
from pipelines.evaluation.shard_items import ShardItems
from pipelines.preprocess.run import preprocess

_ITEMS, _ROUNDS = 48, 5


def main() -> None:
    """Measure and print one line per number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="?", help="output of preprocess; made where not given")
    parser.add_argument("split", nargs="?", default="valid", help="split of the shards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        shards = options.shards
        if not shards:
            config = album_config(Path(scratch), train=0, valid=_ITEMS)
            preprocess(config)
            shards = config.output
        items = ShardItems(shards, options.split, (), _ITEMS)
        count, degradation = len(items.items), items.degradations[0].name
        metrics, actor = score_rounds(items, shards, degradation, _ROUNDS)
        for name, seconds in (("metrics alone", metrics), ("a scoring actor's code", actor)):
            each = [one / count for one in seconds]
            print_row(f"{name}, s of CPU per item", median_and_range(each, ".3f"))
        ratios = [whole / part for whole, part in zip(actor, metrics)]
        print_row("ratio", median_and_range(ratios, ".3f"), "target <= 1.10")
        trial = _measure_trial(items, shards, degradation, scratch)
        value = f"{trial / count:.3f} s per item, {trial / min(metrics):.3f} times"
        print_row("a whole trial on Ray", value)


def score_rounds(
    items: ShardItems, shards: str, degradation: str, rounds: int
) -> tuple[list[float], list[float]]:
    """Return CPU seconds of metrics and of an actor's code, alternating, after one warm-up round."""
    cutoff_hz = find_cutoff_hz(items, degradation)
    scorer = Scorer(items, {degradation: cutoff_hz}, "float32", shards)
    numbers = items.indices(degradation)
    loaded = [item for item in items.load(numbers, degradation) if isinstance(item, EvaluationItem)]

    def score_alone() -> None:
        for item in loaded:
            score(item.clean, item.degraded, gain=item.gain, cutoff_hz=cutoff_hz)

    def score_in_actor() -> None:
        scorer.score(numbers, degradation, "untouched", None)

    metrics, actor = measure_rounds(score_alone, score_in_actor, rounds=rounds, clock=time.process_time)
    return metrics, actor


def _measure_trial(items: ShardItems, shards: str, degradation: str, scratch: str) -> float:
    """Return the CPU seconds of the whole machine during a trial."""
    from pipelines.cluster import connection
    from pipelines.evaluation.models import load_models
    from pipelines.evaluation.score_files import Trial
    from pipelines.evaluation.tune_trials import run_trials, scoring_pool

    connection.connect()
    config = EvaluateConfig(data=shards, output=str(Path(scratch, "out")))
    cutoffs = {degradation: find_cutoff_hz(items, degradation)}
    trial = Trial("untouched", "untouched", degradation, len(items.items))
    with scoring_pool(config, items, load_models((), ()), cutoffs) as pool:
        run_trials(pool, [trial])  # compiles what ViSQOL compiles
        before = _busy_seconds()
        run_trials(pool, [trial])
        return _busy_seconds() - before


def _busy_seconds() -> float:
    times = psutil.cpu_times()  # ended processes included
    return float(times.user + times.nice + times.system)


if __name__ == "__main__":
    main()
