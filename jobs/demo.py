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
from pathlib import Path
from typing import Any

import pipelines  # noqa: F401 - reports what is not installed

# isort: split
from jsonargparse import ArgumentParser

from pipelines.demo.run import DemoConfig, run_demo
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.preprocess.config import PreprocessConfig
from pipelines.runtime.command_line import add_log_level, parse
from pipelines.runtime.outcome import Exit
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
    """Read the fields of a configuration from a file, without those that the demo sets."""
    parser = ArgumentParser(prog=path, default_env=False)
    parser.add_class_arguments(kind, skip=given, fail_untyped=False)
    values: dict[str, Any] = parser.instantiate(parser.parse_path(path)).as_dict()
    return values


def main(arguments: list[str] | None = None) -> int:
    """Run the demo as a command line says and return the exit code."""
    parser = build_parser()
    values = parse(parser, arguments)
    try:
        settings = {
            "preprocess": _read(PreprocessConfig, {"data", "output"}, values.pop("preprocess")),
            "train": _read(TrainConfig, {"shards", "output", "tracking"}, values.pop("train")),
            "evaluate": _read(EvaluateConfig, _SET_BY_DEMO, values.pop("evaluate")),
        }
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        outcome = run_demo(DemoConfig(**values | {"data": tuple(values["data"])}), settings)
    except UsageError as error:
        print(f"demo: {error}", file=sys.stderr)
        return Exit.USAGE
    print(f"demo: {outcome.message}", file=sys.stderr)
    if "page" in outcome.facts:
        print(f"open {shlex.quote(outcome.facts['page'])}", file=sys.stderr)
        print(outcome.facts["mlflow"], file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
