"""The table of docs/faults.md names a test for each fault, and each named test exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| ([FTS]?\d+) \|.*\|([^|]+)\|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_fault_has_a_test_that_exists() -> None:
    rows = {
        number: _TEST.findall(tests) for number, tests in _ROW.findall((ROOT / "docs/faults.md").read_text())
    }
    files, training, serving = (
        [f"{kind}{number + 1}" for number in range(count)] for kind, count in (("F", 24), ("T", 10), ("S", 7))
    )
    assert list(rows) == [*map(str, range(1, 37)), *files, *training, *serving]
    for number, tests in rows.items():
        assert tests, f"fault {number} names no test"
        for path, name in tests:
            tree = ast.parse((ROOT / path).read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"fault {number}: {path} has no {name}"
