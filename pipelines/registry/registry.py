"""The MLflow registry: versions of the model, and the aliases `candidate` and `champion`.

A version is a pyfunc from code (`pipelines.registry.pyfunc_model`) whose artifact `checkpoint` is a
checkpoint folder with safetensors weights. Names like `models:/apollo@champion` resolve to that folder
(`pipelines.registry.resolve_models`).
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import UsageError, root_cause
from pipelines.redaction import redact
from pipelines.registry.model_bundle import pack
from pipelines.schema import SAMPLE_RATE
from pipelines.tracking.client import MAX_TAG_LENGTH, make_client, short_timeouts

CANDIDATE, CHAMPION = "candidate", "champion"
ARTIFACT = "checkpoint"
DIGEST, _NAME = "weights_sha256", re.compile(r"[A-Za-z0-9][\w.-]*")
_REQUEST_SECONDS, _URI = 60, "MLFLOW_TRACKING_URI"
_SERVED_NEEDS = ("mlflow", "torch", "numpy", "soundfile", "imageio-ffmpeg", "safetensors")


class RegistryError(OSError):
    """The registry's server or database does not answer, or refuses a request."""


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Registration of models.

    Args:
        name: Name of the registered model.
        register: Whether training registers its best weights when it ends.
        licence: What the weights may be used for; part of the version's description.
    """

    name: str = "apollo"
    register: bool = True
    licence: str = "none given: it depends on the training data (MUSDB18-HQ is for academic use only)"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"registry.name is {self.name!r}: use letters, digits, dots, dashes and underscores"
            )


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Args:
        name: Name of the model.
        number: Number of the version.
        run_id: Id of the training run.
        tags: Tags by name.
    """

    name: str
    number: int
    run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """URI that loads the version."""
        return f"models:/{self.name}/{self.number}"

    @property
    def label(self) -> str:
        """Name of the version in tables."""
        return f"{self.name}-v{self.number}"


class Registry:
    """The versions of one registered model.

    Args:
        name: Name of the model.
        uri: Tracking server or database.
    """

    def __init__(self, name: str, uri: str) -> None:
        self.name, self.uri = name, uri
        self.client = make_client(uri)

    @contextmanager
    def _requests(self) -> Iterator[None]:
        """Send requests with a timeout, and raise errors of MLflow as RegistryError."""
        from mlflow.exceptions import MlflowException

        with short_timeouts(_REQUEST_SECONDS):
            try:
                yield
            except MlflowException as error:
                raise RegistryError(
                    f"the MLflow registry {redact(self.uri)} cannot be used: {root_cause(error)}. Start its "
                    "server, or correct MLFLOW_TRACKING_URI or --tracking.uri"
                ) from None

    def version(self, what: str | int) -> Version | None:
        """Return the version with an alias or number, None if there is none.

        Raises:
            RegistryError: the registry does not answer, or refuses.
        """
        from mlflow.exceptions import MlflowException

        with self._requests():
            try:
                if str(what).isdigit():
                    return _version(self.client.get_model_version(self.name, str(what)))
                found = self.client.get_model_version_by_alias(self.name, str(what))
                return _version(self.client.get_model_version(self.name, found.version))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def versions_of_run(self, run_id: str) -> list[Version]:
        """Return the versions that a run registered, the newest first."""
        with self._requests():
            found = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        return sorted(map(_version, found), key=lambda one: -one.number)

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._requests():
            for name, value in tags.items():
                self.client.set_model_version_tag(
                    self.name, str(version.number), name, value[:MAX_TAG_LENGTH]
                )

    def set_description(self, version: Version, text: str) -> None:
        """Set the description of a version, in Markdown."""
        with self._requests():
            self.client.update_model_version(self.name, str(version.number), text)

    def set_alias(self, alias: str, version: Version) -> None:
        """Move an alias to a version."""
        with self._requests():
            self.client.set_registered_model_alias(self.name, alias, str(version.number))


def find_version_of_run(uri: str, run_id: str) -> Version | None:
    """Return the newest version that a run registered, under any name."""
    with short_timeouts(_REQUEST_SECONDS):
        found = make_client(uri).search_model_versions(f"run_id = '{run_id}'")
    newest = max(found, key=lambda one: int(one.creation_timestamp), default=None)
    return _version(newest) if newest else None


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), found.run_id or "", dict(found.tags))


