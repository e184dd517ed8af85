"""The scripts of jobs/, called in this process."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(name: str, arguments: list[str]) -> int:
    """Run a script's main function and give its exit code."""
    spec = importlib.util.spec_from_file_location(f"job_{name}", ROOT / f"jobs/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        code: int = module.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return code
