"""cluster.yaml and cluster-local.yaml: Ray's launcher accepts them, and what they promise; no network."""

import copy
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from mlflow.cli import server
from ray.autoscaler._private.providers import _get_default_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "cluster-local.yaml")
TEXTS = {name: (ROOT / name).read_text() for name in FILES}
SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
Config = dict[str, Any]


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    """Each of the files, for what is true of both."""
    return request.param


@pytest.fixture
def config(name: str) -> Config:
    """The file alone."""
    return yaml.safe_load(TEXTS[name])


@pytest.fixture
def prepared(config: Config) -> Config:
    """The file with Ray's defaults filled in, as `ray up` does before it reaches for a machine."""
    return prepare_config(copy.deepcopy(config))


of_aws = pytest.mark.parametrize("name", ["cluster.yaml"])
of_local = pytest.mark.parametrize("name", ["cluster-local.yaml"])


def setup_commands(prepared: Config) -> list[str]:
    """All that is run on some node before Ray starts, of groups with commands of their own too."""
    groups = prepared["available_node_types"].values()
    return [line for place in (prepared, *groups) for key in SETUP for line in place.get(key, [])]


def simple_commands(line: str) -> list[list[str]]:
    """Split a line of shell into the words of its commands."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if re.fullmatch(r"[&|;()<>]+|[{}]", word):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def given_to_pip(line: str) -> list[list[str]]:
    """What is given to every `pip install` of a line."""
    commands = [words for words in simple_commands(line) if "pip" in words]
    assert all(words[:2] == ["pip", "install"] for words in commands), line
    return [[word for word in words[2:] if word != "--quiet"] for words in commands]


def arguments_after(line: str, *program: str) -> list[str]:
    """What a program of a line is started with."""
    for words in simple_commands(line):
        for at in range(len(words)):
            if tuple(words[at : at + len(program)]) == program:
                return words[at + len(program) :]
    raise AssertionError(f"{program} is not in {line}")


def test_ray_accepts_the_file(config: Config, prepared: Config) -> None:
    jsonschema_only = {**prepared, **config}  # our own words too, not only what preparing made of them
    validate_config(jsonschema_only)
    validate_config(prepared)


def misspell(*path: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        *outer, key = path
        for name in outer:
            config = config[name]
        config[key + "s"] = config.pop(key)

    return change


@pytest.mark.parametrize(
    "name, change",
    [
        ("cluster.yaml", misspell("upscaling_speed")),
        ("cluster.yaml", misspell("file_mounts")),
        ("cluster.yaml", misspell("available_node_types", "cpu", "min_workers")),
        ("cluster.yaml", misspell("available_node_types", "gpu", "node_config")),
        ("cluster.yaml", misspell("available_node_types", "head", "resources")),
        ("cluster.yaml", misspell("available_node_types", "head")),  # head_node_type then names no group
        ("cluster.yaml", lambda a: a["available_node_types"]["gpu"].update(resources={"GPU": "8"})),
        ("cluster.yaml", lambda a: a["available_node_types"]["cpu"].update(min_workers=99)),
        ("cluster-local.yaml", misspell("file_mounts")),
        ("cluster-local.yaml", misspell("setup_commands")),
        ("cluster-local.yaml", misspell("auth", "ssh_user")),
    ],
)
def test_ray_refuses_misspelled_keys(config: Config, change: Callable[[Config], None]) -> None:
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


@of_aws
def test_the_provider_has_only_keys_that_ray_knows(config: Config) -> None:
    """Ray's schema lets any key pass here."""
    assert set(config["provider"]) <= set(_get_default_config({"type": "aws"})["provider"])
    assert config["provider"]["type"] == "aws"
    assert config["provider"]["region"]


@of_local
def test_own_machines_are_all_started(config: Config, prepared: Config) -> None:
    assert set(config["provider"]) == {"type", "head_ip", "worker_ips"}
    (group,) = prepared["available_node_types"].values()
    assert group["min_workers"] == group["max_workers"] == len(config["provider"]["worker_ips"])


@of_aws
def test_the_head_runs_no_work(prepared: Config) -> None:
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0


@of_local
def test_the_own_head_runs_no_work(config: Config) -> None:
    given = arguments_after(config["head_start_ray_commands"][-1], "ray", "start")
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(given)


@of_local
@pytest.mark.parametrize("driver, resources", [(True, {}), (False, {"cpu_node": 1})])
def test_machines_without_a_driver_are_cpu_nodes(
    config: Config, driver: bool, resources: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "ray").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/started\n')
    if driver:
        (tmp_path / "nvidia-smi").touch()
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    environment = {"PATH": str(tmp_path), "RAY_HEAD_IP": "10.0.0.1"}
    subprocess.run(["/bin/bash", "-c", config[STARTS[1]][-1]], env=environment, check=True)
    given = (tmp_path / "started").read_text().splitlines()
    with start.make_context("ray start", given[1:]) as context:
        assert json.loads(context.params["resources"]) == resources


@of_aws
@pytest.mark.parametrize("group, machines, named", [("cpu", 8, {"cpu_node": 1}), ("gpu", 1, {})])
def test_nodes_come_and_go(prepared: Config, group: str, machines: int, named: dict[str, int]) -> None:
    nodes = prepared["available_node_types"][group]
    assert nodes["min_workers"] == 0
    assert nodes["max_workers"] == machines
    assert nodes["resources"] == named  # Ray adds the CPUs and GPUs of the instance type
    assert prepared["idle_timeout_minutes"] > 0
    assert prepared["upscaling_speed"] >= 1


