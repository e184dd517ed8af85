"""The driver of a training: refusals, waiting for resources, command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.training.config import GanConfig
from jobs import train as job
from pipelines.cluster import placement, resources
from pipelines.cluster.resources import WorkersConfig
from pipelines.errors import UsageError
from pipelines.runtime.outcome import Exit, write_result
from pipelines.runtime.run import check_fingerprint
from pipelines.storage.folder import Folder
from pipelines.training import resolve, run
from pipelines.training.config import TrainConfig

ROOT = Path(__file__).parents[3]


def parse(*arguments: str) -> TrainConfig:
    values = job.build_parser()
    given = values.instantiate(values.parse_args(list(arguments))).as_dict()
    del given["config"], given["log_level"]
    return TrainConfig(**given)


@pytest.mark.parametrize("name", ["paper", "demo", "causal"])
def test_every_preset_parses(name: str) -> None:
    config = parse("--config", str(ROOT / f"jobs/configs/{name}.yaml"), "--shards", "/s", "--output", "/o")
    written = yaml.safe_load((ROOT / f"jobs/configs/{name}.yaml").read_text())
    assert config.generator.dim == written["generator"]["dim"]


def test_the_paper_preset_equals_the_defaults() -> None:
    assert parse("--config", str(ROOT / "jobs/configs/paper.yaml"), "--shards", "/s", "--output", "/o") == (
        TrainConfig(shards="/s", output="/o")
    )


@pytest.mark.parametrize("wrong", ["--gan.clip", "--fit.epoch", "--worker.count"])
def test_unknown_keys_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        job.main(["--shards", "/s", "--output", "/o", wrong, "3"])
    assert raised.value.code == 2
    assert wrong.removeprefix("--") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": WorkersConfig(count=9)}, "every worker needs an example"),
        ({"listening_examples": -1}, "listening_examples"),
        ({"generator": GeneratorConfig(sample_rate=48_000)}, "shards are 44100 Hz"),
        ({"discriminator": DiscriminatorConfig(channels=1)}, "discriminator.channels is 1: it must be 2"),
        ({"gan": GanConfig(cutoff_hz=99_999.0)}, "cutoff_hz is 99999.0"),
    ],
)
def test_invalid_configurations_are_refused_before_anything_starts(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(**{"shards": "/s", "output": "/o", **changes})


def test_the_former_name_of_listening_examples_still_works(caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(shards="/s", output="/o", heard_examples=2)
    assert config.listening_examples == 2
    assert replace(config, listening_examples=3).listening_examples == 3
    assert caplog.messages == ["--heard_examples is deprecated: use --listening_examples"]


def test_a_relative_output_is_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match="--output 'run' is relative"):
        TrainConfig(shards="/s", output="run")


def test_shards_that_are_not_there_are_a_usage_error(tmp_path: Path) -> None:
    outcome = run.train(TrainConfig(shards=str(tmp_path / "none"), output=str(tmp_path / "run")))
    assert outcome.code == Exit.USAGE
    assert str(tmp_path / "none") in outcome.message
    assert not (tmp_path / "run/fingerprint.json").exists()


def test_more_than_the_cluster_can_have_is_refused_with_both_numbers(ray_address: str) -> None:
    with pytest.raises(UsageError, match=r"8 workers of 4 CPUs need 32 CPUs; this cluster has 8 at most"):
        resources.check_resources(WorkersConfig(gpu=False))
    with pytest.raises(UsageError, match=r"2 workers of 1 GPUs need 2 GPUs; this cluster has 0 at most"):
        resources.check_resources(WorkersConfig(count=2, cpus=1))
    resources.check_resources(WorkersConfig(count=2, gpu=False))
    resources.check_resources(WorkersConfig(may_grow=True))
    resources.check_resources(WorkersConfig(least=2, gpu=False))


def test_nodes_that_the_autoscaler_may_start_count(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster launcher leaves its file on the head; the groups are those of this project's own."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["available_node_types"]["gpu"] = {"resources": {"CPU": 64, "GPU": 8}, "max_workers": 2}
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(placement, "_BOOTSTRAP", str(tmp_path / "bootstrap.yaml"))
    resources.check_resources(WorkersConfig(count=16))
    with pytest.raises(UsageError, match="need 17 GPUs; this cluster has 16 at most"):
        resources.check_resources(WorkersConfig(count=17))


def test_waiting_for_nodes_is_logged_and_ends(ray_address: str, caplog: pytest.LogCaptureFixture) -> None:
    many = WorkersConfig(count=10, gpu=False, cpus=1, wait_minutes=0.02)
    words = r"waited 0.02 minutes for 2 more CPUs of 10. Start nodes"
    with pytest.raises(RuntimeError, match=words), resources.reserve_resources(many):
        pytest.fail("there is no such room")
    assert caplog.messages
    assert caplog.messages[0].startswith("waiting for 2 more CPUs of 10")
    with resources.reserve_resources(WorkersConfig(count=8, gpu=False, cpus=1)):
        pass


def test_requested_resources_are_released(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to the autoscaler holds until the next one."""
    from ray.autoscaler import sdk

    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: asked.append(bundles))
    with pytest.raises(RuntimeError), resources.reserve_resources(WorkersConfig(wait_minutes=0.01)):
        pass
    assert asked == [[{"CPU": 4.0, "GPU": 1.0}] * 8, []]


