"""Publishing generators, against a server on this machine that imitates Hugging Face."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import apollo
from apollo.__main__ import main
from apollo.checkpoints.checkpoint import describe_weights, load, save
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.known_models import KNOWN_MODELS, find_known
from apollo.checkpoints.published_format import to_published
from apollo.model.generator import Generator
from tests.support.hub_server import TOKEN, HubServer, serve_hub

sharing = pytest.importorskip("apollo.checkpoints.sharing")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Save a small generator with metadata that must not be published."""
    torch.manual_seed(0)
    generator = Generator(apollo.GeneratorConfig(dim=16, layers=1, output="correction"))
    metadata = {"step": 7, "scores": {"valid/si_snr": 12.5}, "shards": "/home/somebody/shards"}
    states = {"ema": generator.state_dict(), "discriminator": {"secret": torch.zeros(3)}}
    return save(generator, tmp_path / "run", extra_states=states, metadata=metadata, training_state={"lr": 1})


def _assert_same(found: Generator, expected: Generator) -> None:
    assert found.config == expected.config
    theirs = expected.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in found.state_dict().items())


def test_a_pushed_checkpoint_is_loaded_by_its_name(
    hub: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["push", "some/body", "--checkpoint", str(run), "--license", "cc-by-4.0"])
    assert code == 0, capsys.readouterr()
    assert capsys.readouterr().out.strip() == f"{hub.address}/some/body/commit/{'0' * 40}"
    files = {path.removeprefix("/some/body/resolve/main/") for path in hub.files}
    assert files == {"README.md", "config.json", "MANIFEST.json", "weights.safetensors"}
    _assert_same(load("some/body"), load(run))
    hub.close()
    _assert_same(load("some/body"), load(run))  # from the cache


def test_from_pretrained_and_push_to_hub_are_those_of_the_mixin(hub: HubServer, run: Path) -> None:
    generator = sharing.PretrainedGenerator.from_checkpoint(str(run))
    generator.push_to_hub("some/body")
    copy = sharing.PretrainedGenerator.from_pretrained("some/body")
    _assert_same(copy, load(run))
    assert not copy.training
    assert copy.metadata == {"step": 7, "scores": {"valid/si_snr": 12.5}}
    audio = torch.randn(1, 4410)
    assert torch.equal(apollo.restore(copy, audio), apollo.restore(load(run), audio))


def test_from_pretrained_takes_the_files_that_apollo_load_takes(hub: HubServer, tmp_path: Path) -> None:
    generator = Generator(apollo.GeneratorConfig(dim=16, layers=1))
    torch.save({"state_dict": to_published(generator)}, tmp_path / "published")
    published = (tmp_path / "published").read_bytes()
    hub.files["/some/body/resolve/v1/pytorch_model.bin"] = published
    _assert_same(sharing.PretrainedGenerator.from_pretrained("some/body", revision="v1"), generator)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        sharing.PretrainedGenerator.from_pretrained("some/body")
    hub.files["/JusperLee/Apollo/resolve/main/pytorch_model.bin"] = published
    with pytest.raises(CheckpointError, match=r"SHA-256 .*, expected 99d9af7f1ff2"):
        sharing.PretrainedGenerator.from_pretrained("JusperLee/Apollo")
    hub.files["/some/body/resolve/main/deep/model.ckpt"] = published
    _assert_same(sharing.PretrainedGenerator.from_pretrained("some/body/deep/model.ckpt"), generator)
    hub.close()
    _assert_same(sharing.PretrainedGenerator.from_pretrained("some/body/deep/model.ckpt"), generator)
    with pytest.raises(CheckpointError, match="Hugging Face is unreachable"):
        sharing.PretrainedGenerator.from_pretrained("other/body", local_files_only=True)


def test_nothing_but_weights_configuration_and_scores_is_published(hub: HubServer, run: Path) -> None:
    assert main(["push", "some/body", "--checkpoint", str(run), "--license", "other"]) == 0
    everything = b"".join(hub.files.values())
    assert b"somebody" not in everything
    assert b"secret" not in everything
    config = json.loads(hub.files["/some/body/resolve/main/config.json"])
    assert sorted(config) == ["format", "generator", "scores", "step"]


def test_the_card_has_the_metadata_that_the_hub_expects(hub: HubServer, run: Path, tmp_path: Path) -> None:
    assert main(["push", "some/body", "--checkpoint", str(run), "--license", "cc-by-4.0"]) == 0
    card = hub.files["/some/body/resolve/main/README.md"].decode()
    assert card.startswith("---\n")
    head = card.split("---\n")[1]
    assert all(part in head for part in ("license: cc-by-4.0", "library_name: apollo", "audio-to-audio"))
    assert "apollo restore song.mp3 --checkpoint some/body" in card
    assert "| valid/si_snr | 12.5 |" in card
    own = tmp_path / "card.md"
    own.write_text("---\nlicense: mit\nlanguage: de\n---\n\n# Mine\n")
    assert main(["push", "some/body", "--checkpoint", str(run), "--card", str(own)]) == 0
    card = hub.files["/some/body/resolve/main/README.md"].decode()
    assert all(part in card for part in ("license: mit", "language: de", "# Mine", "library_name: apollo"))


