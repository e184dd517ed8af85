"""What comes with data, models and settings is never run: not unpickled, not built by a tag."""

import ast
from pathlib import Path

import pytest

from pipelines.dataset.shards import read_commits
from pipelines.preprocess.discovery import find_songs
from pipelines.storage.folder import Folder
from tests.support import job_scripts

ROOT = Path(__file__).parents[2]
CODE = [path for room in ("apollo", "pipelines", "jobs") for path in sorted((ROOT / room).rglob("*.py"))]


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """List the calls in a file: what is called, and its named arguments as they are written."""
    return [
        (ast.unparse(node.func), {str(one.arg): ast.unparse(one.value) for one in node.keywords})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_unpickles_evaluates_or_starts_a_shell(path: Path) -> None:
    forbidden = {
        "eval", "exec", "compile", "__import__", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "np.load",
        "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pd.read_pickle",
        "joblib.load", "torch.jit.load", "torch.hub.load", "mlflow.pyfunc.load_model",
        "mlflow.pytorch.load_model",
    }  # fmt: skip
    for called, named in calls(path):
        assert called not in forbidden, f"{path}: {called}"
        assert called.partition(".")[0] not in ("pickle", "cloudpickle", "marshal", "shelve", "dill")
        assert not called.endswith((".loads", ".Unpickler")) or called == "json.loads", f"{path}: {called}"
        assert named.get("shell", "False") == "False", f"{path}: {called}"
        assert called != "torch.load" or named["weights_only"] == "True", f"{path}: {called}"
        assert "allow_pickle" not in named, f"{path}: {called}"
        assert "_object" not in called or not called.startswith("distributed."), (
            f"{path}: torch sends pickles"
        )


@pytest.mark.parametrize("job", ["preprocess", "train", "evaluate", "restore"])
def test_tags_in_a_yaml_file_of_settings_make_nothing(
    job: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "planted.yaml").write_text(f"output: !!python/object/apply:os.mkdir ['{mark}']\n")
    assert job_scripts.run(job, ["--config", str(tmp_path / "planted.yaml")]) == 2
    assert "python/object" in "".join(capfd.readouterr())
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 50_000, "NaN", "null", '"x"', "[1]", '{"rows": 1e400}']
)
def test_json_that_is_no_commit_or_listing_is_a_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "commits").mkdir()
    (tmp_path / "commits/train-00000.json").write_text(content)
    assert read_commits(Folder(str(tmp_path))) == {}
    song = tmp_path / "data/song"
    (song / "vocals").mkdir(parents=True)
    (song / "vocals/1.wav").write_bytes(b"RIFF")
    (song / "data.json").write_text(content)
    (reject,) = find_songs([str(tmp_path / "data")]).rejects
    assert "data.json cannot be read" in reject[1]
