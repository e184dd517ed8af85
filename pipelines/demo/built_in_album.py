"""The demo: the road as far as it is built, on the built-in album or on one's own data."""

import logging
from pathlib import Path

from pipelines.demo.album import write_album

logger = logging.getLogger(__name__)


def album_folders(destination: Path, soundfont: Path | None) -> list[str]:
    """Write the built-in album where it is not there yet, and name its folders in the data sets' layouts."""
    logger.info(f"built-in album: 12 generated songs in {destination}")
    write_album(destination, soundfont=soundfont)
    return [str(destination / layout) for layout in ("musdb18hq", "moisesdb")]
