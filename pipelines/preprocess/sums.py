"""Find files of a song that are the sum of other files: the song without its vocals, or a bus of drums.

Shape legend: samples are [frames, channels].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apollo.audio.rejects import AudioError
from pipelines.audio.reading import SourceReader
from pipelines.schema import MIXTURE, SAMPLE_RATE

_EXCERPTS, _EXCERPT_FRAMES = 8, SAMPLE_RATE // 4
_MAX_FILES = 64  # of a song; with more, nothing is compared
_WEIGHT_TOLERANCE = 0.05  # of a part's weight in the sum, which is 1
_MAX_RESIDUAL = 1e-3  # -30 dB, the power that the sum does not explain: rounding to 16 bits, lossy codecs
_SILENCE = 1e-8  # mean power, -80 dB


def drop_sums(song_id: str, sources: dict[str, list[dict[str, Any]]], reader: SourceReader) -> list[str]:
    """Remove files that are sums of others from the sources of a song; no source stays without a file.

    Args:
        song_id: For the remarks.
        sources: Rows of files by class; changed.
        reader: Reads the files.

    Returns:
        A remark for each removed file.
    """
    files = [(stem, file) for stem, found in sorted(sources.items()) if stem != MIXTURE for file in found]
    if not 3 <= len(files) <= _MAX_FILES:
        return []
    frames = max(file["frames"] for _, file in files)
    starts = [frames * (2 * place + 1) // (2 * _EXCERPTS) for place in range(_EXCERPTS)]
    try:
        excerpts = [_excerpts(reader, file, starts) for _, file in files]
    except AudioError:
        return []  # the scan rejects the file, with the reason
    finally:
        reader.close()
    samples = np.stack(excerpts)
    if not np.isfinite(samples).all():
        return []
    remarks = []
    for place, parts in find_sums(samples).items():
        stem, file = files[place]
        sources[stem].remove(file)
        if not sources[stem]:
            del sources[stem]
        named = ", ".join(files[part][1]["path"].rpartition("/")[2] for part in parts)
        remarks.append(f"{song_id}: {file['path'].rpartition('/')[2]} is left out: it is the sum of {named}")
    return remarks


def _excerpts(reader: SourceReader, file: dict[str, Any], starts: list[int]) -> NDArray[np.float32]:
    return np.concatenate([reader.read_file(file, start, _EXCERPT_FRAMES) for start in starts]).ravel()


def find_sums(samples: NDArray[np.float32]) -> dict[int, list[int]]:
    """Find rows that are the sum of two or more others.

    A sum has more power than its parts, so each row is compared with the rows of less power that are no sums,
    from the weakest on. The parts, which are differences of a sum and other parts, are thus never found.

    Args:
        samples: [files, samples].

    Returns:
        By row that is a sum, the rows that it is the sum of.
    """
    products = (samples @ samples.T).astype(np.float64) / samples.shape[1]
    power = np.diag(products)
    sums: dict[int, list[int]] = {}
    smaller: list[int] = []
    for row in np.argsort(power, kind="stable").tolist():
        if power[row] < _SILENCE:
            continue
        if len(smaller) > 1:
            weights = np.linalg.lstsq(products[np.ix_(smaller, smaller)], products[smaller, row], rcond=1e-9)[
                0
            ]
            parts = [part for part, weight in zip(smaller, weights, strict=True) if round(weight) == 1]
            total = [row, *parts]
            signs = np.array([1.0] + [-1.0] * len(parts))
            residual = signs @ products[np.ix_(total, total)] @ signs
            exact = np.abs(weights - np.isin(smaller, parts)).max() < _WEIGHT_TOLERANCE
            if len(parts) > 1 and exact and residual < _MAX_RESIDUAL * power[row]:
                sums[row] = sorted(parts)
                continue
        smaller.append(row)
    return sums
