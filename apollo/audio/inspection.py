"""Inspect audio files: what they are, and whether a lossless one has a lossy history: `apollo inspect`.

Windows from the middle of a file are analysed, not all of it.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apollo.audio.band_edge import BandEdge, measure_band_edge
from apollo.audio.bitstreams import read_bitstream
from apollo.audio.codec_traces import EXCERPT_SAMPLES, GRID_SAMPLES, find_traces
from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError, find_ffmpeg
from apollo.audio.probing import AudioInfo, probe
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.verdicts import CONFIDENT, LOSSLESS, TRANSCODE, Verdict, judge_lossless, judge_lossy

_NUM_WINDOWS, _WINDOW_SECONDS = 4, 3.0
_NUM_EXCERPTS = 4
_MIDDLE = (0.15, 0.85)
_MOST_SECONDS = 600.0  # of files that are decoded from their beginning
_OTHER_RATES = {44_100: (48_000,), 48_000: (44_100,)}  # of which a file may have been resampled
_COMMON_RATES = (44_100, 48_000)
_UNREADABLE = (AudioError, FfmpegError, FfmpegMissingError, OSError)
_NAMES = {"mp3": "MP3", "aac": "AAC", "vorbis": "Vorbis", "opus": "Opus", "flac": "FLAC", "alac": "ALAC"}


@dataclass(kw_only=True)
class Inspection:
    """What an audio file is.

    Args:
        input: Its path.
        verdict: `lossless`, `lossy`, `transcode`, `unknown`; None if it cannot be read.
        confidence: That the verdict is right, 0 to 1.
        reasons: Why, in sentences.
        history: Codec of the lossy history of a transcode, None if unknown.
        problem: Why it cannot be read.
        kind: Kind of the problem, one of RejectKind.
        container: Format of the file; empty if unknown.
        codec: Name of the codec in ffmpeg.
        bitrate_bps: Mean bitrate, None if unknown.
        bitrate_mode: `constant` or `variable`, None for lossless codecs.
        encoder: Name that the encoder left; empty if there is none.
        sample_rate: Hz.
        channels: Number of channels.
        seconds: Duration; None if unknown.
        bandwidth_hz: Highest frequency with signal above 16-bit rounding noise.
        edge_hz: Edge of a low-pass filter, None if the spectrum has no steep end.
        edge_drop_db: How far the level falls there.
        analysed: Beginnings and ends in seconds of what was analysed.
        warnings: Damage of the file, as far as it was read.
    """

    input: str
    verdict: str | None = None
    confidence: float = 0.0
    reasons: list[str] = field(default_factory=list)
    history: str | None = None
    problem: str | None = None
    kind: str | None = None
    container: str = ""
    codec: str = ""
    bitrate_bps: int | None = None
    bitrate_mode: str | None = None
    encoder: str = ""
    sample_rate: int = 0
    channels: int = 0
    seconds: float | None = None
    bandwidth_hz: int | None = None
    edge_hz: int | None = None
    edge_drop_db: float | None = None
    analysed: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inspect_files(paths: Iterable[str]) -> Iterable[Inspection]:
    """Inspect files one after the other; one that cannot be read is a result with a problem."""
    for path in paths:
        try:
            yield inspect_file(path)
        except _UNREADABLE as error:
            kind = getattr(error, "kind", RejectKind.OTHER)
            yield Inspection(input=path, problem=str(error), kind=kind)


def inspect_file(path: str) -> Inspection:
    """Inspect a file.

    Raises:
        AudioError: it is not a readable audio file.
        FfmpegError: ffmpeg timed out.
        FfmpegMissingError: there is no ffmpeg.
        OSError: it vanished meanwhile.
    """
    program = find_ffmpeg()
    info = _probe(path, program)
    windows = _Windows.read(path, info.sample_rate)
    stream = read_bitstream(path, program, info, windows.seconds or 0.0)
    edge = measure_band_edge(windows.samples, info.sample_rate)
    if info.lossy:
        name = _NAMES.get(info.codec, info.codec)
        verdict = judge_lossy(name, stream.bitrate_bps, windows.channels, edge)
    else:
        verdict = _judge(path, edge, windows)
    return Inspection(
        input=path,
        verdict=verdict.verdict,
        confidence=verdict.confidence,
        reasons=list(verdict.reasons),
        history=verdict.history,
        container=stream.container,
        codec=info.codec,
        bitrate_bps=stream.bitrate_bps,
        bitrate_mode=stream.bitrate_mode,
        encoder=stream.encoder,
        sample_rate=info.sample_rate,
        channels=windows.channels,
        seconds=windows.seconds,
        bandwidth_hz=edge.bandwidth_hz,
        edge_hz=edge.edge_hz,
        edge_drop_db=edge.drop_db if edge.edge_hz is not None else None,
        analysed=windows.spans(),
        warnings=windows.warnings,
    )


def describe_lossless(path: str) -> str | None:
    """Return that a file is lossless with the full band, if that is certain: nothing is to be restored."""
    result = _inspect_lossless_coding(path)
    if result is None or result.verdict != LOSSLESS or result.confidence < CONFIDENT:
        return None
    return f"lossless with the full band (confidence {result.confidence:.2f})"


def describe_undamaged(path: str) -> str | None:
    """Return that a file has no sign of a lossy codec; None for lossy files and transcodes."""
    result = _inspect_lossless_coding(path)
    if result is None or result.verdict == TRANSCODE:
        return None
    return f"no sign of a lossy codec ({result.verdict}, confidence {result.confidence:.2f})"


def _inspect_lossless_coding(path: str) -> Inspection | None:
    """Inspect a file in a lossless coding; return None for others."""
    try:
        return None if _probe(path, find_ffmpeg()).lossy else inspect_file(path)
    except _UNREADABLE:
        return None  # whoever restores it meets the same, and says so


def _probe(path: str, program: str) -> AudioInfo:
    try:
        if not os.path.getsize(path):
            raise AudioError("the file is empty", RejectKind.EMPTY)
        return probe(path, program)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise AudioError(f"cannot be opened: {reason}", RejectKind.UNOPENED) from error


@dataclass(frozen=True)
class _Windows:
    """Windows of a file.

    Args:
        sample_rate: Hz.
        starts: Positions, multiples of GRID_SAMPLES.
        samples: Each [channels, samples].
        channels: Number of channels.
        seconds: Duration of the file, None if unknown.
        warnings: Damage of the file, as far as it was read.
    """

    sample_rate: int
    starts: list[int]
    samples: list[Tensor]
    channels: int
    seconds: float | None
    warnings: list[str]

    @classmethod
    def read(cls, path: str, sample_rate: int) -> "_Windows":
        """Read windows from the middle; from the beginning, where the middle is missing."""
        try:
            windows = cls._read(path, sample_rate, from_middle=True)
        except AudioError:
            return cls._read(path, sample_rate, from_middle=False)
        return windows if windows.spans() else cls._read(path, sample_rate, from_middle=False)

    @classmethod
    def _read(cls, path: str, sample_rate: int, *, from_middle: bool) -> "_Windows":
        with AudioReader(path, sample_rate) as reader:
            total, starts = reader.estimated_frames, [0]
            if from_middle:
                starts = _choose_starts(total, sample_rate, in_pieces=reader.reads_in_pieces)
            frames = round(_WINDOW_SECONDS * sample_rate)
            if len(starts) == 1:
                frames *= _NUM_WINDOWS
            samples = reader.read_windows(starts, frames)
            if not from_middle and not samples[0].shape[1]:
                raise AudioError("the file contains no samples", RejectKind.EMPTY)
            seconds = None if total is None else total / sample_rate
            return cls(sample_rate, starts, samples, reader.channels, seconds, reader.warnings)

    def excerpts(self) -> list[Tensor]:
        """Return the loudest excerpt of every window on the common grid; more of them if there are few."""
        candidates = [
            [
                window[:, start : start + EXCERPT_SAMPLES]
                for start in range(0, window.shape[1] - EXCERPT_SAMPLES + 1, GRID_SAMPLES)
            ]
            for window in self.samples
        ]
        ranked = [sorted(one, key=lambda part: -float(part.square().sum())) for one in candidates]
        first = [one[0] for one in ranked if one]
        rest = sorted(
            (part for one in ranked for part in one[1:]), key=lambda part: -float(part.square().sum())
        )
        return (first + rest)[:_NUM_EXCERPTS]

    def spans(self) -> list[tuple[float, float]]:
        """Return beginnings and ends in seconds."""
        pairs = zip(self.starts, self.samples, strict=True)
        return [
            (round(start / self.sample_rate, 2), round((start + window.shape[1]) / self.sample_rate, 2))
            for start, window in pairs
            if window.shape[1]
        ]


def _choose_starts(total: int | None, sample_rate: int, *, in_pieces: bool) -> list[int]:
    """Return where windows begin: spread over the middle of a file, a single one in a short file."""
    most = round(_MOST_SECONDS * sample_rate)
    length = most // 10 if total is None else total if in_pieces else min(total, most)
    frames = round(_WINDOW_SECONDS * sample_rate)
    if length < 2 * _NUM_WINDOWS * frames:
        start = max(length - _NUM_WINDOWS * frames, 0) // 2
        return [start // GRID_SAMPLES * GRID_SAMPLES]
    places = torch.linspace(_MIDDLE[0] * length, _MIDDLE[1] * length - frames, _NUM_WINDOWS)
    return [int(place) // GRID_SAMPLES * GRID_SAMPLES for place in places]


def _judge(path: str, edge: BandEdge, windows: _Windows) -> Verdict:
    """Judge a file of a lossless codec: search at its sample rate, then at others, if its band ends."""
    rate = windows.sample_rate
    search = find_traces(windows.excerpts(), rate)
    others: Sequence[int] = _OTHER_RATES.get(rate, _COMMON_RATES if rate > max(_COMMON_RATES) else ())
    for other in others:
        if search.found or (edge.edge_hz is None and edge.bandwidth_hz > min(rate, other) * 0.46):
            break
        resampled = find_traces(_Windows.read(path, other).excerpts(), other)
        search = resampled if resampled.found else search
    return judge_lossless(edge, search, rate)