def register(
    checkpoint: str,
    config: RegistryConfig,
    uri: str,
    *,
    run_id: str,
    tags: Mapping[str, str],
    scores: Mapping[str, float],
) -> Version:
    """Register a checkpoint's best weights as a new version, with the alias `candidate`.

    The same weights of the same run are registered once: calling again completes what an earlier call left.

    Args:
        checkpoint: Folder of a run, or a checkpoint; its averaged weights if it has them.
        config: Name and licence.
        uri: Tracking server or database.
        run_id: Id of the training run.
        tags: Tags of the version, such as the fingerprint of the data.
        scores: Validation scores of these weights.

    Raises:
        Exception: whatever MLflow raises if the server is unreachable.
    """
    from apollo.checkpoints.checkpoint import load

    generator = load(checkpoint)
    digest = pack(generator).digest
    registry = Registry(config.name, uri)
    same = (one for one in registry.versions_of_run(run_id) if one.tags.get(DIGEST) == digest)
    version = next(same, None) or _create(generator, registry, run_id, digest)
    network = generator.config
    layers = f"{network.layers} layers, {network.heads} heads"
    facts = {
        "architecture": f"dim {network.dim}, {layers}, output {network.output}",
        "parameters": f"{sum(parameter.numel() for parameter in generator.parameters()):,}",
        "licence": config.licence,
        "training_run": run_id,
        **tags,
    }
    registry.set_description(version, _description(facts, scores))
    facts["scores"] = json.dumps(dict(scores))
    registry.set_tags(version, {name: text for name, text in facts.items() if version.tags.get(name) != text})
    if version.tags.get("was_candidate") != "true":
        registry.set_alias(CANDIDATE, version)
        registry.set_tags(version, {"was_candidate": "true"})  # later calls leave the alias to newer versions
    return version


def _create(generator: Any, registry: Registry, run_id: str, digest: str) -> Version:
    import mlflow
    from mlflow.entities import LoggedModelOutput

    import apollo
    from apollo.checkpoints.checkpoint import save_safetensors

    with (
        tempfile.TemporaryDirectory(prefix="apollo-register-") as scratch,
        short_timeouts(_REQUEST_SECONDS),
        default_tracking_uri(registry.uri),
    ):
        folder = save_safetensors(generator, Path(scratch, ARTIFACT), metadata={"run_id": run_id})
        run = registry.client.get_run(run_id)
        # created explicitly, since `log_model` alone would open the run and end it again
        model = registry.client.create_logged_model(run.info.experiment_id, registry.name, run_id)
        registry.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        mlflow.pyfunc.log_model(
            model_id=model.model_id,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={ARTIFACT: str(folder)},
            code_paths=[str(Path(apollo.__file__).parent)],
            pip_requirements=_requirements(),
            input_example=([_example()], _default_parameters(generator)),
        )
        made = mlflow.register_model(model.model_uri, registry.name, tags={DIGEST: digest})
    found = registry.version(int(made.version))
    assert found is not None  # noqa: S101 - our invariant
    return found


@contextmanager
def default_tracking_uri(uri: str) -> Iterator[None]:
    """Set the tracking URI of MLflow's module-level functions, which take it from a global setting only."""
    import mlflow

    before = os.environ.get(_URI)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # None unsets the variable


def _default_parameters(generator: Any) -> dict[str, Any]:
    """Return the parameters of the model with their defaults, from which MLflow takes names and types."""
    return {"format": "flac24", "strength": float(generator.config.noise_strength), "seed": 0}


def _example() -> bytes:
    """Return half a second of a tone as FLAC, the input example of the model."""
    import io

    import numpy as np
    import soundfile

    tone = 0.1 * np.sin(2 * np.pi * 440 / SAMPLE_RATE * np.arange(SAMPLE_RATE // 2))
    stream = io.BytesIO()
    soundfile.write(stream, np.stack((tone, tone), 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def _requirements() -> list[str]:
    from importlib.metadata import version

    # without "+cpu" and the like, which not every index has
    return [f"{package}=={version(package).partition('+')[0]}" for package in _SERVED_NEEDS]


def _description(facts: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Describe a version in Markdown."""
    lines = [
        "Apollo generator: an encoded audio file in, a restored one at 44.1 kHz out (24-bit FLAC).",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()),
    ]
    if scores:
        lines += ["", "Validation scores of these weights:", ""]
        lines += [f"- {name}: {value:.4g}" for name, value in sorted(scores.items())]
    return "\n".join(lines)
