"""The registered model: an encoded audio file in, a restored one out, as `mlflow models serve` runs it.

This file is the model's code (MLflow's models from code): beside it in the registered version lie the weights
as safetensors and a copy of the `apollo` package, so that a serving machine needs no checkout, and nothing is
unpickled. The result is what `apollo restore --format flac24` writes, to the last bit.

APOLLO_SERVE_MAX_BYTES and APOLLO_SERVE_MAX_SECONDS limit a file (64 MiB and 20 minutes); APOLLO_SERVE_DEVICE
and APOLLO_SERVE_PRECISION are what the command's options are (auto and auto).
"""

import base64
import binascii
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

PARAMETERS = ("format", "strength", "seed")
MAX_BYTES, MAX_SECONDS = 64 << 20, 20 * 60
_Predict = Callable[[Any, list[bytes], dict[str, Any] | None], list[bytes]]


class RequestError(MlflowException):  # type: ignore[misc]
    """An invalid request: a server answers 400 with this message alone.

    MLflow would put the whole request, megabytes, in front of the message.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        super().__init__(text, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The message without the request."""
        return self._text

    @message.setter
    def message(self, _: str) -> None:
        pass


class RestorationModel(PythonModel):  # type: ignore[misc]
    """Restores whole files."""

    def load_context(self, context: Any) -> None:
        """Load the weights among the model's artifacts."""
        from apollo.checkpoints.checkpoint import load
        from apollo.model.device import choose_device, choose_precision

        self._max_bytes = int(os.environ.get("APOLLO_SERVE_MAX_BYTES", MAX_BYTES))
        self._max_seconds = float(os.environ.get("APOLLO_SERVE_MAX_SECONDS", MAX_SECONDS))
        device = choose_device(os.environ.get("APOLLO_SERVE_DEVICE", "auto"))
        precision = choose_precision(os.environ.get("APOLLO_SERVE_PRECISION", "auto"), device)
        self._generator = load(context.artifacts["checkpoint"]).with_precision(precision).to(device)

    def predict(self, model_input: list[bytes], params: dict[str, Any] | None = None) -> list[bytes]:
        """Restore files.

        Args:
            model_input: Whole files: MP3, M4A, Ogg, Opus, FLAC, WAV and others that ffmpeg reads.
            params: `format`, `strength` and `seed` as the options of `apollo restore`; by default `flac24`,
                the model's own strength, and 0.

        Returns:
            Restored files at 44.1 kHz, in the same order.

        Raises:
            RequestError: a parameter is out of its range; or a file is empty, too large, too long, or not
                audio: the message has its index, and no file is restored.
        """
        from apollo.audio.formats import SongsConfig

        if not model_input:
            raise RequestError("no file: send {'inputs': ['<base64 of an audio file>']}")
        given = {"format": "flac24", **(params or {})}
        try:
            config = SongsConfig(**{name: given[name] for name in PARAMETERS if name in given})
        except (TypeError, ValueError) as error:
            raise RequestError(str(error)) from error
        for number, content in enumerate(model_input):
            if not content:
                raise RequestError(f"file {number} is empty")
            if len(content) > self._max_bytes:
                raise RequestError(f"file {number} has {len(content)} bytes: the limit is {self._max_bytes}")
        return [self._restore(number, content, config) for number, content in enumerate(model_input)]

    def _restore(self, number: int, content: bytes, config: Any) -> bytes:
        from apollo.audio.rejects import AudioError
        from apollo.audio.songs import SongJob, restore_songs

        def check(job: SongJob, done: float, total: float | None) -> None:
            """Refuse a file as soon as it is too long, whatever its header claims."""
            if done > self._max_seconds:
                raise AudioError(f"longer than {self._max_seconds:g} s")

        with tempfile.TemporaryDirectory(prefix="apollo-serve-") as folder:
            source, target = Path(folder, "song"), Path(folder, "restored")
            source.write_bytes(content)
            (outcome,) = restore_songs(self._generator, [SongJob(source, target)], config, progress=check)
            if outcome.status != "restored":
                raise RequestError(f"file {number} cannot be restored: {outcome.reason}")
            return target.read_bytes()


def _decoding(predict: _Predict) -> _Predict:
    """Decode base64 strictly, before MLflow does, which skips invalid characters and answers 500 later."""

    @functools.wraps(predict)
    def wrapped(self: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[bytes]:
        if not isinstance(model_input, list):
            raise RequestError(f"inputs must be a list of files, not {type(model_input).__name__}")
        return predict(self, [_decode(*numbered) for numbered in enumerate(model_input)], params)

    return wrapped


def _decode(number: int, content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise RequestError(f"file {number} is neither bytes nor base64, but {type(content).__name__}")
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"file {number} is not base64: {error}") from error


RestorationModel.predict = _decoding(RestorationModel.predict)  # type: ignore[method-assign, assignment]  # around what MLflow put there
mlflow.models.set_model(RestorationModel())
