"""Write examples into one file of tensors, for machines that have only torch.

    python jobs/export.py --data /data/shards --file /data/examples.pt --examples 256 --valid 48

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted; FILE.result.json says the same.
"""

import sys

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.loading.export import ExportConfig, export, write_export_result
from pipelines.runtime.command_line import add_log_level, parse, run_job


def build_parser() -> ArgumentParser:
    """Build the command line from the configuration's fields."""
    parser = ArgumentParser(prog="export", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(ExportConfig, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the export from a command line and return its exit code."""
    values = parse(build_parser(), arguments, output_option="--file", record=write_export_result)
    return run_job(
        "export",
        lambda: export(ExportConfig(**values)),
        record=lambda end: write_export_result(values["file"], end),
    ).code


if __name__ == "__main__":
    sys.exit(main())
