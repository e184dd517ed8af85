"""What the help of commands says, and options that a command does not have."""

from pathlib import Path

import pytest

from apollo.__main__ import main


def read_help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_web_has_no_backend_and_takes_no_onnx_file(capsys: pytest.CaptureFixture[str]) -> None:
    text = read_help("web", capsys)
    assert "--checkpoint" in text
    assert "--precision" in text
    assert "onnx" not in text
    with pytest.raises(SystemExit, match="2"):
        main(["web", "--backend", "onnx"])
    assert "--backend" in capsys.readouterr().err


def test_push_publishes_no_checkpoint_that_was_not_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["push", "some/body", "--license", "mit", "-o", str(tmp_path / "look")])
    assert "required: --checkpoint" in capsys.readouterr().err


def test_export_says_that_it_writes_onnx(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Write a model as an ONNX file" in read_help("export", capsys)