def test_a_worker_that_fits_no_node_is_refused(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "max_resources", lambda: {"CPU": 16.0})  # two such nodes
    with pytest.raises(UsageError, match="a worker needs 9 CPUs on one node, and no node has that"):
        resources.check_resources(WorkersConfig(count=1, gpu=False, cpus=9))


def test_only_what_decides_the_result_is_in_the_fingerprint(undisturbed: Path, tmp_path: Path) -> None:
    config = TrainConfig(shards=str(undisturbed), output=str(tmp_path))
    same = replace(
        config,
        gan=replace(config.gan, micro_batch=2, recompute="layers"),
        fit=replace(config.fit, epochs=3, log_steps=1),
        workers=WorkersConfig(count=4),
    )
    other = replace(config, loader=replace(config.loader, degradations=("mp3_24000",)))
    fingerprint = resolve._fingerprint(config)
    assert resolve._fingerprint(same) == fingerprint
    assert resolve._fingerprint(other) != fingerprint
    assert resolve._fingerprint(replace(config, fit=replace(config.fit, seed=1))) != fingerprint


def test_an_output_of_an_earlier_release_is_resumed_though_values_were_renamed(tmp_path: Path) -> None:
    output, here = (
        Folder(str(tmp_path)),
        {
            "loader": {
                **{"piece_seconds": 0.0, "below_source_bitrate": False, "degradation_weights": {}},
                **{"first_degradation_weights": {}, "weights_change_examples": 0},
                "levels": {
                    **{"channels": "stereo", "tilt_db": [0.0, 0.0], "low_pass_share": 0.0},
                    **{"mode": "paper", "swap_share": 0.5},
                },
            }
        },
    )
    check_fingerprint(output, {"loader": {"levels": {"mode": "published", "swap_share": 0.5}}})
    check_fingerprint(output, here, upgrade=resolve._upgrade_fingerprint)
    here["loader"]["levels"]["mode"] = "gain_compensated"
    with pytest.raises(UsageError, match="mode was 'paper', is 'gain_compensated'"):
        check_fingerprint(output, here, upgrade=resolve._upgrade_fingerprint)


def test_settings_that_an_output_does_not_name_had_their_defaults(undisturbed: Path, tmp_path: Path) -> None:
    here = resolve._fingerprint(TrainConfig(shards=str(undisturbed), output=str(tmp_path)))
    stored = {**here, **{section: dict(here[section]) for section in ("gan", "generator", "discriminator")}}
    for section, names in {
        "gan": ("warmup_steps", "generator_optimizer", "adversarial_loss", "discriminator_steps"),
        "generator": ("trunk",),
        "discriminator": ("kind", "dim", "layers"),
    }.items():
        for name in names:
            del stored[section][name]
    output = Folder(str(tmp_path))
    check_fingerprint(output, stored)
    check_fingerprint(output, here, upgrade=resolve._upgrade_fingerprint)
    here["gan"]["warmup_steps"] = 5
    with pytest.raises(UsageError, match="warmup_steps was 0, is 5"):
        check_fingerprint(output, here, upgrade=resolve._upgrade_fingerprint)


@pytest.mark.filterwarnings("ignore:levels.mode")
def test_old_names_of_options_are_accepted() -> None:
    config = parse("--shards", "/s", "--output", "/o", "--loader.levels.mode", "honest")
    assert config == parse("--shards", "/s", "--output", "/o")


