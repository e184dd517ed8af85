"""The output of one song: at its sample rate, with its tags.

Shape legend: samples are [channels, samples], float32.
"""

import os
from pathlib import Path
from types import TracebackType

from torch import Tensor

from apollo.audio.formats import FORMATS, SongsConfig
from apollo.audio.parts import find_parts
from apollo.audio.reading import AudioReader
from apollo.audio.resampling import Resampler
from apollo.audio.tag_reading import read_tags
from apollo.audio.tags import SongTags
from apollo.audio.writing import AudioWriter
from apollo.inference.streaming import StreamableGenerator


class SongOutput:
    """Resample, write and tag a restored song; a context manager that leaves nothing behind before `commit`.

    Args:
        target: Output path.
        song: The input, open.
        config: Options.
        generator: What restores.
        model: Its name.

    Attributes:
        sample_rate: Of the output in Hz.
        samples: Length of the output so far.
        peak: Largest absolute sample before clipping.
        warnings: Tags that were not carried over; complete after `commit`.

    Raises:
        WriteError: the format cannot hold so many channels.
    """

    def __init__(
        self,
        target: Path,
        song: AudioReader,
        config: SongsConfig,
        *,
        generator: StreamableGenerator,
        model: str,
    ) -> None:
        rate = generator.config.sample_rate
        wanted = song.source_rate if config.rate == "same" else rate
        self.sample_rate = FORMATS[config.format].choose_rate(wanted)
        self.samples = 0
        self._exact = song.source_frames if self.sample_rate == song.source_rate else None
        self._resampler = Resampler(rate, self.sample_rate, song.channels)
        tags, self.warnings = read_tags(song.path)
        tags.fill(_libsndfile_tags(song))
        strength = generator.config.noise_strength if config.strength is None else config.strength
        tags.mark_restored(source=_describe_source(song, tags), model=model or "unnamed", strength=strength)
        if config.rate == "same" and self.sample_rate != song.source_rate:
            self.warnings.append(
                f"{config.format} has no {song.source_rate} Hz: {self.sample_rate} Hz instead"
            )
        frames = song.estimated_frames
        self._writer = AudioWriter(
            target,
            channels=song.channels,
            sample_rate=self.sample_rate,
            format=config.format,
            clip=config.clip,
            frames=None if frames is None else frames * self.sample_rate // rate,
            tags=tags,
        )

    def __enter__(self) -> "SongOutput":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def peak(self) -> float:
        """Largest absolute sample before clipping."""
        return self._writer.peak

    def write(self, samples: Tensor) -> None:
        """Append restored samples.

        Raises:
            WriteError: the disk is full or another write error occurred.
        """
        self._write(self._resampler.push(samples))

    def _write(self, samples: Tensor) -> None:
        self.samples += samples.shape[1]
        self._writer.write(samples)

    def commit(self) -> float:
        """Finish the file, tag it and rename it to its target.

        Returns:
            The gain that was applied: 1, or less where the file was scaled down.

        Raises:
            WriteError: the disk is full or another write error occurred.
        """
        self._write(self._resampler.finish(self._exact))
        gain = self._writer.commit()
        self.warnings += self._writer.warnings
        return gain


def _libsndfile_tags(song: AudioReader) -> SongTags:
    """Return what libsndfile reads, as of the INFO chunk of a WAV."""
    tags = SongTags()
    for name, value in song.tags.items():
        tags.add(name, [value])
    return tags


def _describe_source(song: AudioReader, tags: SongTags) -> str:
    """Return codec, bitrate and sample rate of the input."""
    text = song.coding
    if song.lossy:
        bitrate = find_parts(song.path).bitrate_bps or tags.bitrate_bps
        if not bitrate and song.estimated_frames:
            audio_bytes = os.path.getsize(song.path) - sum(len(picture.data) for picture in tags.pictures)
            bitrate = round(8 * audio_bytes * song.sample_rate / song.estimated_frames)
        text += f", {round(bitrate / 1000)} kbps" if bitrate > 0 else ""
    return f"{text}, {song.source_rate} Hz"
