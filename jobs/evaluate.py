"""Score models against the codec whose artifacts they remove, at every degradation.

    python jobs/evaluate.py --data /data/shards --models /data/runs/paper --output /data/evaluations/paper
    python jobs/evaluate.py --data /data/shards --split valid --promote --output /data/evaluations/v3
    ray job submit -- python jobs/evaluate.py --data … --models … --output …

Run the same command again to finish, or with more models to add them. Exit codes: 0 done, 1
failed, 2 usage, 3 more items than allowed that cannot be read, 130 interrupted; OUTPUT/result.json says the
same.
"""

import sys

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.run import evaluate
from pipelines.runtime.command_line import add_log_level, parse, run_job


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="evaluate", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument(
        "--models",
        type=str,
        nargs="*",
        default=[],
        help="runs, checkpoints, names: [NAME=]MODEL[#strength=S] …",
    )
    parser.add_argument(
        "--promote",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="set the alias `champion` to the candidate if it is better",
    )
    parser.add_class_arguments(EvaluateConfig, skip={"models", "promote"}, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Evaluate for a command line and return the exit code."""
    values = parse(build_parser(), arguments)
    values["models"] = tuple(values["models"])
    outcome = run_job("evaluate", lambda: evaluate(EvaluateConfig(**values)), output=values["output"])
    if "report" in outcome.facts:
        print(f"open {outcome.facts['report']}", file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
