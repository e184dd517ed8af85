"""Options of `apollo web` that are refused before anything is served."""

import socket
from pathlib import Path

import pytest

from apollo.__main__ import main
from apollo.web import server
from apollo.web.settings import WebSettings


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--max-mb", "0"], "max_bytes is 0"),
        (["--max-queue", "-1"], "max_queue is -1"),
        (["--keep-hours", "nan"], "keep_seconds is nan"),
        (["--token", "short"], "at least 16"),
        (["--token-file", "/no/such/file"], "--token-file /no/such/file cannot be read: No such file"),
        (["--token-file", "/dev/null"], "at least 16"),
        (["--token-file", "/dev/null", "--token", "sixteen characters"], "give one of them"),
        (["--folder", "/no/such/folder", "--port", "0"], "/no/such/folder"),
        (["--host", "no such host"], "known"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("apollo: ") and reason in line


def test_the_token_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sixteen characters"  # noqa: S105 - of nothing
    (tmp_path / "token").write_text(f"{secret}\n")
    given: list[WebSettings] = []
    monkeypatch.setattr(server, "serve", lambda _, settings, **__: given.append(settings))
    assert main(["web", "--token-file", str(tmp_path / "token")]) == 0
    assert given[0].token == secret


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["web", "--port", str(other.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["web", "--help"])
    assert "/api/restore?" in capsys.readouterr().out
