"""Estimate what a plan needs before anything runs: cores, hours, disk, network, memory and money.

    python jobs/scale.py --songs 390 --recipes 60500 --cores 64 --gpus 8 --gpu_step_seconds 0.025
    python jobs/scale.py … --prices.core_hour 0.05 --prices.gpu_hour 3 --prices.gb_month 0.02 --json
    python -m benchmarks.rates rates.json && python jobs/scale.py --rates rates.json …

The default rates are those of the machine in docs/scaling.md; the third command measures your own. There are
no built-in prices. Exit codes: 0 done, 2 usage.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pipelines  # noqa: F401 - reports what is not installed

# isort: split
from jsonargparse import ArgumentParser

from pipelines.capacity.plan import Plan
from pipelines.capacity.predict import predict
from pipelines.capacity.rates import Rates
from pipelines.errors import UsageError
from pipelines.runtime.command_line import add_log_level, parse
from pipelines.runtime.outcome import Exit


def build_parser() -> ArgumentParser:
    """Build the command line from the plan's fields."""
    parser = ArgumentParser(prog="scale", description=__doc__, allow_abbrev=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument(
        "--rates", type=str, default=str(Path(__file__).parent / "configs/rates.json"), help="measured rates"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_class_arguments(Plan, fail_untyped=False)
    add_log_level(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Estimate for a command line and return the exit code."""
    values = parse(build_parser(), arguments)
    as_json, file = values.pop("json"), values.pop("rates")
    try:
        rates = Rates.from_json(Path(file).read_bytes())
        costs = predict(Plan(**values), rates)
    except (UsageError, OSError) as error:
        print(f"scale: {error}", file=sys.stderr)
        return Exit.USAGE
    if as_json:
        sums = {"core_hours": costs.core_hours, "gpu_hours": costs.gpu_hours}
        print(json.dumps(asdict(costs) | sums | {"measured_on": rates.machine}, indent=1))
    else:
        print(f"{costs}\nmeasured on {rates.machine}")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
