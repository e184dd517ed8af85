"""Mix the components of a recipe, and find up to which frequency the mix is known.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apollo.audio.rejects import RejectError, RejectKind
from pipelines.audio.bandwidth import known_bandwidth_hz, mix_bandwidth_hz
from pipelines.audio.reading import SourceReader
from pipelines.schema import CHANNELS, EXCERPT_FRAMES
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

_SILENT_PEAK = 1 / 32_768


class MixSource(NamedTuple):
    """What a mix needs of a source.

    Args:
        files: Files of the source, as in sources.parquet.
        bandwidth_hz: Frequency up to which it is known; infinite if completely.
    """

    files: list[dict[str, Any]]
    bandwidth_hz: float = math.inf


class Mix(NamedTuple):
    """A mix.

    Args:
        samples: [3 s, channels]; may exceed full scale.
        bandwidth_hz: Frequency up to which it is known; infinite if completely.
    """

    samples: NDArray[np.float32]
    bandwidth_hz: float

    @property
    def stored_bandwidth_hz(self) -> int | None:
        """The bandwidth as a shard stores it: null if the mix is known completely."""
        return None if math.isinf(self.bandwidth_hz) else round(self.bandwidth_hz)


def read_sources(output: Folder) -> dict[str, MixSource]:
    """Read the sources of a planned output, by id."""
    with output.open("sources.parquet") as file:
        rows = parquet.read_table(file, ["source_id", "files", "lossy", "bandwidth_hz"]).to_pylist()
    return {
        row["source_id"]: MixSource(
            row["files"], known_bandwidth_hz(row["bandwidth_hz"], lossy=bool(row["lossy"]))
        )
        for row in rows
    }


def mix(
    components: Sequence[Mapping[str, Any]], sources: Mapping[str, MixSource], reader: SourceReader
) -> Mix:
    """Sum the components of a recipe at their gains.

    Raises:
        RejectError: a source cannot be read, or the sum is silent or non-finite.
    """
    total = np.zeros((EXCERPT_FRAMES, CHANNELS), np.float32)
    limited = []
    for component in components:
        source = sources[component["source_id"]]
        excerpt = reader.read(source.files, component["start"], EXCERPT_FRAMES)
        excerpt = excerpt * np.float32(10 ** (component["gain_db"] / 20))
        total += excerpt
        if math.isfinite(source.bandwidth_hz):
            limited.append((excerpt, source.bandwidth_hz))
    peak = float(np.abs(total).max())
    if not np.isfinite(peak):
        raise RejectError("the mix contains non-finite samples", RejectKind.NOT_FINITE)
    if peak < _SILENT_PEAK:
        raise RejectError("the mix is silent", RejectKind.SILENT)
    return Mix(total, mix_bandwidth_hz(limited, total))
