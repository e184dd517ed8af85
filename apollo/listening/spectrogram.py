"""Spectrograms of a song before and after, computed from a stream in bounded memory."""

from pathlib import Path

import torch
from torch import Tensor

from apollo.checkpoints.io import atomic_write

_WINDOW = 2048
_COLUMNS = 1200
_RANGE_DB = 90.0


class Spectrogram:
    """Accumulate the spectrogram of a stream of blocks [channels, samples].

    A picture of more samples than expected grows: of every two columns one is left out, again and again.

    Args:
        frames: Expected samples per channel, None if unknown; they become at most about 1,200 columns.
        sample_rate: Hz.
    """

    def __init__(self, frames: int | None, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.hop = max(_WINDOW // 4, -(-(frames or 0) // _COLUMNS))
        self._columns: list[Tensor] = []
        self._rest = torch.zeros(_WINDOW // 2)
        self._skip = 0

    def add(self, block: Tensor) -> None:
        """Add samples [channels, samples]."""
        samples = torch.cat((self._rest, block.mean(0)))
        dropped = min(self._skip, len(samples))
        samples = samples[dropped:]
        count = max((len(samples) - _WINDOW) // self.hop + 1, 0)
        if count:
            windows = samples.unfold(0, _WINDOW, self.hop) * torch.hann_window(_WINDOW)
            self._columns.extend(torch.fft.rfft(windows).abs().square())
        self._rest = samples[count * self.hop :]
        self._skip += max(count * self.hop - len(samples), 0) - dropped
        while len(self._columns) > 2 * _COLUMNS:
            self._thin_out()

    def _thin_out(self) -> None:
        """Keep every second column; the next column stays where a hop of twice the length puts it."""
        if len(self._columns) % 2:
            dropped = min(self.hop, len(self._rest))
            self._rest, self._skip = self._rest[dropped:], self._skip + self.hop - dropped
        self._columns = self._columns[::2]
        self.hop *= 2

    def level_db(self) -> Tensor:
        """Return levels [bins, columns] in dB of a full-scale sine; one silent column if too short."""
        power = torch.stack(self._columns or [torch.zeros(_WINDOW // 2 + 1)], 1)
        return 10 * torch.log10(power / (_WINDOW / 4) ** 2 + 1e-12)


def save_comparison(before: Spectrogram, after: Spectrogram, *, title: str, target: Path) -> None:
    """Write both spectrograms on one scale as a PNG, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    levels = (before.level_db(), after.level_db())
    top = max(float(level.max()) for level in levels)
    for axes, level, name, source in zip(panels, levels, ("before", "after"), (before, after)):
        seconds = level.shape[1] * source.hop / source.sample_rate
        image = axes.imshow(
            level.numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, source.sample_rate / 2000),
            cmap="magma",
            vmin=top - _RANGE_DB,
            vmax=top,
        )
        axes.set_title(name, fontsize=11)
        axes.set_ylabel("kHz")
    panels[-1].set_xlabel("seconds")
    figure.suptitle(title, parse_math=False)  # a dollar sign in a name is not math
    figure.colorbar(image, ax=panels, label="dB")
    with atomic_write(target) as scratch:
        figure.savefig(scratch, format="png", dpi=110)
