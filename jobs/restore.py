r"""Restore songs on all the machines of a cluster.

    python jobs/restore.py --data album --output restored --checkpoint runs/first/best
    ray job submit -- python jobs/restore.py --data s3://music/in --output s3://music/out \
        --checkpoint models:/apollo@champion --format flac24

Run the same command again to resume, or after songs were added. Exit codes: 0 done,
1 failed, 2 usage, 3 some songs could not be restored while others were, 130 interrupted; OUTPUT/result.json
says the same, OUTPUT/rejects.jsonl why.
"""

import sys

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.restoration.run import RestoreConfig, describe, restore
from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.runtime.outcome import Exit, Outcome


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="restore", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--dry-run", action="store_true", help="print what would be restored")
    parser.add_argument("--overwrite", action="store_true", help="restore again where there are results")
    parser.add_argument(
        "--data", type=str, nargs="+", default=[], help="songs, folders with songs, or URIs of either"
    )
    parser.add_class_arguments(
        RestoreConfig, skip={"data", "overwrite", "picture", "compare"}, fail_untyped=False
    )
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Restore for a command line and return the exit code."""
    values = parse(build_parser(), arguments)
    dry_run = values.pop("dry_run")

    def job() -> Outcome:
        config = RestoreConfig(**values)
        if dry_run:
            print(describe(config))
            return Outcome(Exit.DONE, "")
        return restore(config)

    return run_job("restore", job, output=None if dry_run else values["output"]).code


if __name__ == "__main__":
    sys.exit(main())
