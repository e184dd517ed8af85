"""What the command lines of all jobs share; the parser is the job's: only scripts import jsonargparse."""

import re
import sys
from argparse import ArgumentError, HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.errors import OutputTakenError
from pipelines.runtime import logs
from pipelines.runtime.outcome import Exit, Outcome, outcome_of_error
from pipelines.runtime.run import record_end
from pipelines.runtime.signals import sigterm_as_interrupt


def add_log_level(parser: Any) -> None:
    """Add `--log_level` to a job's parser."""
    parser.add_argument(
        "--log_level", choices=logs.LEVELS, default="INFO", help="least level of the lines on stderr"
    )


def parse(
    parser: Any,
    arguments: Sequence[str] | None = None,
    *,
    output_option: str = "--output",
    record: Callable[[str, Outcome], None] = record_end,
) -> dict[str, Any]:
    """Parse a job's command line and start logging at its level.

    A wrong one ends the process with status 2, and is recorded in the result.json of its output.

    Args:
        parser: The job's, with `add_log_level` done.
        arguments: Of the command; those of this process by default.
        output_option: Names the output.
        record: Writes the result.json of an output.

    Returns:
        Values by option, without `config` and `log_level`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    given = with_underscores(parser, given)
    parser.formatter_class = _formatter(parser.formatter_class)
    parser.exit_on_error = False
    try:
        values: dict[str, Any] = parser.instantiate(parser.parse_args(given)).as_dict()
    except (ArgumentError, ValueError) as error:
        parser.exit_on_error = True
        if output := _find_value(output_option, given):
            record(output, Outcome(Exit.USAGE, str(error)))
        parser.error(str(error))
    values.pop("config", None)
    logs.configure(values.pop("log_level"))
    return values


def run_job(
    name: str,
    job: Callable[[], Outcome],
    *,
    output: str | None = None,
    record: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run a job, print its outcome on stderr, and return it: no error leaves this function.

    Args:
        name: Of the command.
        job: Builds the configuration and runs the job, which writes result.json from the moment that it has
            locked its output.
        output: Folder or URI whose result.json tells of an error before that, such as an invalid option.
        record: Does so instead.
    """
    try:
        with sigterm_as_interrupt():
            outcome = job()
    except OutputTakenError as error:
        outcome = Outcome(Exit.USAGE, str(error))
    except (Exception, KeyboardInterrupt) as error:
        outcome = outcome_of_error(error, "nothing was started", checking=True)
        if record:
            record(outcome)
        elif output:
            record_end(output, outcome)
    if outcome.message:
        print(f"{name}: {outcome.message}", file=sys.stderr)
    return outcome


def _formatter(base: type[HelpFormatter]) -> type[HelpFormatter]:
    """Return a formatter that keeps the lines of examples, and writes options with dashes."""

    class Formatter(base, RawDescriptionHelpFormatter):  # type: ignore[misc, valid-type]
        def format_help(self) -> str:
            text: str = super().format_help()
            return re.sub(r"--[a-z][\w.]*", lambda option: option[0].replace("_", "-"), text)

    return Formatter


def _find_value(option: str, arguments: Sequence[str]) -> str | None:
    """Return the value of an option in a command line that cannot be parsed."""
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option:
            return following
    return None


def with_underscores(parser: Any, arguments: Sequence[str]) -> list[str]:
    """Write options with underscores where the parser has no such name with dashes: --log-level."""
    return [_with_underscores(parser, argument) for argument in arguments]


def _with_underscores(parser: Any, argument: str) -> str:
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name in parser._option_string_actions:
        return argument
    return "--" + name[2:].replace("-", "_") + equals + value
