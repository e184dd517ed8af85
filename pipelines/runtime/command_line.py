"""What the command lines of all jobs share; the parser is the job's: only scripts import jsonargparse."""

import sys
from collections.abc import Sequence
from typing import Any

from pipelines.runtime import logs


def add_log_level(parser: Any) -> None:
    """Add `--log_level` to a job's parser."""
    parser.add_argument(
        "--log_level", choices=logs.LEVELS, default="INFO", help="least level of the lines on stderr"
    )


def parse(parser: Any, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse a job's command line and start logging at its level; wrong ones end the process with status 2.

    Args:
        parser: The job's, with `add_log_level` done.
        arguments: Of the command; those of this process by default.

    Returns:
        Values by option, without `config` and `log_level`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        values: dict[str, Any] = parser.instantiate(
            parser.parse_args(with_underscores(parser, given))
        ).as_dict()
    except ValueError as error:
        parser.error(str(error))
    values.pop("config", None)
    logs.configure(values.pop("log_level"))
    return values


def with_underscores(parser: Any, arguments: Sequence[str]) -> list[str]:
    """Write options with underscores where the parser has no such name with dashes: --log-level."""
    return [_with_underscores(parser, argument) for argument in arguments]


def _with_underscores(parser: Any, argument: str) -> str:
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name in parser._option_string_actions:
        return argument
    return "--" + name[2:].replace("-", "_") + equals + value
