"""Versions of what decides the bytes of shards."""

import os
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pyarrow as pa
import soundfile

from apollo.audio.ffmpeg import ffmpeg_version, find_ffmpeg
from pipelines.runtime.run import describe_differences
from pipelines.schema import SCHEMA_VERSION


def software_versions(ffmpeg: str | None) -> dict[str, str]:
    """Name the versions that decide the bytes of shards."""
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
    """Refuse to work on a node whose programs differ from the run's.

    Raises:
        RuntimeError: with each difference.
    """
    found = software_versions(ffmpeg)
    if found != expected:
        differences = "; ".join(describe_differences(expected, found))
        raise RuntimeError(
            f"node {os.uname().nodename} would make other bytes than this run: {differences}. Install the "
            "same versions"
        )
