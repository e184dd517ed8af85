"""The listening page in a browser: the chosen version plays, and switching keeps the position."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.evaluation.listening_page import Comparison, Page, Table, write_page
from tests.support.browser import EAR, SLOPE_HZ, find_playing_version, start_browser, until

RATE = 44_100
SECONDS = 3.0
BASES_HZ = {"clean": 1_000.0, "untouched": 6_000.0, "ours": 11_000.0}  # a sweep for each version
LABELS = ("clean", "MP3", "ours")
HOSTILE = '</script><script>window.hacked=1</script>"\'><img src=x onerror="window.hacked=1">\u2028'


def sweep(base_hz: float, seconds: float = SECONDS) -> NDArray[np.float32]:
    at = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * math.pi * (base_hz + SLOPE_HZ * at / 2) * at)
    return np.tile(wave, (2, 1)).astype(np.float32)


def comparison(item: str, degradation: str = "mp3_24000", **changes: Any) -> Comparison:
    defaults: dict[str, Any] = {
        "versions": {name: sweep(base) for name, base in BASES_HZ.items()},
        "scores": {"ours": {"sdr": 1.0}},
    }
    return Comparison(item=item, degradation=degradation, rank="worst", category="", **(defaults | changes))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = (("b", 10.5), ("a", None), ("item 10", -3.0), ("item 9", 9.0))
    hostile = {name: sweep(1_000, 0.2) for name in ("clean", HOSTILE)}
    silent = {"clean": sweep(1_000, 0.2)[:1], "untouched": np.zeros((1, 8_820), np.float32)}
    page = Page(
        title=HOSTILE,
        summary=(HOSTILE,),
        tables=(Table(title="t", note="", columns=("item", "SDR"), rows=rows),),
        figures=(),
        comparisons=(
            comparison("one"),
            comparison("two"),
            comparison(HOSTILE, HOSTILE, versions=hostile, scores={HOSTILE: {HOSTILE: 1.0}}),
            comparison("short, mono, one silent", "64k", versions=silent),
        ),
        sample_rate=RATE,
    )
    path = tmp_path_factory.mktemp("listening") / "report.html"
    path.write_text(write_page(page))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(15_000)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url.partition(",")[0]))
    page.add_init_script(EAR)
    page.goto(report.as_uri())
    yield page
    assert said == []
    assert set(asked) <= {report.as_uri(), "data:image/png;base64"}
    assert page.evaluate("window.hacked") is None
    page.close()


def play(page: Any, card: int = 0) -> Any:
    """Start a comparison, wait until it plays, and return its card."""
    found = page.locator(".comparison").nth(card)
    found.locator(".play").click()
    until(page, "apolloPlayer.playing && apolloPlayer.position > 0.06")
    return found


def heard(page: Any) -> str:
    """Return which version plays; check its position."""
    return find_playing_version(page, dict(zip(LABELS, BASES_HZ.values(), strict=True)), SECONDS)


def seek(card: Any, share: float) -> float:
    """Move the position bar; give the position."""
    move = """(bar, share) => {
      bar.value = share;
      bar.dispatchEvent(new Event("input"));
      return apolloPlayer.position;
    }"""
    return float(card.locator(".position").evaluate(move, share))


def test_switch_changes_the_version_and_keeps_the_position(page: Any) -> None:
    card = play(page)
    for label in ("MP3", "ours", "clean", "MP3"):
        jump = page.evaluate(
            """(label) => {
              const buttons = [...document.querySelectorAll(".comparison .version")];
              const button = buttons.find((one) => one.textContent === label);
              const [before, start] = [apolloPlayer.position, ear.context.currentTime];
              button.click();
              return apolloPlayer.position - before - (ear.context.currentTime - start);
            }""",
            label,
        )
        assert abs(jump) < 0.05
        assert heard(page) == label == page.evaluate("apolloPlayer.heard")
        assert card.locator(".version[aria-pressed=true]").all_inner_texts() == [label]


def test_position_bar_pause_and_loop(page: Any) -> None:
    card = play(page)
    assert seek(card, 0.9) == pytest.approx(2.7)
    assert heard(page) == "clean"
    until(page, "apolloPlayer.position < 1")  # it loops
    card.locator(".version").nth(1).click()
    assert heard(page) == "MP3"
    card.locator(".play").click()
    paused = page.evaluate("apolloPlayer")
    page.wait_for_timeout(120)
    assert not paused["playing"]
    assert page.evaluate("[apolloPlayer.position, hear()]") == [paused["position"], 0]
    seek(card, 0.5)
    card.locator(".play").click()
    until(page, "apolloPlayer.playing && apolloPlayer.position > 1.55")
    assert heard(page) == "MP3"  # no version starts elsewhere
    card.locator(".loop").click()
    until(page, "!apolloPlayer.playing && apolloPlayer.position === 0")  # it ends


def test_keys(page: Any) -> None:
    page.keyboard.press("Space")
    until(page, "apolloPlayer.playing && apolloPlayer.position > 0.06")
    page.keyboard.press("3")
    assert heard(page) == "ours"
    before = page.evaluate("apolloPlayer.position")
    page.keyboard.press("ArrowRight")
    assert 0.45 < page.evaluate("apolloPlayer.position") - before < 2
    page.keyboard.press("l")
    assert page.evaluate("apolloPlayer.loop") is False
    page.locator(".comparison .version").nth(1).click()
    page.keyboard.press("Space")  # plays and pauses, and does not press the button that was clicked last
    assert page.evaluate("[apolloPlayer.playing, apolloPlayer.heard]") == [False, "MP3"]
    before = page.evaluate("apolloPlayer.position")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("9")  # there is none
    assert page.evaluate("[apolloPlayer.heard, apolloPlayer.position]") == [
        "MP3",
        pytest.approx(before - 0.5),
    ]


def test_one_item_plays_at_a_time(page: Any) -> None:
    play(page, 0)
    card = play(page, 1)
    assert page.evaluate("apolloPlayer.comparison") == 1
    assert page.locator(".play").all_inner_texts()[:2] == ["Play", "Pause"]
    page.locator("[data-group='64k']").click()
    assert not page.evaluate("apolloPlayer.playing") and not card.is_visible()
    assert page.locator(".comparison:visible").count() == 1
    play(page, 3)  # 0.2 s in a loop, mono, with a silent version
    page.locator(".comparison:visible .version").nth(1).click()
    page.wait_for_timeout(120)
    assert page.evaluate("[hear(), apolloPlayer.position < 0.2]") == [0, True]


def test_hostile_names_are_text_in_the_browser(page: Any) -> None:
    assert page.title() == HOSTILE
    page.locator(".row [data-group]").nth(1).click()
    play(page, 2)
    page.locator(".comparison:visible .version").nth(1).click()
    assert page.evaluate("apolloPlayer.heard") == HOSTILE
    assert page.locator("img[src=x]").count() == 0


def test_table_sorts_numbers_as_numbers_and_missing_last(page: Any) -> None:
    def column(place: int) -> list[str]:
        return page.locator(f".sortable tbody td:nth-child({place})").all_inner_texts()  # type: ignore[no-any-return]

    page.get_by_role("button", name="SDR").click()
    assert column(2) == ["−3.00", "9.00", "10.50", "–"]
    page.get_by_role("button", name="SDR").click()
    assert column(2) == ["10.50", "9.00", "−3.00", "–"]
    page.locator(".sortable th button").first.click()
    assert column(1) == ["a", "b", "item 9", "item 10"]


def test_blind_test_counts_answers(page: Any) -> None:
    card = play(page)
    card.locator("summary").click()
    assert card.locator("[data-answer]:disabled").count() == 2  # X was not played
    right = 0
    for number in range(1, 7):
        card.get_by_role("button", name="Hear X").click()
        assert page.evaluate("apolloPlayer.heard") == "X"
        assert card.locator(".version[aria-pressed=true]").count() == 0
        sounding = heard(page)
        card.locator("[data-answer=A]").click()
        verdict = card.locator(".verdict").inner_text()
        assert verdict == ("Right: X was A, clean." if sounding == "clean" else "Wrong: X was B, ours.")
        right += sounding == "clean"
        chance = sum(math.comb(number, wins) for wins in range(right, number + 1)) / 2**number
        count, _, told = card.locator(".count").inner_text().partition(" · p = ")
        assert count == f"{right} right of {number}"
        assert float(told) == pytest.approx(chance, abs=0.0006)
        assert page.evaluate("apolloPlayer.heard") == "A"  # X is drawn anew
    card.get_by_role("button", name="Reset").click()
    assert card.locator(".count").inner_text() == "No answers yet."
    card.locator("select").nth(1).select_option("clean")
    assert card.locator(".verdict").inner_text() == "Choose two different versions."


def test_page_does_not_reveal_x(browser: Any, report: Path) -> None:
    pages = []
    for bit in (0, 1):
        page = browser.new_page()
        page.add_init_script(EAR + f"crypto.getRandomValues = (bytes) => bytes.fill({bit});")
        page.goto(report.as_uri())
        card = play(page)
        card.locator("summary").click()
        card.get_by_role("button", name="Hear X").click()
        assert heard(page) == ("clean", "ours")[bit]
        card.locator(".play").click()
        words = page.evaluate("document.documentElement.outerHTML.replace(/[0-9.]+ \\/ 3.0 s/, '')")
        state = page.evaluate("({ ...apolloPlayer, position: 0 })")
        pages.append((words, state))
        page.close()
    assert pages[0] == pages[1]