def test_a_card_without_a_licence_or_with_broken_metadata_is_refused(
    hub: HubServer, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "some/body", "--checkpoint", str(run)]) == 2
    assert "name it with --license" in capsys.readouterr().err
    broken = tmp_path / "card.md"
    broken.write_text("---\nlicense: [mit\n---\n# Mine\n")
    assert main(["push", "some/body", "--checkpoint", str(run), "--card", str(broken)]) == 2
    assert "head of the model card cannot be read" in capsys.readouterr().err
    assert not hub.requests


def test_output_writes_what_would_be_published_and_asks_no_server(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "some/body", "--checkpoint", "compact", "-o", str(tmp_path / "look")]) == 0
    _assert_same(load(tmp_path / "look"), load())
    assert (tmp_path / "look" / "weights.safetensors").stat().st_size == KNOWN_MODELS[0].size_bytes
    card = (tmp_path / "look" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "# Model card: compact" in card
    assert not hub.requests
    assert main(["push", "some/body", "--checkpoint", "compact", "-o", str(tmp_path / "look")]) == 2
    assert "exists" in capsys.readouterr().err


def test_what_the_hub_refuses_is_a_failure_with_advice(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    command = ["push", "some/body", "--checkpoint", str(run), "--license", "mit"]
    assert main(command) == 1
    assert "hf auth login" in capsys.readouterr().err
    assert main(["push", "no such/name/at all", *command[2:]]) == 1
    assert "was not published" in capsys.readouterr().err
    hub.close()
    assert main(command) == 1
    assert "some/body was not published" in capsys.readouterr().err
    assert not hub.files


def test_a_pushed_folder_that_was_changed_is_refused(hub: HubServer, run: Path) -> None:
    assert main(["push", "some/body", "--checkpoint", str(run), "--license", "mit"]) == 0
    path = "/some/body/resolve/main/weights.safetensors"
    hub.files[path] = hub.files[path][:-1] + b"?"
    with pytest.raises(CheckpointError, match="damaged"):
        load("some/body")
    del hub.files[path], hub.files["/some/body/resolve/main/config.json"]
    hub.files = {key.replace("some", "other"): value for key, value in hub.files.items()}
    with pytest.raises(CheckpointError, match=r"other/body on Hugging Face has no config\.json or weights"):
        load("other/body")


def test_known_models_are_listed_and_the_one_of_the_package_is_as_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for model in KNOWN_MODELS:
        assert all(part in text for part in (model.name, model.licence, model.sha256, model.page))
    assert main(["models", "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)] == [m.name for m in KNOWN_MODELS]
    assert find_known("JusperLee/Apollo") is KNOWN_MODELS[1]
    assert main(["models", "compact"]) == 0
    folder = Path(capsys.readouterr().out.strip().partition(": ")[2])
    weights = folder / "weights.safetensors"
    assert weights.stat().st_size == KNOWN_MODELS[0].size_bytes
    assert apollo.checkpoints.io.file_sha256(weights) == KNOWN_MODELS[0].sha256
    assert sum(p.numel() for p in load().parameters()) == KNOWN_MODELS[0].parameters
    for known, name in ((KNOWN_MODELS[1], "released"), (KNOWN_MODELS[2], None)):
        config = apollo.PRESETS[name] if name else apollo.GeneratorConfig(dim=384)
        with torch.device("meta"):
            assert sum(p.numel() for p in Generator(config).parameters()) == known.parameters


def test_weights_of_a_known_model_have_its_licence_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(to_published(Generator(apollo.GeneratorConfig(dim=16, layers=1))), tmp_path / "mine.bin")
    facts = describe_weights(str(tmp_path / "mine.bin"))
    assert (facts["weights"], facts["licence"]) == ("mine.bin", "that of the checkpoint")
    known = dataclasses.replace(KNOWN_MODELS[1], sha256=facts["weights_sha256"])
    monkeypatch.setattr("apollo.checkpoints.known_models.KNOWN_MODELS", (known,))
    assert describe_weights(str(tmp_path / "mine.bin"))["licence"] == "CC-BY-SA-4.0"


def test_models_are_downloaded_by_name(hub: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "some/body", "--checkpoint", str(run), "--license", "mit"]) == 0
    capsys.readouterr()
    assert main(["models", "some/body", "no/body"]) == 1
    found = capsys.readouterr()
    assert found.out.startswith("some/body: ")
    assert Path(found.out.strip().partition(": ")[2], "weights.safetensors").exists()
    assert "no/body" in found.err
