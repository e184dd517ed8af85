"""Songs for the demo to restore: excerpts of the test split as MP3."""

import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipelines.audio.codec import CodecConfig, Encoder
from pipelines.audio.reading import SourceReader
from pipelines.preprocess.render import to_16_bit, to_flac
from pipelines.schema import MIXTURE, SAMPLE_RATE
from pipelines.storage import parquet
from pipelines.storage.atomic import write_atomic
from pipelines.storage.folder import Folder, join

_LONGEST_TITLE = 60


def write_songs(folder: str, shards: str, *, songs: int, seconds: float, bitrate_bps: int) -> list[str]:
    """Write excerpts of whole songs as MP3, each with its clean original in a folder beside, once.

    Args:
        folder: Where the MP3s go; the originals go to `<folder>-clean`.
        shards: Output of preprocess.
        songs: Most songs, of the test split.
        seconds: Longest excerpt, from the middle.
        bitrate_bps: Of the MP3s.

    Returns:
        The songs' names, without ending.
    """
    with Folder(shards).open("sources.parquet") as stream:
        table = parquet.read_table(stream)
    chosen = table.filter((pc.field("split") == "test") & (pc.field("stem") == MIXTURE))
    whole = [row for row in chosen.to_pylist() if row["left_out"] is None]
    rows = sorted(whole, key=lambda row: row["source_id"])[:songs]
    encoder = Encoder(CodecConfig(bitrates_bps=(bitrate_bps,)))
    reader, names = SourceReader(join(shards, "cache")), []
    for number, row in enumerate(rows):
        title = re.sub(r"[^\w -]+", "", row["title"] or "").strip()[:_LONGEST_TITLE]
        name = f"{number + 1} {title}".strip()
        names.append(name)
        target = Path(folder, f"{name}.mp3")
        if target.exists():
            continue
        frames = min(row["frames"], round(seconds * SAMPLE_RATE))
        samples = reader.read(row["files"], (row["frames"] - frames) // 2, frames)
        clean, _ = to_16_bit(np.asarray(samples, np.float32))
        (made,) = encoder.encode(clean).values()
        write_atomic(str(Path(f"{folder}-clean", f"{name}.flac")), to_flac(clean))
        write_atomic(str(target), made.stream)
    reader.close()
    return names
