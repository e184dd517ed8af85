"""The rooms: jobs -> pipelines -> apollo, never back; apollo needs torch and the standard library alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("apollo", "pipelines", "jobs")
MAY_IMPORT = {"apollo": {"apollo"}, "pipelines": {"apollo", "pipelines"}, "jobs": {"apollo", "pipelines"}}
# may import more than torch, when called
OUTER = (
    "apollo/audio/",
    "apollo/cli/",
    "apollo/listening/",
    "apollo/onnx/",
    "apollo/checkpoints/hub.py",
    "apollo/checkpoints/io.py",
    "apollo/checkpoints/sharing.py",
    "apollo/web/",
)
WEB_PACKAGES = {"fastapi", "starlette", "uvicorn"}
# the server alone imports them, at its top: FastAPI reads annotations of routes
WEB_MODULES = {
    f"apollo/web/{name}.py" for name in ("access", "application", "server", "song_uploads", "uploads")
}
OUTER_PACKAGES = {
    "soundfile", "safetensors", "huggingface_hub", "ffmpeg", "imageio_ffmpeg", "matplotlib", "tqdm",
    "mutagen", "soxr", "yaml", "onnx", "onnxruntime",
}  # fmt: skip
NEEDS_AN_EXTRA = ("apollo/checkpoints/sharing.py",)  # a class of the extra is a base of one of its own
MAY_IMPORT_IN_PIPELINES = {
    # the last two hold what Ray Tune and Ray Serve call, trials and deployments: no actors of cluster/
    "ray": (
        "cluster/",
        "runtime/prometheus.py",
        "evaluation/tune_trials.py",
        "serving/deployment.py",
    ),
    "mlflow": ("tracking/", "registry/"),
}
LAYERS = {  # a package imports only what stands above it; those on one line never import each other
    "apollo": [
        "metrics rng",
        "model",
        "inference",
        "checkpoints",
        "onnx",
        "training",
        "listening",
        "audio",
        "cli",
        "web",
    ],
    "pipelines": [
        "schema redaction",
        "errors",
        "storage",
        "runtime",
        "cluster",
        "audio",
        "reporting",
        "dataset free_music",
        "preprocess",
        "loading",
        "tracking",
        "registry",
        "training evaluation restoration capacity serving",
        "demo",
    ],
}
ENTRY_POINTS = {"__init__", "__main__"}
BLOCKED = ("ray", "mlflow", "numpy", "pyarrow", "pipelines", *OUTER_PACKAGES, *WEB_PACKAGES)


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize(
    "path", [p for room in ROOMS for p in modules(room)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_room_imports_back(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert (imports(path) & set(ROOMS)) <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", modules("apollo"), ids=lambda p: str(p.relative_to(ROOT)))
def test_apollo_needs_torch_and_the_standard_library_alone(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"torch", "apollo"}
    if str(path.relative_to(ROOT)).startswith(OUTER):
        allowed |= OUTER_PACKAGES
    if str(path.relative_to(ROOT)) in WEB_MODULES:
        allowed |= WEB_PACKAGES
    assert imports(path) <= allowed


def test_apollo_can_be_imported_with_everything_else_blocked() -> None:
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in modules("apollo")
        if str(p.relative_to(ROOT)) not in WEB_MODULES.union(NEEDS_AN_EXTRA)
    ]
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", modules("jobs"), ids=lambda p: p.name)
def test_jobs_define_nothing_that_ray_would_pickle(path: Path) -> None:
    """Scripts have no classes and are small: what a script defines is sent to workers by value."""
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(path.read_text().splitlines()) < 100


@pytest.mark.parametrize("room", ["apollo", "pipelines"])
def test_only_scripts_read_command_lines(room: str) -> None:
    assert not [path for path in modules(room) if "jsonargparse" in imports(path)]


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, at its top or when called."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", [p for room in LAYERS for p in modules(room)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_packages_import_only_what_is_below(path: Path) -> None:
    room, own = path.relative_to(ROOT).with_suffix("").parts[:2]
    rank = {name: number for number, names in enumerate(LAYERS[room]) for name in names.split()}
    if own in ENTRY_POINTS:
        return
    below = {module.split(".")[1] for module in imported_modules(path) if module.startswith(f"{room}.")} - {
        own,
        "__version__",
    }
    assert own in rank, f"{own} is in no layer"
    assert not {name for name in below if rank.get(name, len(rank)) >= rank[own]}


def test_every_layer_exists() -> None:
    for room, layers in LAYERS.items():
        found = {
            path.stem
            for path in (ROOT / room).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert {name for names in layers for name in names.split()} == found - ENTRY_POINTS


@pytest.mark.parametrize("package", ["ray", "mlflow"])
def test_few_packages_import_ray_and_mlflow(package: str) -> None:
    for path in modules("pipelines"):
        if package in imports(path):
            name = str(path.relative_to(ROOT / "pipelines"))
            assert name.startswith(MAY_IMPORT_IN_PIPELINES[package]), f"{name} imports {package}"
