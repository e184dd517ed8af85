"""Loudness by ITU-R BS.1770-4, and the gains that make versions of one item equally loud.

Shape legend: samples are [channels, samples], mono or left and right, full scale at 1.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# The standard tabulates its two filters at 48 kHz only; these analogue parameters give that table through the
# bilinear transform, and so the same filters at any rate.
_SHELF_HZ, _SHELF_Q, _SHELF_DB, _SHELF_EXPONENT = (
    1681.974450955533,
    0.7071752369554196,
    3.999843853973347,
    0.4996667741545416,
)
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
_TABLE_HZ = 48_000
_RESPONSE_SECONDS = 0.5  # then the filters' response, of poles at 38 Hz, is below 1e-45
_OFFSET_LUFS = -0.691
_BLOCK_SECONDS, _STEP_SECONDS = 0.4, 0.1
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_SILENT_BELOW_LOUDEST_LU = -60.0
_FULL_SCALE = 32_767 / 32_768  # of 16 bit
Terms = tuple[float, float, float]
Coefficients = tuple[Terms, Terms]


def k_weighting(sample_rate: int) -> tuple[Coefficients, Coefficients]:
    """Return the K-weighting at a sample rate: (numerator, denominator) of the shelf and of the high-pass."""
    gain = 10 ** (_SHELF_DB / 20)
    shelf = _biquad((gain, gain**_SHELF_EXPONENT / _SHELF_Q, 1.0), _SHELF_HZ, _SHELF_Q, sample_rate)
    numerator, denominator = _biquad((1.0, 0.0, 0.0), _HIGH_PASS_HZ, _HIGH_PASS_Q, sample_rate)
    # the table's numerator is (1, -2, 1): the gain of the pass band is that at 48 kHz
    scale = _biquad((1.0, 0.0, 0.0), _HIGH_PASS_HZ, _HIGH_PASS_Q, _TABLE_HZ)[0][0]
    return shelf, (_scaled(numerator, scale), denominator)


def _biquad(numerator: Terms, hertz: float, q: float, sample_rate: int) -> Coefficients:
    """Transform numerator / (s² + s / q + 1), with s relative to a frequency, to a digital filter."""
    # the bilinear transform s = (z - 1) / (z + 1): the frequency is warped to tan(pi f / fs)
    warped = math.tan(math.pi * hertz / sample_rate)
    above, below = _bilinear(numerator, warped), _bilinear((1.0, 1 / q, 1.0), warped)
    return _scaled(above, below[0]), _scaled(below, below[0])


def _bilinear(terms: Terms, warped: float) -> Terms:
    """Return (z + 1)² (a s² + b s + c), with s = (z - 1) / (z + 1) / warped, times warped²."""
    a, b, c = terms[0], terms[1] * warped, terms[2] * warped**2
    return a + b + c, 2 * (c - a), a - b + c


def _scaled(terms: Terms, divisor: float) -> Terms:
    return terms[0] / divisor, terms[1] / divisor, terms[2] / divisor


def k_weight(samples: Tensor, sample_rate: int) -> Tensor:
    """Filter samples with the K-weighting, from silence, in float64."""
    num_samples = samples.shape[-1]
    needed = num_samples + math.ceil(_RESPONSE_SECONDS * sample_rate)
    size = 1 << (needed - 1).bit_length()
    spectrum = torch.fft.rfft(samples.double(), size)
    for numerator, denominator in k_weighting(sample_rate):
        above, below = (
            torch.fft.rfft(torch.tensor(terms, dtype=torch.float64), size)
            for terms in (numerator, denominator)
        )
        spectrum = spectrum * (above / below)
    weighted: Tensor = torch.fft.irfft(spectrum, size)
    return weighted[..., :num_samples]


def loudness_lufs(samples: Tensor, sample_rate: int) -> float | None:
    """Measure the integrated, gated loudness.

    Beyond the standard: a clip shorter than one block of 400 ms, or of which the gates leave nothing, has the
    loudness of its ungated mean.

    Args:
        samples: Finite; [channels, samples].
        sample_rate: Hz.

    Returns:
        LUFS, or None for silence and for no samples.

    Raises:
        ValueError: there are more channels than two, whose weights would depend on the speaker layout.
    """
    if samples.dim() != 2 or samples.shape[0] not in (1, 2):
        raise ValueError(
            f"samples have the shape {tuple(samples.shape)}; "
            "it must be [channels, samples] with 1 or 2 channels"
        )
    if not samples.any():
        return None
    squares = k_weight(samples, sample_rate).square().sum(0)
    energy = torch.nn.functional.pad(squares.cumsum(0), (1, 0))  # [samples + 1], channels summed
    block, step = round(_BLOCK_SECONDS * sample_rate), round(_STEP_SECONDS * sample_rate)
    starts = torch.arange(0, max(samples.shape[1] - block + 1, 0), step)
    blocks = (energy[starts + block] - energy[starts]) / block
    gated = blocks[blocks > _power(_ABSOLUTE_GATE_LUFS)]
    if len(gated):
        gated = gated[gated > gated.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    power = float(gated.mean() if len(gated) else energy[-1] / samples.shape[1])
    return _OFFSET_LUFS + 10 * math.log10(power) if power > 0 else None


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_LUFS) / 10))


def format_decibels(gain: float) -> str:
    """Return a linear gain in dB with one decimal and a minus sign."""
    level = round(20 * math.log10(gain), 1)
    return f"{level:.1f}".replace("-", "\N{MINUS SIGN}") if level else "0.0"


def equal_gains(versions: Mapping[str, Tensor], sample_rate: int) -> dict[str, float]:
    """Return the gains at which all versions are as loud as the quietest, and none clips.

    No gain exceeds 1: louder versions are attenuated to the quietest, then all by the same gain if a peak
    still exceeds full scale. A version 60 LU below the loudest counts as silent and keeps its level:
    otherwise it would make all others inaudible.

    Args:
        versions: By name; finite, [channels, samples] each.
        sample_rate: Hz.

    Returns:
        Linear gains by the same names.

    Raises:
        ValueError: as `loudness_lufs`.
    """
    measured = {name: loudness_lufs(samples, sample_rate) for name, samples in versions.items()}
    levels = {name: level for name, level in measured.items() if level is not None}
    loudest = max(levels.values(), default=0.0)
    audible = {name: level for name, level in levels.items() if level > loudest + _SILENT_BELOW_LOUDEST_LU}
    quietest = min(audible.values(), default=0.0)
    gains = {name: 10 ** ((quietest - audible.get(name, quietest)) / 20) for name in versions}
    peak = max(
        (gains[name] * float(one.abs().max()) for name, one in versions.items() if one.numel()), default=0.0
    )
    common = min(1.0, _FULL_SCALE / peak) if peak else 1.0
    return {name: common * gain for name, gain in gains.items()}
