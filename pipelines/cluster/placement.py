"""Which node does what: node resources, those that an autoscaler may bring, and scheduling strategies.

Nodes for preprocessing and scoring declare the custom resource `cpu_node`. Actor pools are then placed on
these nodes only, which leaves the CPUs of GPU nodes to training and its data loading. Without any such node,
as on one machine, Ray decides: it fills nodes without GPUs first. Training workers are placed where GPUs are,
and nothing is placed on a head without CPUs.
"""

from pathlib import Path
from typing import Any

import yaml

CPU_NODE = "cpu_node"
_CPU_NODE_AMOUNT = 0.001  # a node has 1: up to 1,000 actors on it
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # written on the head node by the cluster launcher


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's description of every node that is up."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def cpu_node_resource() -> dict[str, float]:
    """Return the custom resource that places an actor on CPU nodes; empty where no node declares it."""
    return {CPU_NODE: _CPU_NODE_AMOUNT} if max_resources().get(CPU_NODE) else {}


def pool_cpus() -> int:
    """Return the number of CPUs up now that actor pools may use."""
    declared = bool(cpu_node_resource())
    return int(
        sum(
            node["Resources"].get("CPU", 0)
            for node in alive_nodes()
            if not declared or CPU_NODE in node["Resources"]
        )
    )


def pick_worker_node() -> Any:
    """Return a scheduling strategy for zero-CPU tasks that prefers worker nodes over a head without CPUs."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with_cpus = [node for node in alive_nodes() if node["Resources"].get("CPU")]
    candidates = [node for node in with_cpus if CPU_NODE in node["Resources"]] or with_cpus
    if not candidates:
        return "DEFAULT"
    largest = max(candidates, key=lambda node: node["Resources"]["CPU"])
    return NodeAffinitySchedulingStrategy(largest["NodeID"], soft=True)


def max_resources() -> dict[str, float]:
    """Return the most that the cluster can have of each resource: up now, or with its autoscaler."""
    import ray

    from pipelines.cluster.ray_internals import max_autoscaled_resources

    up: dict[str, float] = ray.cluster_resources()
    found = max_autoscaled_resources()
    for nodes, resources in _launched_groups():
        for name, amount in resources.items():
            found[name] = found.get(name, 0) + nodes * amount
    return {name: max(up.get(name, 0), found.get(name, 0)) for name in {*up, *found}}


def node_shapes() -> list[dict[str, float]]:
    """Return the resources of every node that is up, and of every node type that the launcher may start."""
    return [
        *(node["Resources"] for node in alive_nodes()),
        *(resources for nodes, resources in _launched_groups() if nodes),
    ]


def _launched_groups() -> list[tuple[int, dict[str, float]]]:
    """Read the maximum node count and resources of each node type, on the head of a launched cluster."""
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
