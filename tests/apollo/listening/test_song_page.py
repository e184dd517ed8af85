"""The page that compares a song: whole, inert, bounded, equally loud, with the places that differ most."""

import base64
import io
import json
import re
import struct
import zlib

import pytest
import soundfile
import torch
from torch import Tensor

from apollo.listening.excerpts import Excerpt, ExcerptChooser
from apollo.listening.html import content_digest
from apollo.listening.loudness import loudness_lufs
from apollo.listening.pictures import clock, spectrogram_png
from apollo.listening.song_page import MAX_PAGE_BYTES
from tests.support.html_pages import ParsedPage
from tests.support.song_pages import RATE, make_page, noise

HOSTILE = (
    '</script></title><script>window.hacked=1</script>"\'><img src=x onerror="hacked=1">&amp;$style {{7*7}}'
)


def sounds(page: str) -> list[list[Tensor]]:
    """Decode what each place plays: input and result, [channels, samples]."""
    decoded = []
    for block in re.findall(r'<script type="application/json">(.*?)</script>', page):
        streams = [io.BytesIO(base64.b64decode(text)) for text in json.loads(block)]
        read = [soundfile.read(one, dtype="float32", always_2d=True) for one in streams]
        assert [rate for _, rate in read] == [RATE] * 2
        decoded.append([torch.from_numpy(samples.T.copy()) for samples, _ in read])
    return decoded


def changed_song(seconds: float = 62.0) -> tuple[Tensor, Tensor]:
    """Return music of which 10, 30, 40 and 50 s on differ, 40 most and 10 least."""
    before = noise(seconds)
    after = before.clone()
    for start, change in ((10, 0.1), (30, 0.3), (40, 0.4), (50, 0.2)):
        place = slice(start * RATE, (start + 10) * RATE)
        after[:, place] += change * noise(10.0, seed=start)
    return before, after


def test_page_has_the_start_and_the_places_that_differ_most() -> None:
    before, after = changed_song()
    page = make_page(before, after)
    assert re.findall(r'data-group="(\d)">([^<]*)<', page) == [
        ("0", "0:40"),
        ("1", "0:30"),
        ("2", "0:50"),
        ("3", "0:00 start"),
    ]
    for (one, other), start in zip(sounds(page), (40, 30, 50, 0)):
        place = slice(start * RATE, start * RATE + one.shape[1])
        for heard, original in ((one, before[:, place]), (other, after[:, place])):
            gain = float((heard * original).sum() / original.square().sum())
            assert gain <= 1.0001
            torch.testing.assert_close(heard, gain * original, atol=1e-4, rtol=0)


def test_both_are_equally_loud_and_the_gain_is_told() -> None:
    before = 0.5 * noise(3.0)
    page = make_page(before, 2 * before)
    one, other = sounds(page)[0]
    assert loudness_lufs(one, RATE) == pytest.approx(loudness_lufs(before, RATE), abs=0.02)
    assert loudness_lufs(other, RATE) == pytest.approx(loudness_lufs(one, RATE), abs=0.02)
    assert "Level, dB: input 0.0, restored −6.0." in page


def test_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    parsed = ParsedPage(make_page(*changed_song()), json_is_code=False)
    assert {address.partition(",")[0] for address in parsed.loaded} == {"data:image/png;base64"}
    assert "http://" not in parsed.seen and "https://" not in "".join(parsed.code["script"])
    assert not re.search(r"https?://|url\(|@import|\bfetch\b|XMLHttpRequest", str(parsed.code))
    assert "default-src 'none'" in parsed.policy and "unsafe" not in parsed.policy
    named = set(re.findall(r"'(sha256-[^']+)'", parsed.policy))
    assert {content_digest(one) for one in parsed.code["script"] + parsed.code["style"]} == named


def test_hostile_names_are_text() -> None:
    samples = noise(0.5)
    hostile = ParsedPage(make_page(samples, samples, title=HOSTILE), json_is_code=False)
    tame = ParsedPage(make_page(samples, samples, title="tame"), json_is_code=False)
    assert hostile.tags == tame.tags and hostile.code == tame.code
    assert hostile.seen.count(HOSTILE) == 2
    assert "caf?" in make_page(samples, samples, title="caf\udce9")


def test_page_is_bounded_by_shorter_excerpts() -> None:
    page = make_page(noise(45.0), noise(45.0, seed=1))  # nothing compresses worse
    assert 0.85 * MAX_PAGE_BYTES < len(page.encode()) <= MAX_PAGE_BYTES
    lengths = {one.shape[1] for pair in sounds(page) for one in pair}
    assert len(lengths) == 1 and 5 * RATE < lengths.pop() < 10 * RATE


@pytest.mark.parametrize(
    "channels, shown", [(1, "mono"), (2, "stereo"), (6, "6 channels, here mixed to mono")]
)
def test_channels(channels: int, shown: str) -> None:
    samples = noise(1.0, channels=channels)
    page = make_page(samples, samples)
    assert f"0:01, {shown}, 44.1 kHz" in page
    assert [one.shape for one in sounds(page)[0]] == [(2 if channels == 2 else 1, RATE)] * 2


@pytest.mark.parametrize("samples", [1, 100, 20_000])
def test_short_songs_are_one_place_without_a_choice(samples: int) -> None:
    before = noise(1.0)[:, :samples]
    page = make_page(before, before)
    assert [[one.shape for one in pair] for pair in sounds(page)] == [[(2, samples)] * 2]
    assert 'data-group="' not in page and "Whole song" not in page


def test_silence_is_a_page() -> None:
    silence = torch.zeros(2, RATE)
    page = make_page(silence, silence)
    assert not any(one.any() for one in sounds(page)[0])
    assert "Level, dB: input 0.0, restored 0.0." in page


def test_memory_of_a_long_song_is_that_of_a_few_excerpts() -> None:
    chooser, block = ExcerptChooser(8_000), torch.randn(2, 8_000)
    for number in range(200):
        chooser.add(block, block * (1 + number / 1e3))
    assert chooser._waiting is not None
    assert chooser._waiting[0].shape[1] < 80_000
    found = chooser.finish()
    assert [one.start / 8_000 for one in found] == [190, 180, 170, 0]
    assert sum(one.before.untyped_storage().nbytes() for one in found) == 4 * 4 * 2 * 80_000


def test_result_that_is_shorter_is_compared_as_far_as_it_goes() -> None:
    chooser = ExcerptChooser(8_000)
    chooser.add(torch.ones(1, 30_000), torch.ones(1, 20_000))
    (one,) = chooser.finish()
    assert isinstance(one, Excerpt) and one.before.shape == one.after.shape == (1, 20_000)


def test_spectrogram_is_a_valid_png_with_its_loud_band_at_its_place() -> None:
    level = torch.full((1_025, 900), -120.0)
    level[100:200] = -10.0
    png = spectrogram_png(level, -10.0)
    chunks, at = {}, 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(name + data) == struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0]
        chunks[name], at = data, at + 12 + size
    columns, rows = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert (columns, rows) == (512, 200)
    lines = torch.frombuffer(bytearray(zlib.decompress(chunks[b"IDAT"])), dtype=torch.uint8).view(200, 513)
    assert not lines[:, 0].any()
    loud = (lines[:, 1] == 63).nonzero().flatten()
    assert (int(loud[0]), int(loud[-1])) == (200 - 39, 200 - 21)  # bins 100 to 200 of 1,025, from below


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (9.3, "0:09.3"), (59.96, "1:00"), (61, "1:01"), (3_600, "1:00:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
