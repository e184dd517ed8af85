"""Run all jobs in a row: on the built-in album of generated music, or on your data.

    make demo
    make demo DATA=/your/folder

Shards, training, evaluation, registry, restored songs, and a page that links them. Run the same command again
to resume. The model is registered in OUTPUT/mlflow.db, whatever MLFLOW_TRACKING_URI says; --tracking_uri
names another registry. OUTPUT/result.json has the outcome.
Exit codes: 0 done, 1 failed, 2 usage, 3 more rejects than allowed, 130 interrupted.
"""

import shlex
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.demo.run import DemoConfig, run_demo
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.preprocess.config import PreprocessConfig
from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.runtime.outcome import Outcome
from pipelines.training.config import TrainConfig

_SET_BY_DEMO = {"data", "output", "models", "split", "promote", "registry", "tracking"}
_PRESETS = Path(__file__).parent / "configs"


def build_parser() -> ArgumentParser:
    """Build the command line."""
    parser = ArgumentParser(prog="demo", description=__doc__, allow_abbrev=False, default_env=False)
    text = "folders or URIs: MUSDB18-HQ, MoisesDB, stems, songs; none takes generated music"
    parser.add_argument("--data", type=str, nargs="+", default=[], help=text)
    parser.add_class_arguments(DemoConfig, skip={"data"}, fail_untyped=False)
    presets = {"preprocess": "preprocess/demo.yaml", "train": "demo.yaml", "evaluate": "evaluate/demo.yaml"}
    for part, name in presets.items():
        text = f"YAML file with options of jobs/{part}.py (%(default)s)"
        parser.add_argument(f"--{part}", type=str, default=str(_PRESETS / name), help=text)
    add_log_level(parser)
    return parser


def _read(kind: type, given: set[str], path: str) -> dict[str, Any]:
    """Read the fields of a configuration from a file, without those that the demo sets.

    Raises:
        UsageError: the file cannot be read, or has an invalid field.
    """
    parser = ArgumentParser(prog=path, default_env=False, exit_on_error=False)
    parser.add_class_arguments(kind, skip=given, fail_untyped=False)
    try:
        values: dict[str, Any] = parser.instantiate(parser.parse_path(path)).as_dict()
    except (ValueError, TypeError, OSError, ArgumentError) as error:
        raise UsageError(f"{path}: {error}") from error
    return values


def main(arguments: list[str] | None = None) -> int:
    """Run the demo as a command line says and return the exit code."""
    values = parse(build_parser(), arguments)
    names = {part: values.pop(part) for part in ("preprocess", "train", "evaluate")}
    values["data"] = tuple(values["data"])

    def job() -> Outcome:
        settings = {
            "preprocess": _read(PreprocessConfig, {"data", "output"}, names["preprocess"]),
            "train": _read(TrainConfig, {"shards", "output", "tracking"}, names["train"]),
            "evaluate": _read(EvaluateConfig, _SET_BY_DEMO, names["evaluate"]),
        }
        return run_demo(DemoConfig(**values), settings)

    outcome = run_job("demo", job, output=values["output"])
    if "page" in outcome.facts:
        print(f"open {shlex.quote(outcome.facts['page'])}", file=sys.stderr)
        print(outcome.facts["mlflow"], file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
