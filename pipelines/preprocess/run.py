"""Preprocess: data sets in, training shards out; what the jobs call.

The stages: `pipelines.preprocess.stages`.
"""

import traceback

from pipelines.errors import UsageError, root_cause
from pipelines.preprocess import audit
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.estimate import make_estimate
from pipelines.preprocess.stages import Outcome, Preprocess
from pipelines.runtime.outcome import RESULT, Exit, write_result
from pipelines.runtime.run import hold, resolve
from pipelines.runtime.signals import interruptible
from pipelines.storage.folder import Folder

__all__ = ["Outcome", "Preprocess", "estimate", "preprocess", "status"]


def preprocess(config: PreprocessConfig) -> Outcome:
    """Run preprocess to its end, however it ends, and leave result.json.

    An output that another run holds, or that was begun with something else, is left as it is.
    """
    output = Folder(config.output)
    try:
        with hold(output), interruptible():
            return _preprocess_held(config, output)
    except UsageError as error:
        return Outcome(Exit.USAGE, str(error), {})
    except OSError as error:
        return Outcome(Exit.FAILED, f"cannot write to {config.output}: {error}", {})


def _preprocess_held(config: PreprocessConfig, output: Folder) -> Outcome:
    run: Preprocess | None = None
    try:
        run = Preprocess(config)
        outcome = run.run()
    except UsageError as error:
        outcome = Outcome(Exit.USAGE, str(error), {}, changed=run is not None and run.claimed)
    except KeyboardInterrupt:
        outcome = Outcome(Exit.INTERRUPTED, "interrupted; run the same command again to continue", {})
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError):
            traceback.print_exc()  # not of the kinds that runs meet; whoever mends it needs the place
        again = "nothing finished is lost, run the same command again"
        outcome = Outcome(Exit.FAILED, f"{root_cause(error)}; {again}", {})
    if outcome.changed or (outcome.code != Exit.USAGE and not output.exists(RESULT)):
        counts = {
            name: outcome.report.get(name)
            for name in ("planned", "committed", "rejected", "rejected_sources")
        }
        write_result(output, outcome.code, outcome.message, **counts)
    return outcome


def estimate(config: PreprocessConfig) -> str:
    """Describe what a run would make and cost."""
    return str(make_estimate(find_songs(config.data), config.recipes, config.codec, config.shards))


def status(output: str) -> str:
    """Describe how far an output is."""
    return audit.status(Folder(resolve(output, "--output")))
