"""Transcode files that cannot be read in exact windows to 44.1 kHz stereo FLAC, in a shared cache.

Compressed files, other sample rates and other channel counts are decoded as a whole by ffmpeg and resampled
by soxr, so that the samples of a window do not depend on its start. Memory does not grow with length.

A damaged file is an error, not a shorter file: ffmpeg returns 0 on a truncated file, so the decoded length is
compared with the container's.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass

import numpy as np
import soundfile

from apollo.audio.containers import read_sample_bytes
from apollo.audio.decoding import Decoder
from apollo.audio.parts import find_parts
from apollo.audio.probing import AudioInfo, find_missing_end, probe
from apollo.audio.rejects import AudioError, RejectKind
from pipelines.audio.reading import Probe, open_binary, open_source_file
from pipelines.schema import CHANNELS, SAMPLE_RATE
from pipelines.storage.folder import Folder, is_uri

INFO_SUFFIX = ".json"  # of the file with the properties of a cached one
HEADROOM = 8.0  # decoders and resamplers overshoot full scale; 18 dB leave 21 of FLAC's 24 bits
_BLOCK_FRAMES = 1 << 18
_DURATION_SLACK_SECONDS = 0.1


@dataclass(frozen=True)
class TranscodedFile:
    """A file of the cache: name, length in samples per channel, and whether the original was lossy.

    Args:
        name: Name in the cache.
        frames: Samples per channel.
        lossy: Whether the original is lossy.
        remark: What its header declares wrongly, and a change of its sample rate midway.
    """

    name: str
    frames: int
    lossy: bool
    remark: str | None = None


def cache_name(path: str, size: int, mtime_ns: int, stream: int = 0) -> str:
    """Return the name of a cached file, a hash of its original's path, size, time and audio stream."""
    facts = f"{path}\n{size}\n{mtime_ns}\n{HEADROOM}" + (f"\n{stream}" if stream else "")
    return f"{hashlib.sha256(facts.encode(errors='surrogateescape')).hexdigest()[:32]}.flac"


def transcode(
    path: str, *, cache: Folder, name: str, known: Probe | None, program: str, audio_stream: int = 0
) -> TranscodedFile:
    """Decode a whole file to a 24-bit FLAC in the cache, scaled down by HEADROOM.

    Args:
        path: Path or URI of the file.
        cache: Folder of the cached files.
        name: Name in the cache.
        known: Properties read by libsndfile, if it knows the format.
        program: ffmpeg.
        audio_stream: Number of the audio stream in the file, from 0.

    Raises:
        AudioError: the file cannot be decoded, has no such stream, differs in length from its header, changes
            its channels midway, or exceeds the headroom.
    """
    with tempfile.TemporaryDirectory(prefix="apollo-ingest-") as scratch:
        source = os.path.join(scratch, "input")
        _link_or_download(path, source)
        found = find_parts(source)
        if found.damage:
            raise AudioError(found.damage, RejectKind.DAMAGED)
        stream = probe(source, program)
        if audio_stream >= stream.num_streams:
            raise AudioError(
                f"has {stream.num_streams} audio streams, {audio_stream + 1} are needed", RejectKind.DAMAGED
            )
        target = os.path.join(scratch, "output.flac")
        with open(source, "rb") as file:
            declared = read_sample_bytes(file, os.path.getsize(source))
        unfinished = declared is not None and declared.declared == 0
        try:
            frames, formats = _decode(
                source, target, stream.layout, program, audio_stream, strict=not unfinished
            )
        except AudioError as error:
            if unfinished and error.kind != RejectKind.EMPTY:
                raise AudioError(
                    f"unfinished: header declares no samples: {error}", RejectKind.DAMAGED
                ) from error
            raise
        remarks = [*found.remarks, _find_change(stream, formats)]
        if damage := _compare_length(frames / SAMPLE_RATE, known, stream, source, program):
            raise AudioError(damage, RejectKind.DAMAGED)
        cache.put(name, target)
    return TranscodedFile(name, frames, stream.lossy, "; ".join(filter(None, remarks)) or None)


