"""Estimate core-hours, GPU-hours, disk, network, memory and cost of a run before it starts.

    python jobs/scale.py --songs 390 --recipes 60500 --cores 64 --gpus 8 --gpu_step_seconds 0.025
    python jobs/scale.py … --prices.core_hour 0.05 --prices.gpu_hour 3 --prices.gb_month 0.02 --json
    python -m benchmarks.rates rates.json && python jobs/scale.py --rates rates.json …

The default rates were measured on the machine described in docs/scaling.md; the third line measures yours.
No prices are built in. Nothing is written. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipelines.runtime.signals import defer_signals

if __name__ == "__main__":
    defer_signals()  # while the imports below take seconds

from jsonargparse import ArgumentParser

from pipelines.capacity.estimate import Plan, Rates, estimate
from pipelines.errors import UsageError
from pipelines.runtime.command_line import add_log_level, parse, run_job
from pipelines.runtime.outcome import Exit, Outcome


def build_parser() -> ArgumentParser:
    """Return the parser: the fields of `Plan`, and output."""
    parser = ArgumentParser(prog="scale", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    default = Path(__file__).parent / "configs/rates.json"
    parser.add_argument("--rates", type=str, default=str(default), help="measured rates")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_class_arguments(Plan, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    values = parse(build_parser(), arguments)
    as_json, file = values.pop("json"), values.pop("rates")

    def job() -> Outcome:
        try:
            rates = Rates.from_json(Path(file).read_bytes())
        except OSError as error:
            raise UsageError(f"--rates {file}: {error.strerror}") from error
        estimated = estimate(Plan(**values), rates)
        if as_json:
            print(json.dumps(asdict(estimated) | {"measured_on": rates.machine}, indent=1))
        else:
            print(f"{estimated}\nmeasured on {rates.machine}")
        return Outcome(Exit.DONE, "")

    return run_job("scale", job).code


if __name__ == "__main__":
    sys.exit(main())
