"""Showing how far a song is: a bar on a terminal, nothing elsewhere."""

import sys
from typing import Any


class ProgressBar:
    """A bar of seconds of audio, of one song at a time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = sys.stderr.isatty()

    def show(self, name: str, done: float, total: float) -> None:
        """Show that `done` of `total` seconds of a song are restored."""
        if not self._shown:
            return
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                self._shown = False
                return
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            self._bar = tqdm(total=total, desc=name[:40], file=sys.stderr, leave=False, bar_format=form)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
