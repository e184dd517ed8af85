"""Progress bar of the current song: on a terminal only."""

import sys
from typing import Any


class ProgressBar:
    """Show seconds of audio restored, for one song at a time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._enabled = sys.stderr.isatty()

    def show(self, name: str, done: float, total: float | None) -> None:
        """Update the bar to `done` of `total` seconds of a song, None if unknown."""
        if not self._enabled:
            return
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                self._enabled = False
                return
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            form = form if total else "{desc}: {n:.0f} s [{elapsed}]"
            self._bar = tqdm(total=total, desc=name[:40], file=sys.stderr, leave=False, bar_format=form)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
