"""Turn data sets into training shards.

    python jobs/preprocess.py --data /data/musdb18hq /data/moisesdb --output /data/shards
    ray job submit -- python jobs/preprocess.py --data … --output …

Run the same command again to resume. Exit codes: 0 done, 1 failed, 2 usage, 3 more
rejects than allowed, 130 interrupted; also in OUTPUT/result.json.
"""

import sys

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.run import estimate, preprocess, status
from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.runtime.outcome import Exit, Outcome


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="preprocess", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--dry-run", action="store_true", help="estimate size and cost without a run")
    parser.add_argument("--status", action="store_true", help="show the progress of the output")
    parser.add_argument(
        "--data", type=str, nargs="+", default=[], help="folders or URIs: MUSDB18-HQ, MoisesDB, stems, songs"
    )
    parser.add_class_arguments(PreprocessConfig, skip={"data"}, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run preprocess from a command line and return its exit code."""
    values = parse(build_parser(), arguments)
    dry_run, only_status = values.pop("dry_run"), values.pop("status")
    only_print = dry_run or only_status

    def job() -> Outcome:
        if only_status:
            print(status(values["output"]))
        elif dry_run:
            print(estimate(PreprocessConfig(**values)))
        return Outcome(Exit.DONE, "") if only_print else preprocess(PreprocessConfig(**values))

    outcome = run_job("preprocess", job, output=None if only_print else values["output"])
    if outcome.facts:
        print(f"open {values['output']}/report.html; the numbers are in report.json", file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
