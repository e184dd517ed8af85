"""The MLflow registry: versions of the model, and the aliases `candidate` and `champion`.

A version is a pyfunc from code (`pipelines.served`) whose artifact `checkpoint` is a checkpoint folder with
safetensors weights. Names like `models:/apollo@champion` stand for that folder (`pipelines.registered`).
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.delivery import impatient, make_client
from pipelines.errors import UsageError
from pipelines.packed import pack
from pipelines.schema import SAMPLE_RATE

CANDIDATE, CHAMPION = "candidate", "champion"
ARTIFACT = "checkpoint"
_DIGEST, _NAME = "weights_sha256", re.compile(r"[A-Za-z0-9][\w.-]*")
_REQUEST_SECONDS = 60
_SERVED_NEEDS = ("mlflow", "torch", "numpy", "soundfile", "ffmpeg-python", "imageio-ffmpeg", "safetensors")


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Where models are registered.

    Args:
        name: Of the registered model.
        register: Whether training registers its best weights when it ends.
        licence: What the weights may be used for, for the version's description.
    """

    name: str = "apollo"
    register: bool = True
    licence: str = "none given: it depends on the training data (MUSDB18-HQ is for academic use only)"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"registry.name is {self.name!r}: give letters, digits, dots, dashes and underscores"
            )


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Args:
        name: Of the model.
        number: Of the version.
        run_id: The training run's.
        tags: What is known of it.
        aliases: What it is called.
    """

    name: str
    number: int
    run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """What to load it by."""
        return f"models:/{self.name}/{self.number}"

    @property
    def label(self) -> str:
        """What to call it in tables."""
        return f"{self.name}-v{self.number}"


class Registry:
    """The versions of one registered model.

    Args:
        name: Of the model.
        uri: Of the tracking server or database.
    """

    def __init__(self, name: str, uri: str) -> None:
        self.name, self.uri = name, uri
        self.client = make_client(uri)

    def version(self, what: str | int) -> Version | None:
        """Find a version by its alias or number; None where there is none.

        Raises:
            Exception: whatever MLflow raises when the server does not answer.
        """
        from mlflow.exceptions import MlflowException

        with impatient(_REQUEST_SECONDS):
            try:
                if str(what).isdigit():
                    return _version(self.client.get_model_version(self.name, str(what)))
                found = self.client.get_model_version_by_alias(self.name, str(what))
                return _version(self.client.get_model_version(self.name, found.version))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def of_run(self, run_id: str) -> list[Version]:
        """Find the versions that a run registered, the newest first."""
        with impatient(_REQUEST_SECONDS):
            found = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        return sorted(map(_version, found), key=lambda one: -one.number)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Write down what became known of a version."""
        with impatient(_REQUEST_SECONDS):
            for name, value in tags.items():
                self.client.set_model_version_tag(self.name, str(version.number), name, value)

    def describe(self, version: Version, text: str) -> None:
        """Set a version's description, Markdown."""
        with impatient(_REQUEST_SECONDS):
            self.client.update_model_version(self.name, str(version.number), text)

    def set_alias(self, alias: str, version: Version) -> None:
        """Move an alias to a version."""
        with impatient(_REQUEST_SECONDS):
            self.client.set_registered_model_alias(self.name, alias, str(version.number))


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), found.run_id or "", dict(found.tags), tuple(found.aliases))


def register(
    checkpoint: str,
    config: RegistryConfig,
    uri: str,
    *,
    run_id: str,
    facts: Mapping[str, str],
    scores: Mapping[str, float],
) -> Version:
    """Register a checkpoint's best weights as a new version, with the alias `candidate`.

    The same weights of the same run are registered once: calling again mends what an earlier call left.

    Args:
        checkpoint: Folder of a run, or a checkpoint; the average weights are taken where there are some.
        config: Under which name.
        uri: Of the tracking server or database.
        run_id: The training run's.
        facts: Tags of the version, such as the fingerprint of the data.
        scores: Of the validation that chose these weights.

    Raises:
        Exception: whatever MLflow raises when the server does not answer.
    """
    from apollo.checkpoint import load

    generator = load(checkpoint)
    digest = pack(generator).digest
    registry = Registry(config.name, uri)
    there = next((one for one in registry.of_run(run_id) if one.tags.get(_DIGEST) == digest), None)
    there = there or _create(generator, registry, run_id, digest)
    tags = {"licence": config.licence, "training_run": run_id, **facts}
    registry.tag(there, {name: value for name, value in tags.items() if there.tags.get(name) != value})
    registry.describe(there, _description(generator, tags, scores))
    if there.tags.get("was_candidate") != "true":
        registry.set_alias(CANDIDATE, there)
        registry.tag(there, {"was_candidate": "true"})  # a later one may be it when this is called again
    return there


def _create(generator: Any, registry: Registry, run_id: str, digest: str) -> Version:
    import mlflow

    import apollo
    from apollo.checkpoint import save_portable

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.uri)
    try:
        with tempfile.TemporaryDirectory(prefix="apollo-register-") as scratch, impatient(_REQUEST_SECONDS):
            folder = save_portable(generator, Path(scratch, ARTIFACT), notes={"run_id": run_id})
            ended = registry.client.get_run(run_id).info.status
            with mlflow.start_run(run_id=run_id):
                logged = mlflow.pyfunc.log_model(
                    name=registry.name,
                    python_model=str(Path(__file__).with_name("served.py")),
                    artifacts={ARTIFACT: str(folder)},
                    code_paths=[str(Path(apollo.__file__).parent)],
                    pip_requirements=_requirements(),
                    input_example=([_example()], {"format": "flac24"}),
                )
            registry.client.set_terminated(run_id, ended if ended != "RUNNING" else "FINISHED")
            made = mlflow.register_model(logged.model_uri, registry.name, tags={_DIGEST: digest})
    finally:
        mlflow.set_tracking_uri(before)
    found = registry.version(int(made.version))
    assert found is not None
    return found


def _example() -> bytes:
    """Make half a second of a tone as FLAC: what a request holds."""
    import io

    import numpy as np
    import soundfile

    tone = 0.1 * np.sin(2 * np.pi * 440 / SAMPLE_RATE * np.arange(SAMPLE_RATE // 2))
    stream = io.BytesIO()
    soundfile.write(stream, np.stack((tone, tone), 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in _SERVED_NEEDS]


def _description(generator: Any, facts: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Say in Markdown what a version is."""
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    shape = generator.config
    lines = [
        f"Apollo generator, {parameters:,} parameters (dim {shape.dim}, {shape.layers} layers, output "
        f"{shape.output}); an encoded audio file in, 24-bit FLAC at 44.1 kHz out.",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()),
    ]
    if scores:
        lines += ["", "Validation scores of these weights:", ""]
        lines += [f"- {name}: {value:.4g}" for name, value in sorted(scores.items())]
    return "\n".join(lines)
