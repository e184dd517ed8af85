"""Files beside a result that show what changed: a picture of spectrograms, a page to listen to both."""

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from apollo.audio.formats import SongsConfig
from apollo.checkpoints.io import atomic_write
from apollo.listening.excerpts import ExcerptChooser
from apollo.listening.song_page import SongPage, write_song_page
from apollo.listening.spectrogram import Spectrogram, save_comparison

PICTURE, PAGE = ".spectrogram.png", ".compare.html"


class SideFiles:
    """Collects what the files need while a song is restored.

    Args:
        config: Says which files are written.
        frames: Expected samples per channel, None if unknown.
        sample_rate: Hz.
    """

    def __init__(self, config: SongsConfig, frames: int | None, sample_rate: int) -> None:
        self._config, self._rate = config, sample_rate
        self._spectrograms: tuple[Spectrogram, Spectrogram] | None = None
        if config.picture or config.compare:
            self._spectrograms = Spectrogram(frames, sample_rate), Spectrogram(frames, sample_rate)
        self._chooser = ExcerptChooser(sample_rate) if config.compare else None
        self._samples = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add blocks [channels, samples] of both signals; the result may come later."""
        self._samples += before.shape[1]
        if self._spectrograms is not None:
            for spectrogram, block in zip(self._spectrograms, (before, after)):
                spectrogram.add(block)
        if self._chooser is not None:
            self._chooser.add(before, after)

    def write(self, source: Path, target: Path) -> list[str]:
        """Write the files.

        Args:
            source: The input.
            target: The result.

        Returns:
            Warnings: of files that cannot be written. The song is restored, whatever happens here.
        """
        title = os.fsencode(source.name).decode(errors="replace")
        warnings = []
        if self._config.picture:
            warnings += _try("spectrogram", lambda: self._write_picture(title, target.with_suffix(PICTURE)))
        if self._config.compare:
            warnings += _try("comparison page", lambda: self._write_page(title, target.with_suffix(PAGE)))
        return warnings

    def _write_picture(self, title: str, target: Path) -> None:
        assert self._spectrograms is not None  # noqa: S101 - our invariant
        save_comparison(*self._spectrograms, title=title, target=target)

    def _write_page(self, title: str, target: Path) -> None:
        assert self._spectrograms is not None  # noqa: S101 - our invariant
        assert self._chooser is not None  # noqa: S101
        before, after = self._spectrograms
        page = SongPage(
            title=title,
            excerpts=self._chooser.finish(),
            before=before,
            after=after,
            seconds=self._samples / self._rate,
            channels=self._chooser.channels,
            sample_rate=self._rate,
        )
        html = write_song_page(page)
        with atomic_write(target) as scratch:
            scratch.write_text(html, encoding="utf-8")


def _try(name: str, write: Callable[[], None]) -> list[str]:
    try:
        write()
    except Exception as error:  # whatever a library raises
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return [f"the {name} cannot be written: {reason}"]
    return []