def _find_change(stream: AudioInfo, formats: list[str]) -> str | None:
    """Return that the sample rate changes midway, None if nothing does.

    Raises:
        AudioError: the channels may change: their conversion to the first ones changes the level.
    """
    if not formats:
        return None
    initial = f"{stream.sample_rate} Hz, {stream.layout}"
    # ffmpeg may have taken the properties of a later format for the initial ones
    change = f"changes midway {f'from {initial} ' if formats[0] != initial else ''}to {formats[0]}"
    layouts = {format.partition(", ")[2] for format in formats}
    if formats[0] == initial or layouts != {stream.layout}:
        raise AudioError(f"{change}: the level is not kept", RejectKind.DAMAGED)
    return f"{change}: resampled"


def _compare_length(
    decoded: float, known: Probe | None, stream: AudioInfo, source: str, program: str
) -> str | None:
    """Return how the decoded seconds differ from those that the file declares, None if they do not."""
    expected = stream.seconds
    if known is not None and _has_exact_length(known):
        expected = known.frames / known.sample_rate
    elif expected is not None and decoded < expected and (stream.pictures or stream.num_streams > 1):
        return find_missing_end(stream, decoded, source, program)
    if expected is None or abs(decoded - expected) <= _DURATION_SLACK_SECONDS:
        return None
    return f"damaged: {decoded:.2f} s could be decoded, {expected:.2f} s expected"


def _has_exact_length(known: Probe) -> bool:
    return not known.lossy and known.frames > 0


def _link_or_download(path: str, source: str) -> None:
    if not is_uri(path):
        open_source_file(path).close()
        os.symlink(os.path.abspath(path), source)
        return
    with open_binary(path) as stream, open(source, "wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 22)


def _decode(
    source: str, target: str, layout: str, program: str, stream: int, *, strict: bool
) -> tuple[int, list[str]]:
    """Write samples to a FLAC; return their number per channel, and the formats that follow the first."""
    frames = 0
    with (
        Decoder(
            source, program, sample_rate=SAMPLE_RATE, stereo=layout, strict=strict, stream=stream
        ) as decoder,
        soundfile.SoundFile(target, "w", SAMPLE_RATE, CHANNELS, "PCM_24", format="FLAC") as flac,
    ):
        while block := decoder.read(_BLOCK_FRAMES):
            samples = np.frombuffer(block, "<f4").reshape(-1, CHANNELS) / np.float32(HEADROOM)
            if not np.isfinite(samples).all():
                raise AudioError(
                    f"contains non-finite samples near {frames / SAMPLE_RATE:.1f} s", RejectKind.NOT_FINITE
                )
            if np.abs(samples).max() >= 1:
                raise AudioError(
                    f"exceeds full scale by more than 18 dB near {frames / SAMPLE_RATE:.1f} s",
                    RejectKind.TOO_LOUD,
                )
            flac.write(samples)
            frames += len(samples)
        return frames, [changed for _, changed in decoder.messages.changes]


def trim_cache(cache: Folder, *, keep: set[str], limit_bytes: int) -> None:
    """Delete the oldest files that this run does not use until the cache is below its limit."""
    entries = [entry for entry in cache.entries() if entry.name.endswith(".flac")]
    excess = sum(entry.size for entry in entries) - limit_bytes
    for entry in sorted(entries, key=lambda entry: entry.mtime_ns):
        if excess <= 0:
            return
        if entry.name not in keep:
            cache.delete(entry.name + INFO_SUFFIX)
            cache.delete(entry.name)
            excess -= entry.size


def check_cache_size(cache: Folder, limit_bytes: int) -> None:
    """Check that the cache is below its limit.

    Raises:
        RuntimeError: the cache is over its limit.
    """
    used = sum(entry.size for entry in cache.entries())
    if used > limit_bytes:
        raise RuntimeError(
            f"the cache {cache.location} holds {used / 1e9:.2f} GB of decoded sources, sources.cache_gb "
            f"allows {limit_bytes / 1e9:.2f}. "
            "Raise it and run again, or convert the files to 44.1 kHz WAV or FLAC"
        )
