r"""Serve the page and the HTTP interface of `apollo web` from many replicas, with Ray Serve.

    python jobs/serve.py --folder served --checkpoint compact --port 8000
    ray job submit --no-wait -- python jobs/serve.py --folder /shared/served \
        --checkpoint models:/apollo@champion --min-replicas 2 --max-replicas 16 \
        --host 0.0.0.0 --token-file /shared/token

SIGTERM and Ctrl-C shut the service down: new songs are refused, accepted ones are done first. Exit codes:
0 all that was accepted is done, 1 failed, 2 usage, 130 some songs wait for the next start; FOLDER/result.json
says the same.
"""

import sys

import pipelines  # noqa: F401 - reports what is not installed

# isort: split
from jsonargparse import ArgumentParser

from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.runtime.outcome import Outcome
from pipelines.serving.config import ServeConfig
from pipelines.serving.run import serve


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="serve", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(ServeConfig, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve for a command line and return the exit code."""
    values = parse(build_parser(), arguments, output_option="--folder")

    def job() -> Outcome:
        return serve(ServeConfig(**values))

    return run_job("serve", job, output=values["folder"]).code


if __name__ == "__main__":
    sys.exit(main())
