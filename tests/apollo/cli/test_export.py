"""`apollo export`, and `apollo restore` and `apollo stream` with ONNX Runtime."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

import apollo
from apollo.__main__ import main
from apollo.onnx import onnx_generator
from tests.support.datasets import music, write

FULL_SCALE = 1e-4


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("songs") / "song.wav", music(1, 4.3), subtype="FLOAT")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    assert main(["export", "-o", str(path)]) == 0
    return path


def restore(song: Path, folder: Path, *options: str | Path) -> np.ndarray:
    command = ["restore", str(song), "-o", str(folder), "--force", "--precision", "float32"]
    assert main([*command, *map(str, options)]) == 0
    samples: np.ndarray = soundfile.read(folder / "song.wav", dtype="float32")[0]
    return samples


@pytest.mark.parametrize(
    "options", [(), ("--strength", "0.4", "--seed", "9"), ("--keep-below", "4000"), ("--jobs", "2")]
)
def test_a_file_restored_with_onnx_equals_one_restored_with_torch(
    song: Path, exported: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    expected = restore(song, tmp_path / "torch", *options)
    found = restore(song, tmp_path / "file", "--checkpoint", exported, *options)
    assert np.abs(found - expected).max() <= FULL_SCALE
    given = restore(song, tmp_path / "given", "--checkpoint", exported, "--backend", "onnx", *options)
    np.testing.assert_array_equal(given, found)


def test_options_of_the_noise_change_the_result(song: Path, exported: Path, tmp_path: Path) -> None:
    choices = [(), ("--strength", "0"), ("--seed", "1")]
    one, two, three = (
        restore(song, tmp_path / str(number), "--checkpoint", exported, *options)
        for number, options in enumerate(choices)
    )
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - three).max() > 1e-3


def test_the_network_of_torch_is_not_run(
    song: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apollo.Generator, "step", None)
    restore(song, tmp_path, "--checkpoint", exported)


def test_any_checkpoint_is_restored_with_onnx(song: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1))
    checkpoint = apollo.save(generator, tmp_path / "checkpoint")
    expected = restore(song, tmp_path / "torch", "--checkpoint", checkpoint)
    found = restore(song, tmp_path / "onnx", "--checkpoint", checkpoint, "--backend", "onnx")
    assert np.abs(found - expected).max() <= FULL_SCALE


def test_an_album_in_two_processes_equals_one(exported: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"album/{number}.wav", music(number, 1.0))
    command = ["restore", str(tmp_path / "album"), "--checkpoint", str(exported)]
    assert main([*command, "-o", str(tmp_path / "one")]) == 0
    assert main([*command, "-o", str(tmp_path / "two"), "--jobs", "2"]) == 0
    for name in ("1.wav", "2.wav"):
        one, two = (soundfile.read(tmp_path / folder / name)[0] for folder in ("one", "two"))
        np.testing.assert_array_equal(one, two)


def test_a_stream_is_restored_with_onnx(exported: Path) -> None:
    samples = music(1, 1.0).astype(np.float32)
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "apollo", "stream", "--precision", "float32", *options],
            input=samples.tobytes(),
            capture_output=True,
            check=True,
        ).stdout
        for options in ((), ("--checkpoint", str(exported)))
    ]
    expected, found = (np.frombuffer(output, np.float32) for output in outputs)
    assert len(found) == samples.size
    assert np.abs(found - expected).max() <= FULL_SCALE


def test_memory_is_bounded_however_long_a_song_is(exported: Path, tmp_path: Path) -> None:
    code = """
