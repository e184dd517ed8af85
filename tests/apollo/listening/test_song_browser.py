"""The page of a song in a browser: switches keep the position, both are equally loud, answers count."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.browser import EAR, SLOPE_HZ, find_playing_version, start_browser, until
from tests.support.song_pages import RATE, make_page, noise

HOSTILE = '</script><script>window.hacked=1</script>"\'><img src=x onerror="window.hacked=1">\u2028'
SECONDS = 3.0
BASES_HZ = {"input": 1_000.0, "restored": 6_000.0}  # a sweep each: frequency tells version and position
VOLUME = """() => {
  const samples = new Float32Array(2048);
  window.ear.getFloatTimeDomainData(samples);
  return Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
}"""


def sweep(base_hz: float, level: float = 0.3) -> Tensor:
    at = torch.arange(round(SECONDS * RATE), dtype=torch.float64) / RATE
    return (level * torch.sin(2 * math.pi * (base_hz + SLOPE_HZ * at / 2) * at)).float().repeat(2, 1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    samples = [sweep(base) for base in BASES_HZ.values()]
    (folder / "short.html").write_text(make_page(samples[0], samples[1], title=HOSTILE))
    tone = sweep(1_000)
    (folder / "loud.html").write_text(make_page(tone, 3 * tone))
    long = noise(25.0)
    after = long.clone()
    after[:, 10 * RATE :] *= 0.9
    (folder / "long.html").write_text(make_page(long, after))
    return folder


@pytest.fixture
def visit(browser: Any, pages: Path) -> Iterator[Any]:
    opened = []

    def open_page(name: str, width: int = 1280, script: str = EAR) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(15_000)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.partition(",")[0]))
        page.add_init_script(script)
        page.goto((pages / name).as_uri())
        opened.append((page, said, asked, (pages / name).as_uri()))
        return page

    yield open_page
    for page, said, asked, address in opened:
        assert said == []
        assert set(asked) <= {address, "data:image/png;base64"}
        assert page.evaluate("window.hacked") is None
        page.close()


def play(page: Any) -> Any:
    card = page.locator(".comparison:visible")
    card.locator(".play").click()
    until(page, "apolloPlayer.playing && apolloPlayer.position > 0.06")
    return card


def heard(page: Any) -> str:
    """Return which version plays; check its position."""
    return find_playing_version(page, BASES_HZ, SECONDS)


def test_one_click_or_key_switches_and_keeps_the_position(visit: Any) -> None:
    page = visit("short.html")
    card = play(page)
    assert heard(page) == "input"
    for number, label in ((1, "restored"), (0, "input")):
        card.locator(".version").nth(number).click()
        assert heard(page) == label
        assert card.locator(".version[aria-pressed=true]").inner_text() == label
    page.keyboard.press("2")
    assert heard(page) == "restored"
    page.keyboard.press("Space")
    assert page.evaluate("[apolloPlayer.playing, apolloPlayer.heard]") == [False, "restored"]


def test_buttons_are_reached_with_tab(visit: Any) -> None:
    page = visit("short.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "restored"
    page.keyboard.press("Enter")
    assert page.evaluate("apolloPlayer.heard") == "restored"


def test_louder_version_is_turned_down_to_the_other(visit: Any) -> None:
    page = visit("loud.html")
    card = play(page)
    volumes = []
    for number in (0, 1):
        card.locator(".version").nth(number).click()
        page.wait_for_timeout(120)
        volumes.append(page.evaluate(VOLUME))
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)
    assert volumes[0] == pytest.approx(0.3 / math.sqrt(2), rel=0.05)
    assert "Level, dB: input 0.0, restored −9.5." in card.inner_text()


def test_a_click_in_a_spectrogram_seeks_and_its_line_follows(visit: Any) -> None:
    page = visit("short.html")
    card = page.locator(".comparison:visible")
    picture = card.locator(".seekable").nth(1)
    box = picture.bounding_box()
    picture.click(position={"x": 0.5 * box["width"], "y": 10}, force=True)
    assert page.evaluate("apolloPlayer.position") == pytest.approx(1.5, abs=0.02)
    lines = card.locator(".cursor").evaluate_all(
        "lines => lines.map((line) => Number(line.getAttribute('x1')))"
    )
    assert lines == [pytest.approx(50, abs=1)] * 2


def test_places_are_chosen_one_at_a_time(visit: Any) -> None:
    page = visit("long.html")
    assert page.locator(".places button").all_inner_texts() == ["0:10", "0:20", "0:00 start"]
    play(page)
    page.locator(".places button").nth(2).click()
    assert page.locator(".comparison:visible").count() == 1
    assert "0:00 – 0:0" in page.locator(".comparison:visible").inner_text()
    assert page.evaluate("apolloPlayer.playing") is False
    assert page.get_by_text("Whole song").is_visible()


def test_blind_test_counts_answers(visit: Any) -> None:
    page = visit("short.html")
    card = play(page)
    card.locator("summary").click()
    assert card.locator("[data-answer]:disabled").count() == 2  # X was not played
    right = 0
    for number in range(1, 4):
        card.get_by_role("button", name="Hear X").click()
        sounding = heard(page)
        card.locator("[data-answer=B]").click()
        right += sounding == "restored"
        truth = "B, restored" if sounding == "restored" else "A, input"
        verdict = "Right" if sounding == "restored" else "Wrong"
        assert card.locator(".verdict").inner_text() == f"{verdict}: X was {truth}."
        assert card.locator(".count").inner_text().startswith(f"{right} right of {number} · p = ")
    card.get_by_role("button", name="Reset").click()
    assert card.locator(".count").inner_text() == "No answers yet."


def test_page_does_not_reveal_x(visit: Any) -> None:
    states = []
    for bit in (0, 1):
        page = visit("short.html", script=f"{EAR}crypto.getRandomValues = (bytes) => bytes.fill({bit});")
        card = play(page)
        card.locator("summary").click()
        card.get_by_role("button", name="Hear X").click()
        assert heard(page) == ("input", "restored")[bit]
        card.locator(".play").click()
        words = page.evaluate(
            "document.body.outerHTML.replace(/[0-9.]+ \\/ 3.0 s/, '').replace(/x[12]=.[0-9.]+/g, '')"
        )
        states.append((words, page.evaluate("({ ...apolloPlayer, position: 0 })")))
    assert states[0] == states[1]


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_page_fits_its_window(visit: Any, width: int) -> None:
    page = visit("long.html", width=width)
    page.locator(".comparison:visible summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_name_is_text(visit: Any) -> None:
    page = visit("short.html")
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("img[src=x]").count() == 0
