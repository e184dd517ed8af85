"""Which degradation an example gets: shares, curriculum, reproducibility."""

from collections import Counter

import pytest

from apollo import rng
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.loading.degradation_choice import DegradationChoice

NAMES = ("aac_64000", "mp3_24000", "mp3_128000")


def _shares(choice: DegradationChoice, positions: range, usable: tuple[str, ...] = NAMES) -> dict[str, float]:
    counts = Counter(choice.draw(usable, position) for position in positions)
    return {name: counts[name] / len(positions) for name in NAMES}


def test_without_weights_all_are_drawn_alike_and_as_before() -> None:
    choice = DegradationChoice({}, {}, 0, seed=7)
    for position in range(200):
        assert choice.draw(NAMES, position) == NAMES[rng.integer_below(3, position, 7, "degradation")]


def test_shares_are_those_of_the_weights() -> None:
    choice = DegradationChoice({"aac_64000": 3.0, "mp3_24000": 0.0}, {}, 0, seed=1)
    shares = _shares(choice, range(20_000))
    assert shares["aac_64000"] == pytest.approx(0.75, abs=0.01)
    assert shares["mp3_24000"] == 0 and shares["mp3_128000"] == pytest.approx(0.25, abs=0.01)
    again = DegradationChoice({"aac_64000": 3.0, "mp3_24000": 0.0}, {}, 0, seed=1)
    assert [again.draw(NAMES, n) for n in (5, 3)] == [choice.draw(NAMES, n) for n in (5, 3)]


def test_weights_of_unusable_degradations_do_not_count() -> None:
    choice = DegradationChoice({"mp3_24000": 0.0}, {}, 0, seed=1)
    assert _shares(choice, range(100), ("mp3_24000",))["mp3_24000"] == 1.0
    assert _shares(choice, range(100), ("mp3_24000", "mp3_128000"))["mp3_128000"] == 1.0


def test_weights_change_linearly_from_the_first_example_on() -> None:
    choice = DegradationChoice({"mp3_24000": 1.0}, {"mp3_24000": 0.0, "aac_64000": 0.0}, 10_000, seed=2)
    assert _shares(choice, range(100))["mp3_128000"] > 0.95
    middle = _shares(choice, range(4_500, 5_500))
    assert middle["mp3_24000"] == pytest.approx(0.25, abs=0.05)  # 0.5 of 0.5 + 0.5 + 1
    last = _shares(choice, range(10_000, 40_000))
    assert all(share == pytest.approx(1 / 3, abs=0.02) for share in last.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degradation_weights": {"mp3_24000": -1.0}}, "degradation_weights of mp3_24000 is -1"),
        ({"first_degradation_weights": {"mp3_24000": 1.0}}, "weights_change_examples is 0"),
        ({"weights_change_examples": 5}, "weights_change_examples is 5"),
    ],
)
def test_wrong_weights_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoaderConfig(**options)  # type: ignore[arg-type]


def test_weights_of_what_the_shards_lack_are_refused() -> None:
    config = LoaderConfig(degradation_weights={"opus_1": 2.0})
    with pytest.raises(UsageError, match=r"names opus_1; available: aac_64000, mp3_24000"):
        config.choose_degradations(NAMES, seed=0)
