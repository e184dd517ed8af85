"""Command lines of jobs: dashes for underscores, and the level of logging."""

import logging

import pytest
from jsonargparse import ArgumentParser

from pipelines.runtime.command_line import add_log_level, parse


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(prog="job", default_env=False)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--max_share", type=float, default=0.5)
    parser.add_argument("--gan.batch_size", type=int, default=1)
    parser.add_argument("--name", type=str, default="a_b-c")
    add_log_level(parser)
    return parser


@pytest.mark.parametrize("dash", ["-", "_"])
def test_dashes_stand_for_underscores_in_every_option_and_in_no_value(
    parser: ArgumentParser, dash: str
) -> None:
    given = f"--max{dash}share=0.25 --gan.batch{dash}size 4 --name x-y --dry-run --log{dash}level WARNING"
    values = parse(parser, given.split())
    assert values["max_share"] == 0.25
    assert values["gan"]["batch_size"] == 4
    assert values["name"] == "x-y"
    assert values["dry_run"] is True
    assert "log_level" not in values
    assert logging.getLogger("pipelines.any").getEffectiveLevel() == logging.WARNING


def test_help_keeps_lines_of_examples_and_writes_options_with_dashes(
    parser: ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    parser.description = "Do it.\n\n    job --max-share 0.1 \\\n        --name a_b\n    job --dry-run\n"
    with pytest.raises(SystemExit, match="0"):
        parse(parser, ["--help"])
    text = capsys.readouterr().out
    assert parser.description in text
    assert "--gan.batch-size BATCH_SIZE" in text
    assert "--max-share MAX_SHARE" in text
    assert "--max_share" not in text


def test_the_default_level_is_info(parser: ArgumentParser) -> None:
    parse(parser, [])
    assert logging.getLogger("apollo.any").getEffectiveLevel() == logging.INFO


@pytest.mark.parametrize("wrong", ["--log-level=LOUD", "--max-shares=1"])
def test_wrong_options_end_with_2(
    parser: ArgumentParser, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(parser, [wrong])
    assert raised.value.code == 2
    assert wrong.partition("=")[0][2:5] in capsys.readouterr().err
