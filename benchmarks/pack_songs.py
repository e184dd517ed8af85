"""Pack excerpts of songs for `benchmarks.gpu`.

python -m benchmarks.pack_songs --songs /data/free-music/songs --output songs

One excerpt from the middle of each song, in random order until the size is reached, as Opus by the bundled
ffmpeg; the stems of a song are summed. Opus codes up to 20 kHz, and spreads what is in its highest band (15.6
to 20 kHz) over all of it: songs.json has as `bandwidth_hz` the lowest of 20 kHz and the bandwidths of the
excerpt and of what Opus makes of it; above it no loss counts. training.json is the configuration as JSON,
since a machine with torch alone reads no YAML. A song that cannot be read, is too short, or has less than
--min-bandwidth-hz is left out.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from numpy.typing import NDArray

from apollo import rng
from apollo.audio.ffmpeg import find_ffmpeg, run
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import RejectError
from apollo.checkpoints.io import atomic_write
from benchmarks.gpu_parts import TRAINING
from benchmarks.live_mp3 import SAMPLE_RATE, SONGS, resample
from pipelines.audio.bandwidth import BandwidthMeter
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.songs import Song
from pipelines.schema import CHANNELS, MIXTURE

_CONFIG = Path(__file__).parents[1] / "jobs/configs/compact.yaml"
_SHORTEST_SECONDS = 6.0
_OPUS_BANDWIDTH_HZ = 20_000  # what is above is leakage of its transform
_PEAK = 0.9  # Opus overshoots
_TIMEOUT_SECONDS = 120.0
_log = logging.getLogger("pack_songs")


def main(arguments: list[str] | None = None) -> int:
    """Pack songs and return the exit code: 0 done, 1 no song, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pack_songs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--songs", required=True, help="folder of songs or stems, as for jobs/preprocess.py")
    parser.add_argument("--output", type=Path, required=True, help="folder that does not exist")
    parser.add_argument("--megabytes", type=float, default=48.0, help="of all files (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of an excerpt (%(default)s)")
    parser.add_argument("--bitrate", type=int, default=128_000, help="bits per second (%(default)s)")
    parser.add_argument("--min-bandwidth-hz", type=float, default=15_500.0, help="(%(default)s)")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="of the training (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.output.exists():
        parser.error(f"{options.output} exists")
    songs = find_songs([options.songs]).songs
    options.output.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    size = 0
    for number in rng.permutation(len(songs), "pack"):
        song = songs[number]
        try:
            excerpt = read_excerpt(song, options.seconds)
            stream = encode_opus(excerpt, options.bitrate)
        except (RejectError, OSError) as error:
            _log.warning("left out: %s: %s", song.song_id, error)
            continue
        path = options.output / f"{len(entries):04d}.opus"
        if size + len(stream) > 1e6 * options.megabytes:
            break
        path.write_bytes(stream)
        packed, rate = soundfile.read(path, dtype="float32", always_2d=True)
        before, after = measure_bandwidth_hz(excerpt), measure_bandwidth_hz(resample(packed, rate))
        known = min(before, after, _OPUS_BANDWIDTH_HZ)
        if known < options.min_bandwidth_hz:
            _log.warning("left out: %s: known up to %d Hz", song.song_id, known)
            path.unlink()
            continue
        size += len(stream)
        entries.append(
            {
                "file": path.name,
                "song": song.song_id,
                "seconds": round(len(excerpt) / SAMPLE_RATE, 2),
                "bandwidth_hz": known,
                "bandwidths_hz": {"before": before, "after": after},
            }
        )
    _write_json(options.output / TRAINING, yaml.safe_load(options.config.read_text()))
    _write_json(options.output / SONGS, entries)
    _log.info("%d songs, %.1f MB: %s", len(entries), size / 1e6, options.output)
    return 0 if entries else 1


def read_excerpt(song: Song, seconds: float) -> NDArray[np.float32]:
    """Read the middle of a song as stereo [frames, channels], stems summed, at most 0.9 of full scale.

    Raises:
        RejectError: it cannot be read, or is too short.
    """
    files = song.sources.get(MIXTURE) or [file for files in song.sources.values() for file in files]
    stems = [_read_middle(file.name, seconds) for file in files]
    frames = max(map(len, stems))
    mix = np.sum([np.pad(stem, ((0, frames - len(stem)), (0, 0))) for stem in stems], axis=0)
    return np.asarray(mix / max(float(np.abs(mix).max()) / _PEAK, 1.0), np.float32)


def _read_middle(path: str, seconds: float) -> NDArray[np.float32]:
    with AudioReader(path, SAMPLE_RATE) as song:
        total = song.estimated_frames or 0
        frames = min(round(seconds * SAMPLE_RATE), total)
        if frames < _SHORTEST_SECONDS * SAMPLE_RATE or song.channels > CHANNELS:
            raise RejectError(f"{total / SAMPLE_RATE:.1f} s of {song.channels} channels")
        first = (total - frames) // 2
        blocks: list[NDArray[np.float32]] = []
        read = 0
        for block in song.blocks(SAMPLE_RATE):
            start = read
            read += block.shape[1]
            if read > first:
                blocks.append(block[:, max(first - start, 0) : first + frames - start].numpy().T)
            if read >= first + frames:
                break
    return np.repeat(np.concatenate(blocks), CHANNELS // song.channels, axis=1)


def encode_opus(samples: NDArray[np.float32], bitrate_bps: int) -> bytes:
    """Encode samples [frames, channels] at 44.1 kHz as Opus in Ogg, at 48 kHz.

    Raises:
        FfmpegError: ffmpeg failed.
    """
    source = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", str(CHANNELS), "-i", "pipe:0"]
    target = ["-c:a", "libopus", "-b:a", str(bitrate_bps), "-f", "ogg", "pipe:1"]
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", *source, "-ar", "48000", *target]
    return run(command, timeout_seconds=_TIMEOUT_SECONDS, stdin=samples.astype("<f4").tobytes())


def measure_bandwidth_hz(samples: NDArray[np.float32]) -> int:
    """Return the bandwidth of samples [frames, channels] at 44.1 kHz."""
    meter = BandwidthMeter()
    for start in range(0, len(samples), 3 * SAMPLE_RATE):
        meter.add(samples[start : start + 3 * SAMPLE_RATE])
    return meter.bandwidth_hz()


def _write_json(path: Path, content: object) -> None:
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    sys.exit(main())
