"""Progress of a call: a bar on a terminal, else how long it takes in all, as a line on standard error."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apollo.cli.time_estimate import TimeEstimate, format_seconds


class Progress:
    """Show seconds of audio restored, and how long the whole call takes.

    Args:
        songs: The files that will be restored.
        together: Whether several are restored at a time: then the bar is that of all.
    """

    def __init__(self, songs: Sequence[Path], *, together: bool = False) -> None:
        self.estimate = TimeEstimate(songs)
        self._songs, self._together = songs, together
        self._bar: Any = None
        self._terminal = sys.stderr.isatty()

    def find_lengths(self) -> None:
        """Begin to find out how long the songs are, beside the work."""
        if len(self._songs) > 1:  # a single one says so when it is opened
            threading.Thread(target=self._find_lengths, daemon=True).start()

    def _find_lengths(self) -> None:
        from apollo.audio.durations import estimate_seconds

        for song in self._songs:
            self.estimate.set_length(song, estimate_seconds(str(song)))

    def show(self, song: Path, done: float, total: float | None) -> None:
        """Report that `done` of `total` seconds of a song are restored, None if unknown."""
        self.estimate.set_length(song, total)
        self.estimate.update(song, done)
        if self._terminal:
            self._show_bar(song.name, done, total)
        elif text := self.estimate.describe_total():
            print(f"apollo: {text}", file=sys.stderr, flush=True)

    def finish(self, song: Path) -> None:
        """Report that a song was restored or failed."""
        self.close()
        self.estimate.finish(song)

    def _show_bar(self, name: str, done: float, total: float | None) -> None:
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                self._terminal = False
                return
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]{postfix}"
            form = form if total and not self._together else "{desc}: {n:.0f} s [{elapsed}]{postfix}"
            self._bar = tqdm(total=total, desc=name[:40], file=sys.stderr, leave=False, bar_format=form)
        remaining = self.estimate.remaining_seconds()
        if len(self._songs) > 1 and remaining is not None:
            bound = "at least " if self.estimate.num_unknown else ""
            self._bar.set_postfix_str(f"all: {bound}{format_seconds(remaining)} left", refresh=False)
        if self._together:
            self._bar.set_description_str(name[:40], refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
