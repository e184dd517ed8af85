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
_WEIGHT_TOLERANCE = 0.05  # of a part's weight in the sum
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
    """Find rows that are the sum of two or more others, all at the same gain.

    Each row is fitted by the others with weights of at least 0. A part is a difference of a sum and other
    parts, so that it needs negative weights and is never found. A sum may hide another one (a mix is the sum
    of the vocals and of the rest at another gain), so rows are compared again without the sums found.

    Args:
        samples: [files, samples].

    Returns:
        By row that is a sum, the rows that it is the sum of.
    """
    products = (samples @ samples.T).astype(np.float64) / samples.shape[1]
    power = np.diag(products)
    rows = [row for row in np.argsort(power, kind="stable").tolist() if power[row] >= _SILENCE]
    sums: dict[int, list[int]] = {}
    found = True
    while found:
        found = False
        for row in rows:
            others = [other for other in rows if other != row and other not in sums]
            if row not in sums and len(others) > 1 and (parts := _find_parts(products, row, others)):
                sums[row], found = parts, True
    return sums


def _find_parts(products: NDArray[np.float64], row: int, others: list[int]) -> list[int]:
    """Return the rows that a row is the sum of, at one gain; empty if it is no sum.

    Args:
        products: Mean products of all pairs of rows.
        row: The row.
        others: Rows that it may be the sum of.
    """
    weights = _fit(products, row, others)
    if not (gain := float(weights.max())) > 0:
        return []
    parts = [part for part, weight in zip(others, weights, strict=True) if weight > gain / 2]
    gain = float(weights[np.isin(others, parts)].mean())
    total = [row, *parts]
    signs = np.array([1.0] + [-gain] * len(parts))
    residual = signs @ products[np.ix_(total, total)] @ signs
    equal = np.abs(weights - gain * np.isin(others, parts)).max() < _WEIGHT_TOLERANCE * gain
    exact = residual < _MAX_RESIDUAL * products[row, row]
    return sorted(parts) if len(parts) > 1 and equal and exact else []


def _fit(products: NDArray[np.float64], row: int, others: list[int]) -> NDArray[np.float64]:
    """Return weights of at least 0 with which the others are closest to the row."""
    from scipy.optimize import nnls

    places = [*others, row]
    scale = 1 / np.sqrt(np.diag(products)[places])
    values, vectors = np.linalg.eigh(products[np.ix_(places, places)] * np.outer(scale, scale))
    columns = np.sqrt(np.maximum(values, 0))[:, np.newaxis] * vectors.T  # with these products
    weights = nnls(columns[:, :-1], columns[:, -1])[0]
    fitted: NDArray[np.float64] = weights * scale[:-1] / scale[-1]
    return fitted
