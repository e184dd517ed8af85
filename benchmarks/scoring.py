"""What scoring costs beside the metrics themselves: `python -m benchmarks.scoring [SHARDS [SPLIT]]`.

CPU time: the metrics alone, on samples that lie in memory; the same through a scoring actor's code, which
reads and decodes shards and makes rows; and all that the machine does during a Tune trial on
Ray, from the moment that its actors are ready: it should be idle otherwise.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pipelines.demo.album import album_folders
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import EvaluationItem, find_cutoff_hz
from pipelines.evaluation.metrics import score
from pipelines.evaluation.scorer import Scorer
from pipelines.evaluation.shard_items import ShardItems
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess

_ITEMS, _ROUNDS = 48, 5
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the benchmark and print one line a number."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        shards = sys.argv[1] if len(sys.argv) > 1 else _render(Path(scratch))
        items = ShardItems(shards, sys.argv[2] if len(sys.argv) > 2 else "valid", (), _ITEMS)
        degradation = items.degradations[0].name
        alone, through = _rounds(items, shards, degradation)
        _say("metrics alone, s of CPU an item", alone, len(items.items))
        _say("through a scoring actor's code", through, len(items.items))
        ratios = [one / other for one, other in zip(through, alone)]
        print(
            f"ratio: {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})   target <= 1.10"
        )
        whole = _on_ray(items, shards, degradation, scratch)
        print(
            f"a whole trial on Ray: {whole / len(items.items):.3f} s an item, {whole / min(alone):.3f} times"
        )


def _say(name: str, seconds: list[float], items: int) -> None:
    each = [one / items for one in seconds]
    print(f"{name:40s} {statistics.median(each):.3f} ({min(each):.3f}-{max(each):.3f})", flush=True)


def _render(scratch: Path) -> str:
    config = PreprocessConfig(
        data=album_folders(scratch / "album"),
        output=str(scratch / "shards"),
        recipes=RecipesConfig(train=0, valid=_ITEMS, test_per_category=0),
    )
    preprocess(config)
    return config.output


def _rounds(items: ShardItems, shards: str, degradation: str) -> tuple[list[float], list[float]]:
    """Take both by turns, after a round that does not count."""
    cutoff_hz = find_cutoff_hz(items, degradation)
    scorer = Scorer(items, {degradation: cutoff_hz}, "float32", shards)
    numbers = items.indices(degradation)
    there = [one for one in items.load(numbers, degradation) if isinstance(one, EvaluationItem)]
    alone, through = [], []
    for turn in range(_ROUNDS + 1):
        before = time.process_time()
        for one in there:
            score(one.clean, one.degraded, gain=one.gain, cutoff_hz=cutoff_hz)
        middle = time.process_time()
        scorer.score(numbers, degradation, "untouched", None)
        if turn:
            alone.append(middle - before)
            through.append(time.process_time() - middle)
    return alone, through


def _on_ray(items: ShardItems, shards: str, degradation: str, scratch: str) -> float:
    """Give the CPU seconds of a trial, over all that the machine does meanwhile."""
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
    """Give the processor time of this machine since its start: processes that ended count too."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / _TICKS


if __name__ == "__main__":
    main()
