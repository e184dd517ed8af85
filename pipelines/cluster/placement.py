"""The nodes of a cluster: what they have, what an autoscaler may bring, and which of them do what.

Nodes that are there to prepare and to score say so by the custom resource `cpu_node`. Pools of actors then
go to these alone, and leave the CPUs of GPU nodes to trainers and to what feeds them. Where no node says so,
as on one machine, Ray decides: it fills nodes without GPUs first. Trainers go where the GPUs are, and nothing
goes to a head without CPUs.
"""

from pathlib import Path
from typing import Any

import yaml

CPU_NODE = "cpu_node"
_PART = 0.001  # of a node's one: up to 1,000 actors on it
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # what the cluster launcher leaves on the head node


def nodes_up() -> list[dict[str, Any]]:
    """Give Ray's description of every node that is up."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def cpu_share() -> dict[str, float]:
    """Give the custom resource that keeps an actor to CPU nodes; none where no node is said to be one."""
    return {CPU_NODE: _PART} if most_resources().get(CPU_NODE) else {}


def pool_cpus() -> int:
    """Count the CPUs up now that pools of actors may take."""
    declared = bool(cpu_share())
    return int(
        sum(
            node["Resources"].get("CPU", 0)
            for node in nodes_up()
            if not declared or CPU_NODE in node["Resources"]
        )
    )


def node_beside() -> Any:
    """Choose a node that works, for what takes no CPU of its own: Ray would also take a head without any."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    working = [node for node in nodes_up() if node["Resources"].get("CPU")]
    able = [node for node in working if CPU_NODE in node["Resources"]] or working
    if not able:
        return "DEFAULT"
    chosen = max(able, key=lambda node: node["Resources"]["CPU"])
    return NodeAffinitySchedulingStrategy(chosen["NodeID"], soft=True)


def most_resources() -> dict[str, float]:
    """Give what the cluster can have at most: what is up, or what its autoscaler may bring up."""
    import ray

    up: dict[str, float] = ray.cluster_resources()
    found = dict(ray._private.state.state.get_max_resources_from_cluster_config() or {})
    for nodes, resources in _launched_groups():
        for name, amount in resources.items():
            found[name] = found.get(name, 0) + nodes * amount
    return {name: max(up.get(name, 0), found.get(name, 0)) for name in {*up, *found}}


def largest_nodes() -> list[dict[str, float]]:
    """Give the resources of every node that is up, and of every kind that may come."""
    return [
        *(node["Resources"] for node in nodes_up()),
        *(resources for nodes, resources in _launched_groups() if nodes),
    ]


def _launched_groups() -> list[tuple[int, dict[str, float]]]:
    """Read what the cluster launcher may start, where this is the head node of such a cluster."""
    path = Path(_BOOTSTRAP).expanduser()
    if not path.is_file():
        return []
    config = yaml.safe_load(path.read_text())
    return [
        (
            1 if name == config.get("head_node_type") else int(group.get("max_workers", 0)),
            {resource: float(amount) for resource, amount in group.get("resources", {}).items()},
        )
        for name, group in config.get("available_node_types", {}).items()
    ]
