"""Find the grid of transform blocks on which a lossy codec has quantized a signal.

A decoded signal, transformed again with the codec's own transform on the codec's own grid of blocks, has the
coefficients that the codec wrote: very many of them are zero. One sample beside the grid they are not, and no
recording has such a grid. So the share of coefficients near zero is measured at every possible position of
the grid; a codec shows as one sharp maximum.

Sources: for the principle, J. Herre and M. Schug, "Analysis of Decompressed Audio - The Inverse Decoder"
(AES 109, 2000). The transforms: ISO/IEC 11172-3 (MP3), ISO/IEC 14496-3 (AAC), Vorbis I specification and
RFC 6716 (Opus, CELT layer).

Shape legend: signals are [samples], in units of a 16-bit step; counts [offsets].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from apollo.audio import mp3_filterbank

EXCERPT_SAMPLES = 6_144
GRID_SAMPLES = 46_080  # a multiple of all codecs' blocks: excerpts that begin at its multiples share a grid
OPUS_RATE_HZ = 48_000
MIN_COEFFICIENTS = 400  # of one signal in one excerpt or in all, for a share to mean something
_CERTAIN_COEFFICIENTS = 5_000  # of MP3, which has most: two excerpts, if all of the spectrum is loud
_LIMIT, _LOUD_POWER = 1.0, 9.0  # rounding to 16 bits leaves 0.3 of a step, dither up to 0.5
_THRESHOLDS = ((12.0, 1.7), (9.0, 2.4))  # deviations and dominance; honest recordings reach one, not both
_MIN_EXCESS = 0.008
_NEIGHBOURS = 2
_CLICK_SAMPLES = 32
_MP3_SUBBANDS = range(2, 24)
_EMPHASIS = 0.85000610  # of Opus


@dataclass(frozen=True)
class Transform:
    """A codec's transform.

    Args:
        codec: Name of the codec.
        hop: Samples from block to block.
        window: Kind of its window.
    """

    codec: str
    hop: int
    window: str = ""


_FAMILIES = (  # transforms with the same blocks, which respond to each other's codec, are compared
    (Transform("MP3", mp3_filterbank.GRANULE),),
    (
        Transform("AAC", 1_024, "kaiser"),
        Transform("AAC", 1_024, "sine"),
        Transform("Vorbis", 1_024, "vorbis"),
    ),
    (Transform("Opus", 960, "celt"),),
)


@dataclass(frozen=True)
class Trace:
    """The position of the grid with the most coefficients near zero, of one transform.

    Args:
        codec: Name of the codec.
        offset: Position of the grid in samples.
        near_zero: Share of coefficients near zero on this grid.
        usual: Median of the shares on all other grids.
        deviations: Distance of the two, in standard deviations of the shares on the others.
        dominance: Distance of the two, divided by that of the second largest share from the median.
    """

    codec: str
    offset: int
    near_zero: float
    usual: float
    deviations: float
    dominance: float

    @property
    def found(self) -> bool:
        """Whether a codec made it: thresholds are far above what honest recordings reach."""
        clear = any(
            self.deviations >= deviations and self.dominance >= dominance
            for deviations, dominance in _THRESHOLDS
        )
        return clear and self.near_zero - self.usual >= _MIN_EXCESS


@dataclass(frozen=True)
class TraceSearch:
    """Result of a search.

    Args:
        best: The trace with the most deviations, None if the signal is too quiet to have any.
        coefficients: How many coefficients were loud enough to be counted; without them nothing is known.
    """

    best: Trace | None
    coefficients: int

    @property
    def found(self) -> bool:
        """Whether a codec was found."""
        return self.best is not None and self.best.found

    @property
    def conclusive(self) -> bool:
        """Whether a codec would probably have been found."""
        return self.coefficients >= MIN_COEFFICIENTS

    @property
    def certain(self) -> bool:
        """Whether a codec would almost certainly have been found."""
        return self.coefficients >= _CERTAIN_COEFFICIENTS


def find_traces(excerpts: Sequence[Tensor], sample_rate: int) -> TraceSearch:
    """Search excerpts of a recording for the grids of all codecs; stop at the first that is found.

    Args:
        excerpts: Stereo or mono excerpts [channels, EXCERPT_SAMPLES] that begin at multiples of GRID_SAMPLES
            of the recording, full scale 1.
        sample_rate: Hz; Opus has 48 kHz alone.
    """
    signals = [
        _take_signal(excerpt, difference=bool(index % 2))
        for index, excerpt in enumerate(excerpts)
        if excerpt.shape[1] >= EXCERPT_SAMPLES
    ]
    search = TraceSearch(None, 0)
    for family in _FAMILIES:
        usable = [signal for signal in signals if not _has_own_grid(signal, 2 * family[0].hop)]
        if usable and (family[0].codec != "Opus" or sample_rate == OPUS_RATE_HZ):
            search = _search_family(family, usable, search)
        if search.found:
            break
    return search


def _search_family(
    family: Sequence[Transform], signals: Sequence[Tensor], search: TraceSearch
) -> TraceSearch:
    """Add to a search: each excerpt, as blocks of other lengths may shift the grid between, then all."""
    sums: dict[Transform, list[Tensor]] = {}
    for signal in signals:
        traces = [search.best]
        for transform in family:
            counts = _count(transform, signal)
            before = sums.get(transform, [torch.zeros(()), torch.zeros(())])
            sums[transform] = [total + part for total, part in zip(before, counts, strict=True)]
            traces.append(_find_peak(transform, *counts))
        search = TraceSearch(_choose(traces), search.coefficients)
        if search.found:
            break
    best = _choose([search.best, *(_find_peak(transform, *counts) for transform, counts in sums.items())])
    most = max(int(loud) for _, loud in sums.values())
    return TraceSearch(best, max(most, search.coefficients))


def _take_signal(excerpt: Tensor, *, difference: bool) -> Tensor:
    """Return the first channel, or its difference from the second, if there is one: codecs code either."""
    steps = excerpt[:2, :EXCERPT_SAMPLES].float() * 32_768
    if difference and len(steps) == 2:
        side = (steps[0] - steps[1]) / math.sqrt(2)
        if side.diff().square().mean() > 4 * _LOUD_POWER:
            return side
    return steps[0]


def _has_own_grid(signal: Tensor, period: int) -> bool:
    """Return whether a signal repeats with the blocks, or is little more than a few clicks: as generated.

    A click in the centre of a half block is no coefficient's.
    """
    energies = signal.square().sort(descending=True).values
    if energies[:_CLICK_SAMPLES].sum() > 0.7 * energies.sum():
        return True
    before, after = signal[:-period], signal[period:]
    return bool(before.dot(after) > 0.999 * before.norm() * after.norm())


def _count(transform: Transform, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Count coefficients near zero on every grid [offsets], and all that are loud."""
    if transform.codec == "MP3":
        granules = (EXCERPT_SAMPLES - mp3_filterbank.needed_samples(0)) // mp3_filterbank.GRANULE
        lines = mp3_filterbank.lines_at_all_offsets(signal, granules, _MP3_SUBBANDS)
        return _count_near_zero(lines.flatten(2).transpose(0, 1))
    if transform.codec == "Opus":
        signal = torch.cat((signal[:1], signal[1:] - _EMPHASIS * signal[:-1]))
    frames = EXCERPT_SAMPLES // transform.hop - 2
    near, loud = torch.zeros(transform.hop), torch.zeros(())
    for frame in range(frames):
        piece = signal[frame * transform.hop :][: 3 * transform.hop - 1]
        blocks = piece.unfold(0, 2 * transform.hop, 1)  # [offsets, samples]
        counted = _count_near_zero((blocks @ _basis(transform))[None])
        near, loud = near + counted[0], loud + counted[1]
    return near, loud


