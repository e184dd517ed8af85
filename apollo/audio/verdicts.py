"""Judge from measurements whether a recording has a lossy history."""

from dataclasses import dataclass

from apollo.audio.band_edge import BandEdge
from apollo.audio.codec_traces import TraceSearch

LOSSLESS, LOSSY, TRANSCODE, UNKNOWN = "lossless", "lossy", "transcode", "unknown"
CONFIDENT = 0.9  # from here on, `apollo restore` leaves lossless files alone
MIN_RATE_HZ = 32_000
_FULL_BAND_HZ = 19_800  # converters and masters end from here on
_STEEP_DB = 25.0
_TYPICAL_HZ = 300
_MP3_EDGES = (  # kbps at constant bitrate and the low-pass of LAME 3.100
    (32, 5_500),
    (48, 7_700),
    (64, 11_200),
    (96, 15_100),
    (128, 16_700),
    (160, 17_400),
    (192, 18_700),
    (224, 19_200),
    (256, 19_500),
    (320, 20_100),
)
_EDGE_OF_HIGH_BITRATES = ((224_000, 17_300), (192_000, 16_300))  # stereo bitrate, and an edge too low for it


@dataclass(frozen=True)
class Verdict:
    """What a recording is.

    Args:
        verdict: `lossless`, `lossy`, `transcode` or `unknown`.
        confidence: That it is right, 0 to 1; 0 for unknown.
        reasons: Why, in sentences.
        history: Codec of the lossy history of a transcode, if it is known.
    """

    verdict: str
    confidence: float
    reasons: tuple[str, ...]
    history: str | None = None


def judge_lossy(codec: str, bitrate_bps: int | None, channels: int, edge: BandEdge) -> Verdict:
    """Judge a file of a lossy codec: lossy, or a transcode if its band is that of a much lower bitrate."""
    described = _describe_edge(edge)
    stereo_bps = (bitrate_bps or 0) * 2 / max(min(channels, 2), 1)
    for limit_bps, too_low_hz in _EDGE_OF_HIGH_BITRATES:
        if stereo_bps >= limit_bps and _is_filtered(edge) and (edge.edge_hz or 0) <= too_low_hz:
            kbps = round((bitrate_bps or 0) / 1000)
            reason = f"{kbps} kbps would keep more: encoded from a lossy or filtered file"
            return Verdict(TRANSCODE, 0.6, (f"coded as {codec}", described + _describe_cause(edge), reason))
    return Verdict(LOSSY, 1.0, (f"coded as {codec}", described))


def judge_lossless(edge: BandEdge, search: TraceSearch, sample_rate: int) -> Verdict:
    """Judge a file of a lossless codec: its history may be lossy."""
    if not edge.bandwidth_hz:
        return Verdict(UNKNOWN, 0.0, ("silence, or too short: nothing to measure",))
    described, trace = _describe_edge(edge), search.best
    if search.found and trace is not None:
        reason = (
            f"{trace.near_zero:.0%} of the transform coefficients are zero on one grid of {trace.codec} "
            f"blocks, {trace.usual:.1%} on others: only that encoder leaves this"
        )
        return Verdict(TRANSCODE, 0.99, (reason, described + _describe_cause(edge)), trace.codec)
    if sample_rate < MIN_RATE_HZ:
        return Verdict(
            UNKNOWN, 0.0, (f"a sample rate of {sample_rate} Hz has no room for the highs of music",)
        )
    if edge.edge_hz is not None and edge.edge_hz < _FULL_BAND_HZ:
        reason = "a codec may have done that and been resampled, or a recording at a lower sample rate"
        described += _describe_cause(edge)
        return Verdict(UNKNOWN, 0.0, (described, f"no codec's blocks were found: {reason}"))
    if not search.conclusive:
        return Verdict(
            UNKNOWN, 0.0, (described, "too quiet or too short to find or exclude a codec's blocks")
        )
    none = "no codec's blocks were found"
    if edge.bandwidth_hz < _FULL_BAND_HZ:
        return Verdict(LOSSLESS, 0.6, (described, none))
    if edge.edge_hz is not None or not search.certain:
        return Verdict(LOSSLESS, 0.75, (described, none))
    return Verdict(LOSSLESS, 0.95, (described, none))


def _is_filtered(edge: BandEdge) -> bool:
    return edge.edge_hz is not None and edge.constant and edge.drop_db >= _STEEP_DB


def _describe_edge(edge: BandEdge) -> str:
    if not edge.bandwidth_hz:
        return "silent where it was analysed"
    if edge.edge_hz is None:
        return f"the spectrum has no steep end; signal up to {edge.bandwidth_hz / 1000:.1f} kHz"
    times = "at all times" if edge.constant else "most of the time"
    return f"nothing above {edge.edge_hz / 1000:.1f} kHz, a steep edge of {edge.drop_db:.0f} dB, {times}"


def _describe_cause(edge: BandEdge) -> str:
    for kbps, typical_hz in _MP3_EDGES:
        if edge.edge_hz is not None and abs(typical_hz - edge.edge_hz) <= _TYPICAL_HZ:
            return f"; MP3 at {kbps} kbps cuts there"
    return ""
