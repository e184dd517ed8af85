"""`python -m apollo.training` as people start it: a process, a file of examples, a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch

import apollo
import apollo.training.loop
from apollo.training.checkpoint_manager import CheckpointManager

SAMPLES, ROOT = 1_500, Path(__file__).parents[3]
SMALL = ("--preset", "demo", "--batch-size", "1", "--epoch-examples", "2", "--validation-examples", "1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _part(count: int, prefix: str) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(count)
    clean = torch.randint(-9_000, 9_000, (count, 2, SAMPLES), generator=draw, dtype=torch.int16)
    return {
        "names": [f"{prefix}{number}" for number in range(count)],
        "degradations": ["mp3_24000"],
        "clean": clean,
        "degraded": (clean // 2)[:, None],
        "steps": torch.full((count, 1), 1 / 32_768),
        "gains": torch.ones(count, 1),
    }


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "examples.pt"
    torch.save({"format": 1, "sample_rate": 44_100, **_part(4, "t"), "valid": _part(2, "v")}, path)
    return path


def _start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "apollo.training", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )


@pytest.fixture
def main() -> Iterator[Callable[[Sequence[str]], int]]:
    """The command in this process; loaded as a script, so that no module takes the function's name."""
    found = util.spec_from_file_location("fit_command", ROOT / "apollo" / "training" / "__main__.py")
    assert found is not None and found.loader is not None
    command = util.module_from_spec(found)
    found.loader.exec_module(command)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield command.main
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _options(examples: Path, output: Path, *more: str) -> list[str]:
    return ["--examples", str(examples), "--output", str(output), *SMALL, *more]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_trains_logs_and_resumes(
    examples: Path,
    tmp_path: Path,
    main: Callable[[Sequence[str]], int],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = ("--weight", "g/waveform=0.5", "--history")
    first = _start(*_options(examples, tmp_path, "--max-steps", "2", "--log-steps", "1", *told))
    out, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert (out, said.splitlines()[-1]) == ("", f"done at step 2, best: {tmp_path / 'best'} (step 2)")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["step"], result["best"], result["skipped"]) == ("done", 2, 2, 0)
    assert result["scores"] == CheckpointManager(tmp_path).scores()[2]
    assert apollo.load(tmp_path).config == apollo.PRESETS["demo"]
    history, metrics = _lines(tmp_path / "history-0.jsonl"), _lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in history] == [line["step"] for line in metrics] == [1, 2]
    assert [line["g/stft"] for line in history] == [line["g/stft"] for line in metrics]
    assert all(name.endswith("/mp3_24000") for line in history for name in line["examples"])

    with pytest.raises(SystemExit) as refused:
        main(_options(examples, tmp_path, "--max-steps", "3", "--clip-norm", "7", *told))
    assert refused.value.code == 2
    assert "was created with different options: --clip-norm was 5.0, is 7.0" in capsys.readouterr().err
    assert main(_options(examples, tmp_path, "--max-steps", "3", *told)) == 0
    assert "resuming from step 2" in caplog.messages
    assert json.loads((tmp_path / "result.json").read_text())["step"] == 3
    history = _lines(tmp_path / "history-0.jsonl")
    assert [line["step"] for line in history] == [1, 2, 3]
    assert ["g/waveform" in line for line in history] == [True, True, True]

    (tmp_path / "options.json").unlink()
    assert main(_options(examples, tmp_path, "--max-steps", "4", "--preset", "causal", *told)) == 1
    assert "step-00000003 holds a different network" in capsys.readouterr().err


def test_the_model_of_the_package_is_trained_further_without_a_discriminator(
    examples: Path, tmp_path: Path, main: Callable[[Sequence[str]], int]
) -> None:
    weights = {"g/stft": 0, "g/adversarial": 0, "g/feature": 0, "g/envelope": 0.6, "g/error": 0.3}
    options = _options(
        *(examples, tmp_path, "--init", "compact", "--generator-optimizer", "muon", "--channels", "mono"),
        *("--piece-seconds", "0.03", "--log-steps", "1", "--generator-learning-rate", "1e-5"),
        *(word for name, weight in weights.items() for word in ("--weight", f"{name}={weight}")),
    )
    assert main([*options, "--max-steps", "1"]) == 0
    assert apollo.load(tmp_path).config == apollo.load("compact").config
    (line,) = _lines(tmp_path / "metrics.jsonl")
    assert {name for name in line if name[:2] in ("g/", "d/")} == {"g/envelope", "g/error"}
    assert "discriminator" not in torch.load(
        next(tmp_path.glob("checkpoints/step-*")) / "weights.pt", weights_only=True
    )
    written = json.loads((tmp_path / "options.json").read_text())
    del written["warmup_steps"]  # as a release without the option wrote it
    (tmp_path / "options.json").write_text(json.dumps(written))
    assert main([*options, "--max-steps", "2"]) == 0
    with pytest.raises(SystemExit):
        main([*options, "--max-steps", "3", "--warmup-steps", "7"])


def test_a_signal_ends_it_with_a_checkpoint(examples: Path, tmp_path: Path) -> None:
    process = _start(*_options(examples, tmp_path, "--history"))
    try:
        history, patience = tmp_path / "history-0.jsonl", time.monotonic() + 120
        while not (history.exists() and history.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "interrupted"
    last = len(_lines(history))
    assert result["step"] == last == CheckpointManager(tmp_path).latest_valid_step()
    assert f"interrupted at step {last}" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch-size", "0"], "batch_size is 0: it must be at least 1"),
        (["--batch-size", "many"], "argument --batch-size: invalid int value: 'many'"),
        (["--precision", "float16"], "precision is 'float16'"),
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--discriminator-norm", "l1"], "invalid choice: 'l1'"),
        (["--weight", "g/wave=1"], "unknown losses in weights: g/wave; the losses are g/stft"),
        (
            ["--weight", "g/waveform"],
            "--weight is 'g/waveform': use LOSS=WEIGHT, such as g/waveform=0.1",
        ),
        (["--weight", "g/waveform=much"], "--weight is 'g/waveform=much': use LOSS=WEIGHT"),
        (["--weight", "g/waveform=-1"], "the weight of g/waveform is -1.0"),
        (["--max-steps", "-1"], "max_steps is -1: it must be 0"),
        (["--device", "abacus"], "device 'abacus' is not available"),
        (["--max-step", "1"], "unrecognized arguments: --max-step"),
        (["--examples", "nowhere.pt"], "nowhere.pt"),
        (["--examples", __file__], "is not a file of examples"),
    ],
)
def test_wrong_options_are_usage_errors_that_write_nothing(
    more: list[str],
    said: str,
    examples: Path,
    tmp_path: Path,
    main: Callable[[Sequence[str]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ending:
        main(_options(examples, tmp_path / "run", *more))
    assert ending.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_examples_are_a_usage_error(
    main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        main([])
    assert ending.value.code == 2
    assert "required: --examples, --output" in capsys.readouterr().err


def test_later_errors_are_one_line(
    examples: Path,
    tmp_path: Path,
    main: Callable[[Sequence[str]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(_options(examples, tmp_path, "--batch-size", "3")) == 1
    assert capsys.readouterr().err == "fit: an epoch of 2 examples has no batch of 3\n"


def test_the_package_keeps_its_function() -> None:
    """The script has the function's name, and nothing that the loop needs brings it in."""
    assert apollo.fit is apollo.training.loop.fit
    assert "apollo.fit" not in sys.modules
