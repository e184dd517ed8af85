"""Versions of the software that determines the bytes of shards."""

import os
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pyarrow as pa
import soundfile

from apollo.audio.ffmpeg import ffmpeg_version, find_ffmpeg
from pipelines.runtime.run import describe_differences
from pipelines.schema import SCHEMA_VERSION


def software_versions(ffmpeg: str | None) -> dict[str, str]:
    """Return the versions that determine the bytes of shards, by name."""
    try:
        package = version("apollo-restoration")
    except PackageNotFoundError:
        package = "unknown"
    return {
        "package": package,
        "schema": str(SCHEMA_VERSION),
        "ffmpeg": ffmpeg_version(find_ffmpeg(ffmpeg)),
        "libsndfile": soundfile.__libsndfile_version__,
        "arrow": pa.__version__,
        "numpy": np.__version__,
        "soxr": version("soxr"),
    }


def check_versions(expected: dict[str, str], ffmpeg: str | None) -> None:
    """Check that this node has the software versions of the run.

    Raises:
        RuntimeError: they differ; the text names each difference.
    """
    found = software_versions(ffmpeg)
    if found != expected:
        differences = "; ".join(describe_differences(expected, found))
        raise RuntimeError(
            f"node {os.uname().nodename} has other software versions than this run: {differences}. Install "
            "the same versions, or its shards would have other bytes"
        )
