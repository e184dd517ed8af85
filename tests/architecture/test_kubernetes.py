"""kubernetes/ and the Dockerfile: what can be known without a cluster and without building an image."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from mlflow.cli import server
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kubernetes"
JOBS = ("preprocess", "train", "evaluate")
SCRIPT = FOLDER / "job.sh"
Manifest = dict[str, Any]

# The fields of KubeRay 1.6's API reference that are used here, and no others; pods are Kubernetes' own.
_TEXT, _NUMBER, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_PARAMETERS = {"type": "object", "additionalProperties": _TEXT}


def _only(needed: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": needed | more,
        "required": list(needed),
        "additionalProperties": False,
    }


_GROUP = {"rayStartParams": _PARAMETERS, "template": {"type": "object"}}
_WORKERS = _only(
    {"groupName": _TEXT, "minReplicas": _NUMBER, "maxReplicas": _NUMBER, **_GROUP}, labels=_PARAMETERS
)
_CLUSTER = _only(
    {
        "rayVersion": _TEXT,
        "authOptions": _only({"mode": {"enum": ["token"]}, "secretName": _TEXT}),
        "enableInTreeAutoscaling": _TRUTH,
        "autoscalerOptions": _only({"idleTimeoutSeconds": _NUMBER}),
        "headGroupSpec": _only(_GROUP, labels=_PARAMETERS),
        "workerGroupSpecs": {"type": "array", "items": _WORKERS},
    }
)
RAY_JOB = _only(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": _only({"name": _TEXT, "namespace": _TEXT}),
        "spec": _only(
            {
                "entrypoint": _TEXT,
                "backoffLimit": _NUMBER,
                "shutdownAfterJobFinishes": _TRUTH,
                "ttlSecondsAfterFinished": _NUMBER,
                "rayClusterSpec": _CLUSTER,
            }
        ),
    }
)


@cache
def rendered(name: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k kubernetes/NAME` would send."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("there is no kubectl")
    done = subprocess.run(
        [kubectl, "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def job(name: str) -> Manifest:
    (manifest,) = rendered(name)
    return manifest


def groups(manifest: Manifest) -> list[Manifest]:
    """The head, and the groups of workers."""
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(name: str) -> list[Manifest]:
    """The pods of a folder, as Kubernetes' PodTemplateSpec."""
    found = []
    for manifest in rendered(name):
        if manifest["kind"] == "RayJob":
            found += [group["template"] for group in groups(manifest)]
        elif manifest["kind"] == "Deployment":
            found.append(manifest["spec"]["template"])
    return found


everything = pytest.mark.parametrize("name", [*JOBS, "mlflow"])
every_job = pytest.mark.parametrize("name", JOBS)


@every_job
def test_kuberay_knows_every_field_of_a_job(name: str) -> None:
    jsonschema.validate(job(name), RAY_JOB)


@everything
def test_kubernetes_knows_every_field_of_its_own_kinds(name: str) -> None:
    version = kubernetes_validate.latest_version()
    own = [manifest for manifest in rendered(name) if manifest["kind"] != "RayJob"]
    own += [{"apiVersion": "v1", "kind": "PodTemplate", "template": pod} for pod in pods(name)]
    assert own
    for manifest in own:
        kubernetes_validate.validate(manifest, version, strict=True)
    own[0]["imagine"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(own[0], version, strict=True)


@every_job
def test_a_job_is_tried_again_and_cleans_up(name: str) -> None:
    spec = job(name)["spec"]
    assert job(name)["metadata"]["name"] == name
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert re.fullmatch(rf"sh -c 'kubernetes/job\.sh jobs/{name}\.py [^']*'", spec["entrypoint"])


@every_job
def test_rays_autoscaler_reads_the_groups_and_they_are_those_of_cluster_yaml(name: str) -> None:
    """By its own code, which the operator starts beside the head."""
    cluster = {"metadata": {"name": name, "namespace": "apollo"}, "spec": job(name)["spec"]["rayClusterSpec"]}
    read = _derive_autoscaling_config_from_ray_cr(cluster)
    head, *workers = read["available_node_types"].items()
    assert head[0] == read["head_node_type"]
    assert head[1]["resources"]["CPU"] == 0
    launcher = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert read["idle_timeout_minutes"] == launcher["idle_timeout_minutes"]
    assert {key: (group["min_workers"], group["max_workers"]) for key, group in workers} == {
        key: (group["min_workers"], group["max_workers"])
        for key, group in launcher["available_node_types"].items()
        if key != launcher["head_node_type"]
    }
    more = {"cpu": {"cpu_node": 1, "CPU": 16}, "gpu": {"CPU": 64, "GPU": 8}}
    for key, group in workers:
        assert {name: amount for name, amount in group["resources"].items() if name != "memory"} == more[key]


@everything
def test_pods_are_confined_have_their_memory_and_hold_no_secret(name: str) -> None:
    for pod in pods(name):
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert re.fullmatch(r"fill-in/apollo:[\d.]+", container["image"])
        assert container["envFrom"] == [{"secretRef": {"name": "apollo"}}]
        secret = [entry["name"] for entry in container["env"] if "valueFrom" in entry]
        if name == "mlflow":
            assert secret == ["MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"]
        else:
            assert secret == ["MLFLOW_TRACKING_PASSWORD"]
        if name in JOBS:
            (volume,) = pod["spec"]["volumes"]
            assert volume["emptyDir"]["medium"] == "Memory"
            mount = {"name": volume["name"], "mountPath": "/dev/shm"}  # noqa: S108 -- where Ray's objects lie
            assert mount in container["volumeMounts"]
    for path in FOLDER.rglob("*.yaml"):
        assert not re.search(r"_KEY\b(?!, valueFrom: )|kind: Secret|stringData", path.read_text()), path


def test_the_mlflow_server_accepts_its_arguments_and_asks_for_a_password() -> None:
    deployment = next(yaml.safe_load_all((FOLDER / "mlflow/mlflow.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    program, command, *arguments = container["command"] + container["args"]
    assert [program, command] == ["mlflow", "server"]
    with server.make_context("mlflow server", arguments) as context:
        assert context.params["app_name"] == "basic-auth"
        assert context.params["artifacts_destination"] == "$(APOLLO_STORE)/mlflow/artifacts"
        (volume,) = container["volumeMounts"]
        assert context.params["backend_store_uri"] == f"sqlite:///{volume['mountPath']}/mlflow.db"


def test_ray_is_of_the_version_that_is_installed() -> None:
    pinned = re.search(r"^ray==([\d.]+)$", (ROOT / "requirements-pipeline.txt").read_text(), re.MULTILINE)
    assert pinned
    base = yaml.safe_load((FOLDER / "job/rayjob.yaml").read_text())
    assert base["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


@pytest.mark.parametrize("code, stops", [(0, False), (1, False), (2, True), (3, True), (137, False)])
def test_only_exit_codes_that_a_retry_would_meet_again_stop_the_job(
    code: int, stops: bool, tmp_path: Path
) -> None:
    """How Ray reacts is tested by tests/pipelines/preprocess/test_job.py."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ray").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 1\n')
    (programs / "ray").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "preprocess-x7"}}',
    }
    (tmp_path / "job.py").write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    command = [str(SCRIPT), str(tmp_path / "job.py"), str(code)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert done.returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("job stop --no-wait preprocess-x7\n" * stops)


def test_the_dockerfile_is_sound() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["python:3.11.14-slim-bookworm"]
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:1000"]  # a name says nothing of root


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    first, *rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    assert copied == {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert any(fnmatch("pipelines/__pycache__", rule) for rule in rules)
