"""Publish generators on Hugging Face, and load them by `from_pretrained`; needs the package huggingface_hub.

A repository holds a checkpoint folder (config.json, weights.safetensors, MANIFEST.json) and a model card.
`apollo.load("owner/name")` reads it too.
"""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi, ModelCard, ModelHubMixin
from huggingface_hub.errors import HTTPError

from apollo.checkpoints.checkpoint import CONFIG, load, locate, save_safetensors
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.hub import FOLDER_FILES, download
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator

LIBRARY = "apollo-restoration"
CARD = "README.md"
_PUBLIC_METADATA = ("step", "scores")  # of config.json; what else writers keep there may name their machines
_TAGS = ("audio-to-audio", "music", "audio-restoration", "bandwidth-extension", "apollo")


class PretrainedGenerator(  # type: ignore[call-arg]
    Generator,
    ModelHubMixin,  # type: ignore[misc]
    library_name=LIBRARY,
    pipeline_tag="audio-to-audio",
    tags=list(_TAGS),
    paper_url="https://arxiv.org/abs/2409.08514",
):
    """A `Generator` with huggingface_hub's `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Example:
        >>> generator = PretrainedGenerator.from_pretrained("owner/name")
        >>> restored = apollo.restore(generator, audio)
    """

    def __init__(self, config: GeneratorConfig, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Initialize with random weights.

        Args:
            config: The network.
            metadata: Further entries of config.json.
        """
        super().__init__(config)
        self.metadata = dict(metadata or {})

    @classmethod
    def from_checkpoint(cls, source: str) -> "PretrainedGenerator":
        """Load a checkpoint as `apollo.load` does, with what may be published of its metadata.

        Raises:
            CheckpointError: as for `apollo.load`.
        """
        path = locate(source)
        return cls._copy(load(path), _read_metadata(path))

    @classmethod
    def _copy(cls, generator: Generator, metadata: Mapping[str, Any]) -> "PretrainedGenerator":
        result = cls(generator.config, metadata=metadata)
        result.load_state_dict(generator.state_dict())
        return result.eval()

    @classmethod
    def from_pretrained(  # the mixin's looks for a config.json first, which not all repositories have
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> "PretrainedGenerator":
        """Load a generator from a folder, a file, or Hugging Face; its options are those of `ModelHubMixin`.

        Raises:
            CheckpointError: as for `apollo.load`.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.exists():
            path = download(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls._copy(load(path), _read_metadata(path))

    def _save_pretrained(self, save_directory: Path) -> None:
        halved = all(torch.equal(value.half().float(), value) for value in self.state_dict().values())
        stored = copy.deepcopy(self).half() if halved else self  # half the size, the same weights
        with tempfile.TemporaryDirectory() as scratch:
            folder = save_safetensors(stored, Path(scratch, "checkpoint"), metadata=self.metadata)
            for file in FOLDER_FILES:
                shutil.move(folder / file, save_directory / file)

    def generate_model_card(self, *_: Any, name: str = "owner/name", **__: Any) -> ModelCard:
        """Return a model card with what the checkpoint says of itself."""
        return complete_card(_describe(self, name))


def complete_card(text: str) -> ModelCard:
    """Return a model card with the metadata that Hugging Face expects at its head.

    Args:
        text: Markdown, with or without metadata; what metadata it has stays.

    Raises:
        CheckpointError: the metadata of the text cannot be read.
    """
    text = text if text.lstrip().startswith("---") else f"---\n\n---\n\n{text}"
    try:
        card = ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"the head of the model card cannot be read: {error}") from error
    defaults = {"library_name": LIBRARY, "pipeline_tag": "audio-to-audio", "tags": list(_TAGS)}
    for key, value in defaults.items():
        if not getattr(card.data, key, None):
            setattr(card.data, key, value)
    return card


def _read_metadata(path: Path) -> dict[str, Any]:
    config = path / CONFIG if path.is_dir() else None
    if config is None or not config.exists():
        return {}
    found = json.loads(config.read_text())
    return {key: found[key] for key in _PUBLIC_METADATA if key in found}


def _describe(generator: PretrainedGenerator, name: str) -> str:
    config = generator.config
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    rows = {
        "parameters": f"{parameters:,}",
        "sample rate": f"{config.sample_rate} Hz, any number of channels",
        **{key: value for key, value in config.to_dict().items() if key not in ("sample_rate", "bands")},
        **{key: value for key, value in generator.metadata.items() if key != "scores"},
        **generator.metadata.get("scores", {}),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {name.rpartition("/")[2]}

Restores music that a lossy codec damaged, with [Apollo](https://arxiv.org/abs/2409.08514) (Li and Luo, 2024).

```
pip install 'apollo-restoration[hub]'
apollo restore song.mp3 --checkpoint {name}
```

| | |
|---|---|
{table}

The weights are safetensors; nothing in this repository is executed.

Not said here: the music that it was trained on, its licences, and what the model does not do.
"""


def write_repository(generator: PretrainedGenerator, folder: Path, card: ModelCard) -> None:
    """Write the files of a repository on Hugging Face into a folder.

    Args:
        generator: What is published.
        folder: Path, which must not exist.
        card: The model card.

    Raises:
        FileExistsError: the folder exists.
    """
    folder.mkdir(parents=True)
    card.save(folder / CARD)
    ModelHubMixin.save_pretrained(generator, folder)  # keeps a card that is there


def push(
    generator: PretrainedGenerator, name: str, card: ModelCard, *, private: bool | None = None, message: str
) -> str:
    """Upload a generator and its model card in one commit, and return the commit's address.

    Args:
        generator: What is published.
        name: `owner/name`; created if it does not exist.
        card: The model card.
        private: Visible to its owner alone, if it is created.
        message: First line of the commit.

    Raises:
        CheckpointError: not logged in, not allowed, or the hub does not answer.
    """
    api = HfApi(library_name=LIBRARY)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "repository")
            write_repository(generator, folder, card)
            repository = api.create_repo(name, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except (HTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = ". Log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else ""
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{name} was not published: {reason}{advice}") from error
    return str(commit.commit_url)
