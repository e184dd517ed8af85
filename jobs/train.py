"""Train a generator on shards.

    python jobs/train.py --config jobs/configs/demo.yaml --shards /data/shards --output /data/runs/first
    ray job submit -- python jobs/train.py --config jobs/configs/paper.yaml --shards … --output …

Run the same command again to resume. Exit codes: 0 done, 1 failed, 2 usage, 130
interrupted; OUTPUT/result.json says the same.
"""

import sys

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.training.config import TrainConfig
from pipelines.training.run import train


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="train", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Train for a command line and return the exit code."""
    values = parse(build_parser(), arguments)
    return run_job("train", lambda: train(TrainConfig(**values)), output=values["output"]).code


if __name__ == "__main__":
    sys.exit(main())
