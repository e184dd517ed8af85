"""Faults of networks and machines: cables that come off, hosts that die and others that join."""

from pathlib import Path

import pytest

from tests.support import host_faults, invariants, network_namespaces, training_jobs


@pytest.mark.skipif(bool(network_namespaces.why_not()), reason=str(network_namespaces.why_not()))
@pytest.mark.faults
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_26_a_cable_off_for_seconds_and_a_host_that_dies_change_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Three hosts with a network each, and a token: preprocess, then training on two of them by gloo."""
    trained = tmp_path / "trained"
    alone = training_jobs.start(ray_address, undisturbed, trained, *host_faults.ALONE)
    with host_faults.rack(tmp_path, print) as rack:
        rack.up("head", "ash", "birch")
        host_faults.preprocess(rack, data, tmp_path / "shards")
        host_faults.train(rack, undisturbed, tmp_path / "run")
    invariants.check(tmp_path / "shards", undisturbed)
    assert alone.wait(120) == 0, training_jobs.log(trained)
    assert not host_faults.history_differs(tmp_path / "run", trained)
    assert training_jobs.steps(trained) == 24, "or nothing was compared"