import sys
from apollo.__main__ import main
assert main(["restore", sys.argv[1], "-o", sys.argv[2], "--checkpoint", sys.argv[3], "--force"]) == 0
lines = open("/proc/self/status").read().splitlines()  # ru_maxrss would include the parent's memory
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
    peaks = []
    for seconds in (40, 160):
        song = write(tmp_path / f"{seconds}.wav", np.tile(music(1, 10.0), (seconds // 10, 1)))
        arguments = [str(song), str(tmp_path / "out"), str(exported)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 25_000  # KB; the longer song's samples alone are 42 MB in float32


def test_a_file_names_weights_and_licence_and_is_the_same_each_time(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    assert main(["export", "--checkpoint", "compact", "--format", "onnx", "-o", str(again)]) == 0
    assert again.read_bytes() == exported.read_bytes()
    facts = {one.key: one.value for one in onnx.load(again).metadata_props}
    weights = Path(apollo.__file__).parent / "checkpoints/compact/weights.safetensors"
    assert facts["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (facts["weights"], facts["licence"]) == ("compact", "Apache-2.0")


def test_a_published_checkpoint_is_exported(tmp_path: Path) -> None:
    from apollo.checkpoints.published_format import to_published

    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1))
    checkpoint, target = tmp_path / "pytorch_model.bin", tmp_path / "model.onnx"
    torch.save(to_published(generator), checkpoint)
    assert main(["export", "--checkpoint", str(checkpoint), "-o", str(target), "--int8", "--whole"]) == 0
    facts = {one.key: one.value for one in onnx.load(target).metadata_props}
    assert (facts["form"], facts["precision"]) == ("whole", "int8")
    assert facts["weights_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_a_file_that_exists_is_kept_unless_it_may_be_replaced(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("mine")
    assert main(["export", "-o", str(target)]) == 2
    assert "already exists; --overwrite replaces it" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["export", "-o", str(target), "--overwrite"]) == 0
    assert target.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize(
    "options, message",
    [
        (["-o", "model.bin"], "must end in .onnx"),
        (["-o", "none/model.onnx"], "none: no such folder"),
        (["-o", "folder.onnx"], "folder.onnx is a folder"),
        (["-o", "model.onnx", "--checkpoint", "nothing"], "nothing: no such file or folder"),
        (["-o", "model.onnx", "--checkpoint", "song.txt"], "cannot be loaded as a checkpoint"),
        (
            ["-o", "model.onnx", "--checkpoint", "other.onnx"],
            "other.onnx is an exported model, no checkpoint",
        ),
    ],
)
def test_what_cannot_be_exported_is_a_usage_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "song.txt").write_text("no weights")
    (tmp_path / "other.onnx").write_text("")
    before = sorted(tmp_path.iterdir())
    assert main(["export", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing_behind(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "-o", str(small_disk / "model.onnx")]) == 1
    assert "model.onnx cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(small_disk.iterdir())


def foreign(path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["samples"], ["restored"])
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("samples", "restored")]
    graph = onnx.helper.make_graph([node], "foreign", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def changed(path: Path, exported: Path, **facts: str) -> None:
    model = onnx.load(exported)
    before = {one.key: one.value for one in model.metadata_props}
    onnx.helper.set_model_props(model, {**before, **facts})
    onnx.save(model, path)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file or folder"),
        ("text", "is no ONNX file, or is damaged"),
        ("empty", "is no ONNX file, or is damaged"),
        ("truncated", "is no ONNX file, or is damaged"),
        ("foreign", "was not written by `apollo export`"),
        ("whole", "export it without --whole"),
        ("config", "is damaged: its metadata `config`"),
        ("other config", "do not fit its metadata"),
    ],
)
def test_files_that_are_no_streaming_model_are_refused(
    song: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    path = tmp_path / "it.onnx"
    if kind == "text":
        path.write_text("this is no model")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(exported.read_bytes()[:-1000])
    elif kind == "foreign":
        foreign(path)
    elif kind == "whole":
        assert main(["export", "-o", str(path), "--whole"]) == 0
    elif kind == "config":
        changed(path, exported, config="{")
    elif kind == "other config":
        changed(path, exported, config="{}")
    capsys.readouterr()
    assert main(["restore", str(song), "-o", str(tmp_path / "out"), "--checkpoint", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--backend", "torch"], "is for --backend onnx, not torch"),
        (["--device", "cuda"], "ONNX Runtime is used on the CPU"),
        (["--precision", "bfloat16"], "is for --backend torch"),
    ],
)
def test_options_that_contradict_an_onnx_file_are_usage_errors(
    song: Path,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    command = ["restore", str(song), "-o", str(tmp_path), "--checkpoint", str(exported)]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_too_little_memory_is_the_reason_of_a_song(
    song: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What ONNX Runtime raises is no MemoryError, and has no base class but Exception."""
    load = onnx_generator.load_onnx

    class Full:
        def __init__(self, session: object) -> None:
            self._session = session

        def run(self, *_: object) -> None:
            raise Exception("bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 1000")

    def load_full(path: Path) -> onnx_generator.OnnxGenerator:
        generator = load(path)
        generator._session = Full(generator._session)
        return generator

    monkeypatch.setattr(onnx_generator, "load_onnx", load_full)
    command = ["restore", str(song), "-o", str(tmp_path / "out"), "--checkpoint", str(exported), "--force"]
    assert main(command) == 1
    assert "out of memory: end other programs" in capsys.readouterr().err
