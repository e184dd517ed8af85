"""What goes where on a cluster: pools to CPU nodes, trainers to GPU nodes, no computing on the head."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import network_namespaces

EXPECTED = {
    "SongScanner": ["cpu"],
    "ShardRenderer": ["cpu"],
    "Scorer": ["cpu"],
    "trial": ["cpu"],
    "RayTrainWorker": ["gpu"],
    "review": ["cpu"],
}


def _check(said: str) -> None:
    (found,) = (line for line in said.splitlines() if line.startswith('{"SongScanner"'))
    seen = json.loads(found)
    mixing = set(seen.pop("Mixing"))
    assert seen == EXPECTED, said
    assert mixing and mixing <= {"cpu", "gpu"}, said


def test_every_kind_of_work_is_on_its_kind_of_node(data: Path, tmp_path: Path) -> None:
    """Also where CPU nodes are too few: the CPUs beside GPUs are free, and nobody takes them."""
    done = subprocess.run(
        [sys.executable, "tests/support/placement_probe.py", str(data), str(tmp_path)],
        cwd=network_namespaces.ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    _check(done.stdout)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(network_namespaces.why_not()), reason=str(network_namespaces.why_not()))
def test_autoscaler_brings_each_kind_of_node_from_zero(data: Path, tmp_path: Path) -> None:
    """Ray's AutoscalingCluster ends every Ray that it sees, so it gets a host of its own."""
    with network_namespaces.rack(tmp_path / "hosts", ("alone",)) as rack:
        rack["alone"].boot()
        log = tmp_path / "log"
        command = ["python", "tests/support/placement_probe.py", str(data), str(tmp_path), "from-zero"]
        assert rack["alone"].run(command, log, 300) == 0, log.read_text()
    _check(log.read_text())
