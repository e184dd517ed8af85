"""The registered model: an encoded audio file in, a restored one out, as `mlflow models serve` runs it.

This file is the model's code (MLflow's models from code): beside it in the registered version lie the weights
as safetensors and a copy of the `apollo` package, so that a serving machine needs no checkout, and nothing is
unpickled. The result is what `apollo restore --format flac24` writes, to the last bit.

APOLLO_SERVE_MAX_BYTES and APOLLO_SERVE_MAX_SECONDS limit a file (64 MiB and 20 minutes); APOLLO_SERVE_DEVICE
and APOLLO_SERVE_PRECISION are what the command's options are (auto and auto).
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

MOST_BYTES, MOST_SECONDS = 64 << 20, 20 * 60


class Restorer(PythonModel):  # type: ignore[misc]
    """Restores whole files."""

    def load_context(self, context: Any) -> None:
        """Load the weights, which lie beside the model."""
        from apollo.checkpoint import load
        from apollo.device import choose_device, choose_precision

        device = choose_device(os.environ.get("APOLLO_SERVE_DEVICE", "auto"))
        precision = choose_precision(os.environ.get("APOLLO_SERVE_PRECISION", "auto"), device)
        self._generator = load(context.artifacts["checkpoint"]).with_precision(precision).to(device)

    def predict(self, model_input: list[bytes], params: dict[str, Any] | None = None) -> list[bytes]:
        """Restore files.

        Args:
            model_input: Whole files: MP3, M4A, Ogg, Opus, FLAC, WAV and what else ffmpeg reads.
            params: None are known.

        Returns:
            FLAC files of 24 bits at 44.1 kHz, one a file.

        Raises:
            MlflowException: one of them is empty, too large, too long, or no audio; it says which. Then none
                is restored, and a server answers 400.
        """
        if not model_input:
            raise _refusal("there is no file: send {'inputs': ['<base64 of an audio file>']}")
        most = int(os.environ.get("APOLLO_SERVE_MAX_BYTES", MOST_BYTES))
        for number, content in enumerate(model_input):
            if not content:
                raise _refusal(f"file {number} is empty, or not base64")
            if len(content) > most:
                raise _refusal(f"file {number} has {len(content)} bytes: at most {most} are taken")
        return [self._restore(number, content) for number, content in enumerate(model_input)]

    def _restore(self, number: int, content: bytes) -> bytes:
        from apollo.files.decoding import AudioError
        from apollo.options import SongsConfig
        from apollo.songs import Job, restore_songs

        most = float(os.environ.get("APOLLO_SERVE_MAX_SECONDS", MOST_SECONDS))

        def check(job: Job, done: float, total: float) -> None:
            """Refuse a file once it is known to be too long, whatever its header claims."""
            if done > most:
                raise AudioError(f"longer than {most:g} s")

        with tempfile.TemporaryDirectory(prefix="apollo-serve-") as folder:
            source, target = Path(folder, "song"), Path(folder, "restored.flac")
            source.write_bytes(content)
            config = SongsConfig(output=folder, format="flac24")
            (outcome,) = restore_songs(self._generator, [Job(source, target)], config, tell=check)
            if outcome.status != "restored":
                raise _refusal(f"file {number} cannot be restored: {outcome.reason}")
            return target.read_bytes()


def _refusal(text: str) -> MlflowException:
    return MlflowException(text, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Restorer())
