"""cluster.yaml: accepted by Ray's own launcher code, and what it promises; no network and no boto3."""

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.providers import _get_default_config
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    """The file alone."""
    return yaml.safe_load(TEXT)


@pytest.fixture
def prepared(config: Config) -> Config:
    """The file with Ray's defaults filled in, as `ray up` does before it asks the cloud anything."""
    return prepare_config(copy.deepcopy(config))


def setup_commands(prepared: Config) -> list[str]:
    """All that is run on some node before Ray starts, of groups with commands of their own too."""
    groups = prepared["available_node_types"].values()
    return [line for place in (prepared, *groups) for key in SETUP for line in place.get(key, [])]


def pip_arguments(command: str) -> list[str] | None:
    """What is given to `pip install` in a command, or nothing where it has none."""
    words = shlex.split(command)
    if "pip" not in words:
        return None
    assert words.count("pip") == 1, f"one pip in a command, please: {command}"
    after = words[words.index("pip") + 1 :]
    assert after[0] == "install", command
    return [word for word in after[1:] if word != "--quiet"]


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
    "change",
    [
        misspell("upscaling_speed"),
        misspell("file_mounts"),
        misspell("available_node_types", "cpu", "min_workers"),
        misspell("available_node_types", "cpu", "node_config"),
        misspell("available_node_types", "head", "resources"),
        misspell("available_node_types", "head"),  # head_node_type then names no group
        lambda config: config["available_node_types"]["head"].update(resources={"CPU": "0"}),
        lambda config: config["available_node_types"]["cpu"].update(min_workers=99),
    ],
)
def test_ray_refuses_a_slip(config: Config, change: Callable[[Config], None]) -> None:
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


def test_the_provider_has_only_keys_that_ray_knows(config: Config) -> None:
    """Ray's schema lets any key pass here."""
    assert set(config["provider"]) <= set(_get_default_config({"type": "aws"})["provider"])
    assert config["provider"]["type"] == "aws"
    assert config["provider"]["region"]


def test_the_head_runs_no_work(prepared: Config) -> None:
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0


def test_cpu_nodes_come_and_go(prepared: Config) -> None:
    cpu = prepared["available_node_types"]["cpu"]
    assert cpu["min_workers"] == 0
    assert 0 < cpu["max_workers"] <= prepared["max_workers"]
    assert cpu["resources"].get("CPU") != 0
    assert prepared["idle_timeout_minutes"] > 0
    assert prepared["upscaling_speed"] >= 1


def test_python_packages_are_those_of_requirements(prepared: Config) -> None:
    given = [words for line in setup_commands(prepared) if (words := pip_arguments(line)) is not None]
    assert {tuple(words) for words in given} == {("-r", "requirements.txt"), ("--no-deps", ".")}
    assert not [
        line for line in setup_commands(prepared) if re.search(r"[=<>~]=|\.whl|https?://|conda", line)
    ]


def test_every_kind_of_node_installs_requirements_and_then_the_project(prepared: Config) -> None:
    for key in ("head_setup_commands", "worker_setup_commands"):  # Ray has put setup_commands before each
        order = [words[-1] for line in prepared[key] if (words := pip_arguments(line))]
        assert order == ["requirements.txt", "."], key


def test_ray_itself_is_pinned() -> None:
    assert re.search(r"^ray==[\d.]+$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "command", ["pip install numpy", "pip install -r requirements.txt boto3", "pip install 'ray==2.60.0'"]
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
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = (\[.*\])$", project, re.MULTILINE)
    assert packages
    rooms = {name.partition(".")[0] for name in yaml.safe_load(packages[1])}
    readme = re.search(r'^readme = "(.*)"$', project, re.MULTILINE)
    assert readme
    assert {*rooms, readme[1], "jobs", "pyproject.toml", "requirements.txt"} <= set(mounts.values())


def test_every_node_asks_for_the_token_and_has_it(config: Config) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in STARTS:
        starts = [line for line in config[key] if "ray start" in line]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start " in starts[0]
    assert "RAY_AUTH_TOKEN=" not in TEXT


def test_the_dashboard_is_for_localhost_and_jobs_start_in_the_project(config: Config) -> None:
    start = config["head_start_ray_commands"][-1]
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]
    assert start.startswith("cd ~/apollo && ")
    assert "\n" not in start


def test_no_account_is_named(config: Config) -> None:
    assert not re.search(
        r"\b\d{12}\b|\barn:|\b(AKIA|ASIA)[A-Z0-9]+|\b(sg|subnet|vpc|ami|key)-[0-9a-f]{8,}", TEXT
    )
    assert set(config["provider"]).isdisjoint({"aws_credentials", "security_group"})
    assert "auth" not in config  # Ray makes the key pair, and its user is Ubuntu's


def test_the_groups_share_one_image(config: Config) -> None:
    images = {group["node_config"]["ImageId"] for group in config["available_node_types"].values()}
    assert len(images) == 1


def test_what_is_said_differs_from_rays_defaults_and_has_a_reason(config: Config) -> None:
    defaults = _get_default_config({"type": "aws"})
    lines = TEXT.splitlines()
    for key, value in config.items():
        assert value != defaults[key], f"{key} is Ray's default: leave it out"
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[at - 1].startswith("# "), f"{key}: say why, in the line above"
