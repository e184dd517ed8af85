"""Faults of networks and machines: cables that come off, hosts that die and others that join."""

from pathlib import Path

import hosts
import oracle
import pytest
import several_hosts
import training_jobs


@pytest.mark.skipif(bool(hosts.why_not()), reason=str(hosts.why_not()))
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_26_a_cable_off_for_seconds_and_a_host_that_dies_change_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Three hosts with a network each, and a token: preprocess, then training on two of them by gloo."""
    trained = tmp_path / "trained"
    alone = training_jobs.start(ray_address, undisturbed, trained, *several_hosts.ALONE)
    with several_hosts.rack(tmp_path, print) as rack:
        rack.up("head", "ash", "birch")
        several_hosts.preprocess(rack, data, tmp_path / "shards")
        several_hosts.train(rack, undisturbed, tmp_path / "run")
    oracle.check(tmp_path / "shards", undisturbed)
    assert alone.wait(120) == 0, training_jobs.log(trained)
    assert not several_hosts.history_differs(tmp_path / "run", trained)
    assert training_jobs.steps(trained) == 24, "or nothing was compared"