@of_aws
def test_the_sum_lets_every_group_be_full(prepared: Config) -> None:
    groups = prepared["available_node_types"].values()
    assert prepared["max_workers"] == sum(group["max_workers"] for group in groups)


def test_python_packages_are_those_of_requirements(prepared: Config) -> None:
    lines = setup_commands(prepared)
    given = {tuple(words) for line in lines for words in given_to_pip(line)}
    assert given == {("-r", "requirements-pipeline.txt"), ("--no-deps", ".")}
    assert (ROOT / "requirements-pipeline.txt").is_file()
    assert not [line for line in lines if re.search(r"[=<>~]=|\.whl|https?://|conda", line)]


def test_every_kind_of_node_installs_requirements_and_then_the_project(prepared: Config) -> None:
    for key in ("head_setup_commands", "worker_setup_commands"):  # Ray has put setup_commands before each
        order = [words[-1] for line in prepared[key] for words in given_to_pip(line)]
        assert order == ["requirements-pipeline.txt", "."], key


def test_ray_itself_is_pinned() -> None:
    assert re.search(r"^ray==[\d.]+$", (ROOT / "requirements-pipeline.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        "pip install numpy",
        "pip install -r requirements-pipeline.txt boto3",
        "pip install 'ray==2.60.0'",
        "true && pip install numpy",
        "true || { pip install numpy; }",
    ],
)
def test_another_package_would_be_found(config: Config, command: str) -> None:
    config["setup_commands"].append(command)
    with pytest.raises(AssertionError):
        test_python_packages_are_those_of_requirements(prepare_config(config))


def test_mounts_exist_and_hold_what_installing_needs(config: Config) -> None:
    mounts = {remote: local for remote, local in config["file_mounts"].items() if not local.startswith("~")}
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"~/apollo/{local}"
        assert Path(local).parts, "the whole checkout has .git, .venv and data in it"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    needed = {*packages, project["project"]["readme"], "jobs", "pyproject.toml"}
    assert needed | {"requirements.txt", "requirements-pipeline.txt"} <= set(mounts.values())


def test_ray_and_the_mlflow_server_accept_their_arguments(config: Config) -> None:
    for key in STARTS:
        arguments = arguments_after(config[key][-1], "ray", "start")
        with start.make_context("ray start", arguments) as context:  # parses, and starts nothing
            assert context.params["head"] == (key == "head_start_ray_commands")
    (line,) = (line for line in config["head_start_ray_commands"] if "mlflow server" in line)
    with server.make_context("mlflow server", arguments_after(line, "mlflow", "server")) as context:
        assert context.params["app_name"] == "basic-auth"
        assert context.params["artifacts_destination"] == "$APOLLO_STORE/mlflow/artifacts"
    for program in (start, server):
        with pytest.raises(click.UsageError):
            program.make_context("x", ["--heads"])


def test_every_node_requires_the_token_and_has_it(name: str, config: Config) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105 - no secret
    for key in STARTS:
        starts = [line for line in config[key] if "ray start" in line]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start " in starts[0]
    assert "RAY_AUTH_TOKEN=" not in TEXTS[name]


def test_the_dashboard_is_for_localhost_and_jobs_start_in_the_project(config: Config) -> None:
    line = config["head_start_ray_commands"][-1]
    assert re.findall(r"--dashboard-host=(\S+)", line) == ["127.0.0.1"]
    assert re.match(r"ulimit -n 65536; cd ~/apollo && ", line)  # a lower limit must not end it
    assert "\n" not in line


def test_no_account_and_no_secret_is_named(name: str, config: Config) -> None:
    assert not re.search(
        r"\b\d{12}\b|\barn:|\b(AKIA|ASIA)[A-Z0-9]+|\b(sg|subnet|vpc|ami|key)-[0-9a-f]{8,}|_KEY=(?!\$\()|_SECRET=",
        TEXTS[name],
    )
    assert set(config["provider"]).isdisjoint({"aws_credentials", "security_group"})
    tokens = ["$(cat", "$MLFLOW_TRACKING_PASSWORD"]  # the token, read on the node
    assert re.findall(r"PASSWORD=(\S+)", TEXTS[name]) == tokens


@of_aws
def test_ray_makes_the_key_pair_and_its_user_is_ubuntus(config: Config) -> None:
    assert "auth" not in config


@of_aws
def test_only_the_node_with_gpus_has_another_image(config: Config) -> None:
    images = {key: group["node_config"]["ImageId"] for key, group in config["available_node_types"].items()}
    assert images["head"] == images["cpu"] != images["gpu"]


def test_settings_differ_from_rays_defaults_and_have_a_reason(name: str, config: Config) -> None:
    defaults = _get_default_config({"type": config["provider"]["type"]})
    lines = TEXTS[name].splitlines()
    for key, value in config.items():
        assert value != defaults.get(key), f"{key} is Ray's default: leave it out"
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[at - 1].startswith("# "), f"{key}: say why, in the line above"


@pytest.mark.parametrize("path", [*FILES, "kubernetes"])
def test_every_variable_is_documented(path: str) -> None:
    files = [ROOT / path] if path in FILES else sorted((ROOT / path).rglob("*.yaml"))
    text = "".join(file.read_text() for file in files)
    named = set(re.findall(r"\b(?:APOLLO|AWS|MLFLOW|PIP|RAY)_\w+", text))
    assert "APOLLO_STORE" in named
    documented = set(re.findall(r"\w+", (ROOT / "docs/cluster.md").read_text()))
    assert named <= documented, named - documented