def _count_near_zero(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Count in [blocks, offsets, lines]: near zero by offset, and all; lines that are quiet are left out."""
    loud = coefficients.square().mean(1, keepdim=True) > _LOUD_POWER
    near = (coefficients.abs() < _LIMIT) & loud
    return near.sum((0, 2)).float(), loud.sum().float()


@cache
def _basis(transform: Transform) -> Tensor:
    """Return every fifth line of the MDCT of a block: [2 hop, lines]."""
    hop = transform.hop
    line = torch.arange(hop // 21, hop * 4 // 5, 5) + 0.5
    time = torch.arange(2 * hop, dtype=torch.float64)[:, None] + 0.5 + hop / 2
    cosines = torch.cos(math.pi / hop * time * line) * math.sqrt(2 / hop)
    return (_window(transform)[:, None] * cosines).float()


def _window(transform: Transform) -> Tensor:
    hop = transform.hop
    position = torch.arange(2 * hop, dtype=torch.float64) + 0.5
    sine = torch.sin(math.pi / (2 * hop) * position)
    if transform.window == "sine":
        return sine
    if transform.window == "vorbis":
        return torch.sin(math.pi / 2 * sine**2)
    if transform.window == "kaiser":
        weights = torch.kaiser_window(hop + 1, periodic=False, beta=4 * math.pi, dtype=torch.float64).cumsum(
            0
        )
        rising = (weights[:-1] / weights[-1]).sqrt()
    else:  # the slopes of CELT are 120 samples long
        slope = torch.sin(math.pi / 2 * torch.sin(math.pi / 240 * (torch.arange(120).double() + 0.5)) ** 2)
        flat = (hop - 120) // 2
        rising = torch.cat((torch.zeros(flat).double(), slope, torch.ones(flat).double()))
    return torch.cat((rising, rising.flip(0)))


def _find_peak(transform: Transform, near: Tensor, loud: Tensor) -> Trace | None:
    """Return the trace at the largest share, None if there are too few coefficients."""
    total = float(loud)
    if total < MIN_COEFFICIENTS:
        return None
    shares = near / total
    offset = int(shares.argmax())
    distance = (torch.arange(len(shares)) - offset).remainder(len(shares))
    others = shares[(distance > _NEIGHBOURS) & (distance < len(shares) - _NEIGHBOURS)]
    usual = float(others.median())
    spread = 1.4826 * float((others - usual).abs().median())
    deviation = max(spread, math.sqrt((usual + 1 / total) / total))  # at least that of independent counts
    excess, second = float(shares[offset]) - usual, float(others.max()) - usual
    return Trace(
        transform.codec, offset, usual + excess, usual, excess / deviation, excess / max(second, 1e-6)
    )


def _choose(traces: Sequence[Trace | None]) -> Trace | None:
    """Return a trace that is found, else any; the one with the most deviations."""
    present = [trace for trace in traces if trace is not None]
    return max(present, key=lambda trace: (trace.found, trace.deviations), default=None)
