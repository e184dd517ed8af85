"""Pages of songs before and after, as `apollo restore --compare` writes them."""

import torch
from torch import Tensor

from apollo.listening.excerpts import ExcerptChooser
from apollo.listening.song_page import SongPage, write_song_page
from apollo.listening.spectrogram import Spectrogram

RATE = 44_100


def make_page(before: Tensor, after: Tensor, *, title: str = "song.mp3", block: int = 50_000) -> str:
    """Write the page of samples [channels, samples], added in blocks of which the result comes later."""
    chooser = ExcerptChooser(RATE)
    spectrograms = [Spectrogram(before.shape[1], RATE) for _ in range(2)]
    late = [after[:, :0], *after.split(block, 1)]
    for one, other in zip([*before.split(block, 1), before[:, :0]], late, strict=True):
        chooser.add(one, other)
        for spectrogram, samples in zip(spectrograms, (one, other)):
            spectrogram.add(samples)
    page = SongPage(
        title=title,
        excerpts=chooser.finish(),
        before=spectrograms[0],
        after=spectrograms[1],
        seconds=before.shape[1] / RATE,
        channels=len(before),
        sample_rate=RATE,
    )
    return write_song_page(page)


def noise(seconds: float, *, channels: int = 2, seed: int = 0) -> Tensor:
    """Return white noise at -20 dBFS."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, round(seconds * RATE), generator=generator)
