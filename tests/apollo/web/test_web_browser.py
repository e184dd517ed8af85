"""The page in a real browser: from dropping to downloads, by keyboard alone, and nothing from elsewhere."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.browser import EAR, start_browser, until

ROUNDING = 2.0**-19  # as in test_web_songs.py
HOSTILE = "<img src=x onerror=window.hacked=1>\"'.mp3"
HIGHS = """() => {
  const levels = new Float32Array(1024);
  window.ear.getFloatFrequencyData(levels);
  return Math.max(...levels.slice(Math.ceil(13000 / window.ear.context.sampleRate * 2048)));
}"""
DROP = """([name, content]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(content)], name));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: files });
    document.body.dispatchEvent(event);
  }
}"""
# what the page's own mixer schedules, from its first sample
RENDER = """async ([version, strength]) => {
  const { Mixer } = await import(new URL("mixer.js", location));
  const [song] = await (await fetch("api/songs")).json();
  const { samples, sample_rate: rate, channels } = song.listening;
  const lead = Math.ceil(0.05 * rate);
  const context = new OfflineAudioContext(channels, samples + lead, rate);
  const mixer = new Mixer(() => context, song, strength);
  mixer.setVersion(version);
  await mixer.play();
  const buffer = await context.startRendering();
  return Array.from({ length: channels }, (_, one) => Array.from(buffer.getChannelData(one).slice(lead)));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, port: int) -> Iterator[Callable[..., Any]]:
    opened = []
    address = f"http://127.0.0.1:{port}/"

    def open_page(width: int = 1280) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        page.set_default_timeout(60_000)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        page.on(
            "filechooser", lambda _: None
        )  # from now on they are intercepted, however slow the machine is
        page.add_init_script(EAR)
        page.goto(address)
        page.get_by_text("Up to 500 MB").wait_for()
        opened.append((page, said, asked))
        return page

    yield open_page
    for page, said, asked in opened:
        assert [text for text in said if "status of 4" not in text] == []  # the refusals that tests ask for
        assert asked
        assert not [url for url in asked if not url.startswith((address, f"blob:{address}"))]
        assert page.evaluate("window.hacked") is None
        page.context.close()


def focus(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached with Tab")


def test_keyboard_alone_is_enough_from_choosing_to_the_download(
    visit: Callable[..., Any], song: Path, tmp_path: Path, restore: Callable[..., bytes]
) -> None:
    page = visit()
    focus(page, "#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([song])
    page.locator(".player").wait_for()
    assert "Lossy: coded as MP3" in page.locator(".judgement").inner_text()
    assert page.locator("#news").inner_text() == "song.mp3 is ready"

    focus(page, ".play")
    page.keyboard.press("Space")
    until(page, "apolloPage.playing && apolloPage.position > 0.1")
    focus(page, ".strength input")
    page.keyboard.press("End")
    page.wait_for_timeout(150)
    with_noise = page.evaluate(HIGHS)
    page.keyboard.press("Home")
    page.wait_for_timeout(250)
    without_noise = page.evaluate(HIGHS)
    assert page.evaluate("[apolloPage.strength, apolloPage.playing]") == [0, True]
    page.keyboard.press("1")
    assert page.evaluate("apolloPage.version") == "before"
    assert page.locator(".version[aria-pressed=true]").inner_text() == "Before"
    page.wait_for_timeout(150)
    assert with_noise > max(without_noise, page.evaluate(HIGHS)) + 20  # dB, above the input's band
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert page.locator(".strength output").inner_text() == "0.30"

    focus(page, ".fetch")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "song.flac"
    content = download.value.path().read_bytes()
    assert content == restore(song, tmp_path / "out", "--strength", "0.3", "--format", "flac24")
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    offline = page.context.new_page()  # without EAR, which is of one audio context
    offline.goto(page.url)
    heard = np.asarray(offline.evaluate(RENDER, ["after", 0.3]), dtype=np.float32).T
    np.testing.assert_allclose(heard, expected, atol=ROUNDING)
    decoded, _ = soundfile.read(song, dtype="float32")
    untouched = np.asarray(offline.evaluate(RENDER, ["before", 0.3]), dtype=np.float32).T
    offline.close()
    np.testing.assert_allclose(untouched[: len(decoded)], decoded[: len(untouched)], atol=ROUNDING)

    page.reload()
    page.locator(".player").wait_for()  # the song is still there
    focus(page, ".title")
    page.keyboard.press("Enter")
    assert page.locator(".player:visible").count() == 0
    page.evaluate("document.activeElement.blur()")
    for key in ("1", "2", "ArrowLeft", "Space"):  # they act on no song, and are no error
        page.keyboard.press(key)
    focus(page, ".title")
    page.keyboard.press("Enter")
    assert page.locator(".play:visible").inner_text() == "Play"
    assert page.evaluate("[apolloPage.version, apolloPage.playing]") == ["after", False]
    focus(page, ".remove")
    page.keyboard.press("Enter")
    until(page, "fetch('api/songs').then((answer) => answer.text()).then((text) => text === '[]')")
    assert page.locator(".song").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_songs_are_dropped_heard_in_turn_and_fit_the_window(
    visit: Callable[..., Any], song: Path, width: int
) -> None:
    page = visit(width)
    for name in (HOSTILE, "two.mp3"):
        page.evaluate(DROP, [name, list(song.read_bytes())])
    page.evaluate(DROP, ["notes.mp3", list(b"no audio")])
    page.get_by_text("no audio that libsndfile or ffmpeg can read").wait_for()
    until(page, "document.querySelectorAll('.title:not(:disabled)').length === 2")
    assert page.locator(".title").all_inner_texts() == ["notes.mp3", "two.mp3", HOSTILE]
    for number in (2, 1):
        if page.locator(".title").nth(number).get_attribute("aria-expanded") != "true":
            page.locator(".title").nth(number).click()
        assert page.locator(".player:visible").count() == 1
        page.locator(".play:visible").click()
        until(page, "apolloPage.playing")
    assert page.evaluate("apolloPage.name") == "two.mp3"
    picture = page.locator(".spectrogram:visible").first
    box = picture.bounding_box()
    picture.click(position={"x": 0.5 * box["width"], "y": 5})
    until(page, "apolloPage.playing && apolloPage.position > 2.2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = [
        control.evaluate("(element) => element.outerHTML")
        for control in page.locator("button:visible, input:visible, select:visible, progress:visible").all()
        if not control.evaluate(
            "(one) => one.getAttribute('aria-label') || one.labels?.length || one.innerText"
        )
    ]
    assert unnamed == []
