"""Where a cluster puts what: does every kind of work on it, and prints the kinds of node that did it.

python tests/support/placement_probe.py DATA FOLDER             # on a head, a CPU node, one with fake GPUs
python tests/support/placement_probe.py DATA FOLDER from-zero   # on an AutoscalingCluster of a head alone
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster, Cluster

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.cluster import actor_pool, connection, torch_trainer
from pipelines.cluster.gloo import GlooConfig
from pipelines.cluster.resources import WorkersConfig, reserve_resources
from pipelines.evaluation.run import evaluate
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit
from tests.support import datasets, evaluation_jobs

COMPUTING = ("SongScanner", "ShardRenderer", "Scorer", "Mixing", "RayTrainWorker", "trial", "review")
GROUPS = {
    "cpu": {"resources": {"CPU": 3, "cpu_node": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    "gpu": {"resources": {"CPU": 4, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
}


class Watch:
    """Looks which actors are alive where."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = defaultdict(set)
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        from ray._private.state import actors

        while True:
            alive = actors(actor_state_name="ALIVE").values()
            kinds = {
                node["NodeID"]: kind(node["Resources"]) for node in ray.nodes()
            }  # their nodes among them
            for actor in alive:
                name = actor["ActorClassName"].replace("ImplicitFunc", "trial")  # Tune's name for a function
                self.seen[name].add(kinds[actor["Address"]["NodeID"]])
            time.sleep(0.05)


def kind(resources: dict[str, Any]) -> str:
    """Tell which kind of node has these resources."""
    return "gpu" if "GPU" in resources else "cpu" if "cpu_node" in resources else "head"


def here() -> str:
    """Tell on which kind of node this runs."""
    me = ray.get_runtime_context().get_node_id()
    return next(kind(node["Resources"]) for node in ray.nodes() if node["NodeID"] == me)


def prepare(data: Path, output: Path) -> None:
    """Preprocess, with more actors than CPU nodes have CPUs."""
    outcome = preprocess(datasets.config(data, output, actors=8))
    assert outcome.code == Exit.DONE, outcome.message


def score(shards: Path, output: Path) -> None:
    """Score the untouched MP3."""
    outcome = evaluate(evaluation_jobs.config(shards, output, gpu=False, scorers=3))
    assert outcome.code == Exit.DONE, outcome.message


class Mixing:
    """Stands for an actor that mixes while training."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Take a moment."""
        time.sleep(0.1)
        return row


def mix() -> None:
    """Stream from actors, as training on live mixes does."""
    rows = [{"number": number} for number in range(40)]
    assert list(actor_pool.stream_actors(rows, Mixing, (), actors=4, block_rows=1)) == rows


def train(folder: Path, seen: dict[str, set[str]]) -> None:
    """Hold both GPUs with trainers that compute nothing, with a review beside them."""
    import ray.train.torch

    # no CUDA behind these GPUs, and NCCL needs it
    ray.train.torch.TorchConfig = lambda backend: GlooConfig()
    config = WorkersConfig(count=2, cpus=1, wait_minutes=3)
    with reserve_resources(config):
        stopping = threading.Event()
        torch_trainer.run_workers(_stay, {}, config, scratch=str(folder / "scratch"), stopping=stopping)
        seen["review"].add(torch_trainer.BackgroundTask(here).poll(60)[1])


def _stay(settings: dict[str, Any]) -> None:
    import torch.distributed

    torch.distributed.barrier()
    time.sleep(1)


def main(data: Path, folder: Path) -> None:
    """Do all kinds of work and print where they were."""
    print("at first:", connection.connect())
    watch = Watch()
    prepare(data, folder / "shards")
    score(folder / "shards", folder / "scores")
    mix()
    train(folder, watch.seen)
    print(
        json.dumps(
            {
                work: sorted(set().union(*(kinds for name, kinds in watch.seen.items() if work in name)))
                for work in COMPUTING
            }
        )
    )


_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class Scaling(AutoscalingCluster):
    """Ray's own, with the settings that it reads from a file which its wheel lacks."""

    def _generate_config(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        head = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        provider = {
            "type": "external",
            "module": _PROVIDER,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        }
        commands = (
            "initialization",
            "setup",
            "head_setup",
            "worker_setup",
            "head_start_ray",
            "worker_start_ray",
        )
        return {
            "cluster_name": "from-zero",
            "max_workers": 2,
            "upscaling_speed": 2.0,
            "idle_timeout_minutes": 5,
            "provider": provider,
            "available_node_types": head | GROUPS,
            "head_node_type": "ray.head.default",
            **{f"{name}_commands": [] for name in commands},
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts_sync_continuously": False,
        }


if __name__ == "__main__":
    data, folder = map(Path, sys.argv[1:3])
    if sys.argv[3:] == ["from-zero"]:
        # it ends with the host that it is on: ending it would mean waiting for all that Ray has started
        Scaling({"CPU": 0}, GROUPS, autoscaler_v2=True).start()
        assert connection.connect().nodes == 1, "it begins with more than its head"
        main(data, folder)
    else:
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes.add_node(num_cpus=3, resources={"cpu_node": 1})
        nodes.add_node(num_cpus=4, num_gpus=2)
        os.environ["RAY_ADDRESS"] = nodes.address
        main(data, folder)
        ray.shutdown()
        nodes.shutdown()
