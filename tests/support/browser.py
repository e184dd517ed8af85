"""A real browser, where there is one, and what it plays."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

# Listens at the loudspeaker: the strongest frequency of the last 46 ms, in Hz, or 0 for silence.
EAR = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    window.ear ??= new AnalyserNode(this.context, { fftSize: 2048, smoothingTimeConstant: 0 });
    connect.call(this, window.ear);
  }
  return connect.call(this, target, ...rest);
};
window.hear = () => {
  const levels = new Float32Array(1024);
  window.ear.getFloatFrequencyData(levels);
  const strongest = levels.indexOf(Math.max(...levels));
  return levels[strongest] > -70 ? strongest * window.ear.context.sampleRate / 2048 : 0;
};
"""
SLOPE_HZ = 1_000.0  # Hz per second, of a sweep: its frequency identifies version and position
LAG_SECONDS = 0.023  # of the middle of those 46 ms


@contextmanager
def start_browser() -> Iterator[Any]:
    """Start Chromium; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("APOLLO_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("there is no chromium: install it, or name one in APOLLO_CHROMIUM")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


def until(page: Any, condition: str) -> None:
    """Wait for a condition; polled from outside, since the page's policy forbids to evaluate text."""
    end = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(10)


def find_playing_version(page: Any, bases_hz: Mapping[str, float], seconds: float) -> str:
    """Return which version plays, from the audio; check its position against the page's.

    Args:
        page: With a player whose versions are sweeps.
        bases_hz: Frequency at the start of each version's sweep.
        seconds: Length of the sweeps.
    """
    page.wait_for_timeout(90)  # of a fade, and of what the ear still remembers
    hertz, position = page.evaluate("[hear(), apolloPlayer.position]")
    places = [(hertz - base) / SLOPE_HZ + LAG_SECONDS for base in bases_hz.values()]
    label, by_ear = next(one for one in zip(bases_hz, places) if -0.1 <= one[1] <= seconds + 0.1)
    apart = abs(by_ear - position)
    assert min(apart, seconds - apart) < 0.05  # the end of the loop is its beginning
    return label