def test_the_first_signal_requests_a_stop_and_the_second_interrupts() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with run._graceful_stop() as stopping:
        signal.raise_signal(signal.SIGTERM)
        assert stopping.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_starts_from_a_checkpoint_and_takes_its_network_configuration(tmp_path: Path) -> None:
    import torch

    import apollo
    from apollo.checkpoints.published_format import to_published

    torch.manual_seed(0)
    generator = apollo.Generator(apollo.GeneratorConfig(dim=8, layers=1, heads=4))
    published = apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1))
    torch.save(to_published(published), tmp_path / "published.bin")
    judge = apollo.Discriminator(apollo.DiscriminatorConfig(windows=(64,)))
    apollo.save(
        generator,
        tmp_path / "ours",
        extra_states={"discriminator": judge.state_dict()},
        metadata={"discriminator": judge.config.to_dict()},
    )
    for name, expected, has in (("published.bin", published, False), ("ours", generator, True)):
        config = TrainConfig(shards="/s", output=str(tmp_path / f"run-{has}"), init=str(tmp_path / name))
        shapes = resolve._init_shapes(config)
        assert shapes["generator"] == expected.config
        assert shapes.get("discriminator") == (judge.config if has else None)
        config = replace(config, **shapes)
        run._write_init(config)
        states = torch.load(tmp_path / f"run-{has}/init/weights.pt", weights_only=True)
        assert ("discriminator" in states) is has
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(states["generator"][key], value)
        (tmp_path / name).rename(tmp_path / f"gone-{has}")
        assert resolve._init_shapes(config) == shapes  # the output has its own by now


def test_a_run_from_the_model_of_the_package_may_have_another_noise_limit(tmp_path: Path) -> None:
    config = TrainConfig(shards="/s", output=str(tmp_path), init="compact")
    import apollo

    shape = resolve._init_shapes(config)["generator"]
    assert shape == apollo.load("compact").config
    assert shape.noise_limit != 0.0
    other = replace(config, init_noise_limit=0.0)
    assert resolve._init_shapes(other)["generator"] == replace(shape, noise_limit=0.0)
    store = replace(config, output="s3://bucket/run")
    other = replace(store, init_noise_limit=0.0)
    assert store.folder == other.folder, "the fingerprint, which has the shape, refuses the other one"
    assert "generator" not in resolve._FREE


def test_a_run_from_the_model_of_the_package_may_have_more_layers(tmp_path: Path) -> None:
    import torch

    import apollo

    compact, samples = apollo.load("compact"), torch.randn(1, 2, 9_000)
    config = TrainConfig(shards="/s", output=str(tmp_path), init="compact", init_layers=14)
    config = replace(config, **resolve._init_shapes(config))
    run._write_init(config)
    deeper = apollo.load(str(tmp_path / "init"))
    assert deeper.config == config.generator == replace(compact.config, layers=14)
    with torch.no_grad():
        torch.testing.assert_close(deeper(samples), compact(samples))
    assert resolve._init_shapes(config)["generator"] == config.generator  # of the output's own copy
    with pytest.raises(ValueError, match="none is removed"):
        run._copy_init(replace(config, init_layers=4, output=str(tmp_path / "other")), "compact")


def test_a_missing_checkpoint_is_refused_and_what_was_done_is_kept(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"status": "done"}')
    config = TrainConfig(shards=str(undisturbed), output=str(tmp_path), init="/no/such.ckpt")
    outcome = run.train(config)
    assert (outcome.code, "/no/such.ckpt" in outcome.message) == (Exit.USAGE, True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["exit_code"]) == ("usage", Exit.USAGE)  # how this run ended
    assert result["previous"] == {"status": "done"}
    assert not (tmp_path / "fingerprint.json").exists()


def test_a_finished_run_continues_only_for_more_steps(tmp_path: Path) -> None:

    def finished(text: str, **changes: Any) -> bool:
        (tmp_path / "result.json").write_text(text)
        config = TrainConfig(shards="/s", output=str(tmp_path))
        config = replace(config, fit=replace(config.fit, epochs=2, epoch_examples=80, **changes))
        return resolve._finished(config, Folder(str(tmp_path))) is not None

    done = '{"status": "done", "message": "", "ending": "done", "step": 20, "patience_epochs": 20}'
    early = '{"status": "done", "message": "", "ending": "early", "step": 10, "patience_epochs": 20}'
    assert finished(done)
    assert not finished(done.replace("20,", "19,"))
    assert finished(done.replace("20,", "19,"), max_steps=19)
    assert finished(f'{{"status": "usage", "exit_code": 2, "message": "no", "previous": {done}}}')
    assert finished(early)
    assert not finished(early, patience_epochs=21)
    assert not finished(early.replace("done", "running", 1))
    assert not finished("")


def test_an_early_stop_is_remembered_with_its_patience(tmp_path: Path) -> None:

    config = TrainConfig(shards="/s", output=str(tmp_path))
    found = {"status": "early", "step": 10, "best": 5, "scores": {}, "skipped": 0}
    outcome = run._outcome(found, config)
    write_result(Folder(str(tmp_path)), outcome.code, outcome.message, **outcome.facts)
    assert resolve._finished(config, Folder(str(tmp_path))) is not None
    longer = replace(config, fit=replace(config.fit, patience_epochs=21))
    assert resolve._finished(longer, Folder(str(tmp_path))) is None
