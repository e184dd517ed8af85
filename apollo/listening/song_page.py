"""The page that compares a song before and after: players at equal loudness, a blind test, spectrograms.

One file that loads nothing else, at most 10 MB: excerpts are shortened where their sound would need more.
"""

import json
from dataclasses import dataclass

from torch import Tensor

from apollo.listening.excerpts import EXCERPT_SECONDS, Excerpt
from apollo.listening.flac import flac_base64
from apollo.listening.html import Html, content_digest, fill, fill_all, read_asset
from apollo.listening.loudness import equal_gains, format_decibels
from apollo.listening.pictures import clock, panel, top_db
from apollo.listening.spectrogram import Spectrogram

MAX_PAGE_BYTES = 10_000_000
_MAX_PICTURE_BYTES = 110_000  # 512 x 200 pixels of 6 bits, in base64
_MAX_TEXT_BYTES = 100_000
_SHORTER = 0.98  # of what would fit: the rest of an excerpt may compress less
VERSIONS = ("input", "restored")
_BUTTON = '<button type="button" data-group="$group">$label</button>'
_VERSION = '<button type="button" class="version" aria-pressed="false">$name</button>'


@dataclass(frozen=True, kw_only=True)
class SongPage:
    """Content of the page.

    Args:
        title: The song's name.
        excerpts: At least one, in the order of the page.
        before: Spectrogram of the whole input.
        after: Spectrogram of the whole result.
        seconds: Length of the song.
        channels: Number of channels of the song; more than two were mixed to mono.
        sample_rate: Hz.
    """

    title: str
    excerpts: list[Excerpt]
    before: Spectrogram
    after: Spectrogram
    seconds: float
    channels: int
    sample_rate: int


@dataclass(frozen=True)
class _Sounding:
    """An excerpt at equal loudness, with its sound: samples, gains and FLAC files in base64, by version."""

    excerpt: Excerpt
    samples: tuple[Tensor, Tensor]
    gains: tuple[float, float]
    audio: tuple[str, str]


def write_song_page(page: SongPage) -> str:
    """Render the page.

    Returns:
        HTML.
    """
    sounding = _encode_within(page)
    style, script = (
        Html(read_asset("player.css") + read_asset("song_page.css")),
        Html(read_asset("player.js")),
    )
    html = fill(
        read_asset("song_page.html"),
        title=page.title,
        style=style,
        style_digest=content_digest(style),
        script=script,
        script_digest=content_digest(script),
        rate=page.sample_rate,
        about=_describe(page),
        places=_place_buttons(page),
        players=fill_all(
            read_asset("song_player.html"),
            [_player(one, number, page) for number, one in enumerate(sounding)],
        ),
        whole=_whole_song(page, sounding),
    )
    return html.encode(errors="replace").decode()  # file names may hold lone surrogates


def _encode_within(page: SongPage) -> list[_Sounding]:
    """Encode the excerpts, all shortened by the same share until they fit in the page."""
    pictures = 2 * (len(page.excerpts) + 1) * _MAX_PICTURE_BYTES
    budget = MAX_PAGE_BYTES - pictures - _MAX_TEXT_BYTES
    excerpts = page.excerpts
    while True:
        encoded = [_encode(one, page.sample_rate) for one in excerpts]
        size = sum(len(text) for one in encoded for text in one.audio)
        if size <= budget:
            return encoded
        share = _SHORTER * budget / size
        excerpts = [_shorten(one, share) for one in excerpts]


def _shorten(excerpt: Excerpt, share: float) -> Excerpt:
    kept = max(int(share * excerpt.before.shape[1]), 1)
    return Excerpt(excerpt.start, excerpt.before[:, :kept], excerpt.after[:, :kept], excerpt.change)


def _encode(excerpt: Excerpt, sample_rate: int) -> _Sounding:
    versions = dict(zip(VERSIONS, (excerpt.before, excerpt.after)))
    gains = equal_gains(versions, sample_rate)
    levelled = {name: gains[name] * samples for name, samples in versions.items()}
    before, after = VERSIONS
    return _Sounding(
        excerpt,
        (levelled[before], levelled[after]),
        (gains[before], gains[after]),
        (flac_base64(levelled[before], sample_rate), flac_base64(levelled[after], sample_rate)),
    )


def _describe(page: SongPage) -> str:
    channels = {1: "mono", 2: "stereo"}.get(page.channels, f"{page.channels} channels, here mixed to mono")
    return f"{clock(page.seconds)}, {channels}, {page.sample_rate / 1000:g} kHz"


def _place_buttons(page: SongPage) -> Html:
    rows = [
        {"group": number, "label": f"{_place(one, page)}{'' if one.start else ' start'}"}
        for number, one in enumerate(page.excerpts)
    ]
    return fill_all(_BUTTON, rows) if len(rows) > 1 else Html()


def _place(excerpt: Excerpt, page: SongPage) -> str:
    return clock(excerpt.start / page.sample_rate)


def _player(sounding: _Sounding, number: int, page: SongPage) -> dict[str, object]:
    start, samples = sounding.excerpt.start / page.sample_rate, sounding.samples[0].shape[1]
    levels = ", ".join(f"{name} {format_decibels(gain)}" for name, gain in zip(VERSIONS, sounding.gains))
    return {
        "group": number,
        "seconds": samples / page.sample_rate,
        "place": f"{clock(start)} – {clock(start + samples / page.sample_rate)}",
        "versions": fill_all(_VERSION, [{"name": name} for name in VERSIONS]),
        "levels": levels,
        "panels": _panels(
            [_spectrogram(one, page.sample_rate) for one in sounding.samples],
            start_seconds=start,
            seconds=samples / page.sample_rate,
        ),
        "audio": Html(json.dumps(sounding.audio)),  # base64: no character of HTML
    }


def _spectrogram(samples: Tensor, sample_rate: int) -> Spectrogram:
    spectrogram = Spectrogram(samples.shape[1], sample_rate)
    spectrogram.add(samples)
    return spectrogram


def _whole_song(page: SongPage, sounding: list[_Sounding]) -> Html:
    if page.seconds <= EXCERPT_SECONDS:
        return Html()  # it is the excerpt
    marks = [
        (one.excerpt.start / page.sample_rate, one.samples[0].shape[1] / page.sample_rate) for one in sounding
    ]
    panels = _panels([page.before, page.after], start_seconds=0.0, seconds=page.seconds, marks=marks)
    return fill('<section><h2>Whole song</h2><div class="panels">$panels</div></section>', panels=panels)


def _panels(
    spectrograms: list[Spectrogram],
    *,
    start_seconds: float,
    seconds: float,
    marks: list[tuple[float, float]] | None = None,
) -> Html:
    """Return the spectrograms of both versions on one scale."""
    levels = [one.level_db() for one in spectrograms]
    template = "<figure><figcaption>$name, kHz</figcaption>$panel</figure>"
    rows = []
    for name, spectrogram, level in zip(VERSIONS, spectrograms, levels):
        picture = panel(
            name,
            level,
            top=top_db(*levels),
            start_seconds=start_seconds,
            seconds=seconds,
            sample_rate=spectrogram.sample_rate,
            marks=marks,
        )
        rows.append({"name": name, "panel": picture})
    return fill_all(template, rows)
