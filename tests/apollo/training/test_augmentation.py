"""Levels: one level for both, divided by the joint maximum, silence stays silence; draws are hashes."""

import math
import statistics
from collections import Counter

import pytest
import torch
from torch import Tensor

from apollo import rng
from apollo.training.augmentation import LevelsConfig, find_peak, set_levels, to_mid_side

CLEAN = torch.tensor([[0.1, -0.4, 0.2], [0.0, 0.3, 0.1]])
RATE = 44_100
PLAIN = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0)


def _set(
    config: LevelsConfig, clean: Tensor = CLEAN, gain: float = 0.5, index: int = 0
) -> tuple[Tensor, Tensor]:
    return set_levels(clean, clean * gain, gain=gain, config=config, seed=3, index=index, sample_rate=RATE)


def test_gain_is_removed_and_the_joint_peak_is_full_scale() -> None:
    clean, degraded = _set(PLAIN)
    torch.testing.assert_close(clean, CLEAN / 0.4)
    torch.testing.assert_close(degraded, CLEAN / 0.4)


def test_joint_peak_is_the_larger_one_after_the_gain() -> None:
    degraded = CLEAN * 1.5  # an overshoot: 0.6 once the gain of 0.5 is out it is 1.2
    clean, brought = set_levels(CLEAN, degraded, gain=0.5, config=PLAIN, seed=0, index=0, sample_rate=RATE)
    torch.testing.assert_close(brought, degraded / 0.5 / 1.2)
    torch.testing.assert_close(clean, CLEAN / 1.2)


def test_the_papers_levels_are_the_joint_maximum_and_nothing_else() -> None:
    config = LevelsConfig(mode="paper", polarity_share=1, swap_share=1, mid_side_share=1)
    for index in range(20):
        clean, degraded = _set(config, index=index)
        torch.testing.assert_close(clean, CLEAN / 0.4)
        torch.testing.assert_close(degraded, CLEAN / 0.4 * 0.5)


@pytest.mark.parametrize("mode", ["gain_compensated", "paper"])
def test_silence_stays_silence(mode: str) -> None:
    clean, degraded = _set(LevelsConfig(mode=mode), torch.zeros(2, 5))
    assert not clean.any() and not degraded.any()


@pytest.mark.parametrize(("old", "new"), [("honest", "gain_compensated"), ("published", "paper")])
def test_old_mode_names_are_accepted_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=f"{old!r} is now called {new!r}"):
        config = LevelsConfig(mode=old)
    assert config == LevelsConfig(mode=new)


def test_a_silent_clean_signal_takes_the_degraded_peak() -> None:
    clean, degraded = set_levels(
        torch.zeros(2, 3), CLEAN, gain=1.0, config=PLAIN, seed=0, index=0, sample_rate=RATE
    )
    assert not clean.any()
    assert find_peak(degraded) == pytest.approx(1)


def test_levels_are_uniform_in_decibels() -> None:
    config = LevelsConfig(level_db=(-30, -10))
    levels = [20 * torch.log10(torch.tensor(find_peak(_set(config, index=k)[0]))).item() for k in range(500)]
    assert -30 <= min(levels) < -29.5 and -10.5 < max(levels) <= -10
    assert statistics.mean(levels) == pytest.approx(-20, abs=1)  # standard error 0.26
    assert statistics.quantiles(levels, n=4) == pytest.approx([-25, -20, -15], abs=1.2)


@pytest.mark.parametrize(
    "share, change",
    [
        ("polarity_share", lambda samples: -samples),
        ("swap_share", lambda samples: samples.flip(0)),
        ("mid_side_share", lambda samples: to_mid_side(samples) * (0.4 / find_peak(to_mid_side(CLEAN)))),
    ],
)
def test_augmentation_changes_both_alike_in_its_share_of_pairs(share: str, change: object) -> None:
    plain = {"level_db": (0, 0), "polarity_share": 0, "swap_share": 0}
    expected = change(CLEAN) / 0.4  # type: ignore[operator]
    clean, degraded = _set(LevelsConfig(**(plain | {share: 1})))
    torch.testing.assert_close(clean, expected)
    torch.testing.assert_close(degraded, expected)
    config = LevelsConfig(**(plain | {share: 0.25}))
    changed = sum(torch.allclose(_set(config, index=k)[0], expected) for k in range(800))
    assert changed == pytest.approx(200, abs=49)  # four standard deviations


def _gain_db(signal: Tensor, filtered: Tensor, hz: float) -> float:
    """Return the gain of a filter on a sinusoid, away from the ends."""
    inside = slice(8820, -8820)
    carrier = torch.exp(-2j * torch.pi * hz / RATE * torch.arange(signal.shape[-1]))
    ratio = (filtered * carrier)[0, inside].sum() / (signal * carrier)[0, inside].sum()
    return 20 * math.log10(ratio.abs().item())


def test_tilt_rises_evenly_per_octave_from_1_to_16_khz_on_both_sides_alike() -> None:
    config = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0, tilt_db=(8, 8))
    tones = {300: 0.0, 1000: 0.0, 2000: 2.0, 4000: 4.0, 16_000: 8.0, 20_000: 8.0}
    time = torch.arange(RATE) / RATE
    signal = torch.stack([torch.sin(2 * torch.pi * hz * time) for hz in tones]).sum(0)[None]
    clean, degraded = set_levels(signal, signal, gain=1.0, config=config, seed=0, index=0, sample_rate=RATE)
    assert torch.equal(clean, degraded)
    reference = _gain_db(signal, clean, 300)  # the level, which is the joint peak's
    for hz, gain_db in tones.items():
        assert _gain_db(signal, clean, hz) - reference == pytest.approx(gain_db, abs=0.05)


def test_low_pass_is_the_same_on_both_sides() -> None:
    config = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0, low_pass_share=0.5)
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    edges, depths, unchanged = [], [], 0
    for index in range(200):
        clean, degraded = set_levels(
            noise, noise, gain=1.0, config=config, seed=0, index=index, sample_rate=RATE
        )
        assert torch.equal(clean, degraded)
        ratio = 20 * (torch.fft.rfft(clean[0]).abs() / torch.fft.rfft(noise[0]).abs()).log10()
        ratio -= ratio[100:4000].mean()
        depth = ratio[17_000:20_000].median().item()
        if abs(depth) < 0.01:
            unchanged += 1
            continue
        depths.append(depth)
        edges.append((ratio < depth / 2).float()[1000:20_000].argmax().item() + 1000)
    assert 72 <= unchanged <= 128  # 100, four standard deviations
    assert min(depths) >= -40.5 and max(depths) <= -9.5
    assert statistics.mean(depths) == pytest.approx(-25, abs=3.5)  # standard error 0.87
    assert min(edges) >= 4900 and max(edges) <= 16_600
    assert statistics.mean(edges) == pytest.approx(10_750, abs=1300)  # standard error 320


def test_tilt_is_uniform_and_its_response_does_not_wrap_around() -> None:
    config = LevelsConfig(level_db=(0, 0), polarity_share=0, tilt_db=(-3, 12))
    click = torch.zeros(1, RATE)
    click[0, 10] = 1.0
    gains = []
    for index in range(300):
        clean, _ = set_levels(click, click, gain=1.0, config=config, seed=0, index=index, sample_rate=RATE)
        assert clean[0, 4000:].abs().max() < 1e-4
        spectrum = torch.fft.rfft(clean[0]).abs()
        gains.append(20 * torch.log10(spectrum[17_000] / spectrum[900]).item())
    assert statistics.mean(gains) == pytest.approx(4.5, abs=1)  # standard error 0.25
    assert -3.1 <= min(gains) < -2 and 11 < max(gains) <= 12.1


def test_mid_and_side_keep_the_energy_and_come_back() -> None:
    samples = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert to_mid_side(samples).square().sum() == pytest.approx(samples.square().sum())
    torch.testing.assert_close(to_mid_side(to_mid_side(samples)), samples)
    torch.testing.assert_close(to_mid_side(torch.tensor([[1.0], [1.0]])), torch.tensor([[2**0.5], [0.0]]))


def test_mono_has_no_mid_and_side() -> None:
    config = LevelsConfig(level_db=(0, 0), polarity_share=0, mid_side_share=1)
    torch.testing.assert_close(_set(config, CLEAN[:1])[0], CLEAN[:1] / 0.4)


@pytest.mark.parametrize("mode", ["gain_compensated", "paper"])
def test_mono_is_left_right_mid_or_side_of_both_alike(mode: str) -> None:
    """CLEAN has left 0.1 -0.4 0.2, right 0 0.3 0.1; mid 0.1 -0.1 0.3, side 0.1 -0.7 0.1 but for a factor."""
    config = LevelsConfig(mode=mode, channels="mono", level_db=(0, 0), polarity_share=0)
    known = {
        (0.25, -1.0, 0.5): "left",
        (0.0, 1.0, 0.3333): "right",
        (0.3333, -0.3333, 1.0): "mid",
        (0.1429, -1.0, 0.1429): "side",
    }
    drawn = []
    for index in range(800):
        clean, degraded = _set(config, index=index)
        torch.testing.assert_close(degraded, clean * (0.5 if mode == "paper" else 1.0))
        drawn.append(known[tuple(round(value, 4) for value in clean[0].tolist())])
        assert clean.shape == (1, 3)
    counts = Counter(drawn)
    assert all(151 < counts[name] < 249 for name in known.values())  # 200, four deviations of 12


@pytest.mark.parametrize(
    "right, allowed",
    [
        (1.0, {"left", "right", "mid"}),  # equal channels: no side
        (-1.0, {"left", "right", "side"}),
        (0.0, {"left", "mid", "side"}),
    ],
)
def test_channel_without_audio_is_never_drawn(right: float, allowed: set[str]) -> None:
    left = torch.tensor([0.1, -0.4, 0.2])
    stereo = torch.stack([left, right * left])
    views = dict(zip(("left", "right", "mid", "side"), torch.cat([stereo, to_mid_side(stereo)]), strict=True))
    degraded = torch.stack([torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])])  # tells the views apart
    marks = dict(zip(views, torch.cat([degraded, to_mid_side(degraded)]), strict=True))
    config = LevelsConfig(channels="mono", level_db=(0, 0), polarity_share=0)
    drawn = set()
    for index in range(60):
        found = set_levels(stereo, degraded, gain=1.0, config=config, seed=0, index=index, sample_rate=RATE)[
            1
        ][0]
        drawn |= {name for name, mark in marks.items() if torch.allclose(found / found.norm(), mark)}
    assert drawn == allowed


def test_mono_of_silence_is_silence_and_mono_stays_mono() -> None:
    config = LevelsConfig(channels="mono")
    assert _set(config, torch.zeros(2, 5))[0].shape == (1, 5)
    assert not _set(config, torch.zeros(2, 5))[0].any()
    assert torch.equal(_set(config, CLEAN[:1])[0], _set(LevelsConfig(), CLEAN[:1])[0])


def test_draws_are_a_function_of_seed_and_index() -> None:
    config = LevelsConfig(mid_side_share=0.5)
    first = [_set(config, index=k)[0] for k in range(30)]
    assert all(torch.equal(a, _set(config, index=k)[0]) for k, a in reversed(list(enumerate(first))))
    assert len({tuple(samples.flatten().tolist()) for samples in first}) == 30


def test_arguments_are_left_as_they_are() -> None:
    clean, degraded = CLEAN.clone(), CLEAN * 0.5
    set_levels(clean, degraded, gain=0.5, config=LevelsConfig(), seed=0, index=0, sample_rate=RATE)
    assert torch.equal(clean, CLEAN) and torch.equal(degraded, CLEAN * 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_peak_is_non_finite_if_a_sample_is(bad: float) -> None:
    assert not find_peak(torch.tensor([0.5, bad, 0.1])) < float("inf")
    assert find_peak(torch.tensor([0.5, -0.75])) == 0.75
    assert find_peak(torch.zeros(2, 0)) == 0


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"mode": "loud"}, "gain_compensated or paper"),
        ({"channels": "left"}, "stereo or mono"),
        ({"level_db": (0, -30)}, "rising"),
        ({"level_db": (-30, 3)}, "-120 to 0"),
        ({"polarity_share": 1.5}, "from 0 to 1"),
        ({"swap_share": -0.5}, "swap_share"),
        ({"mid_side_share": float("nan")}, "mid_side_share"),
        ({"tilt_db": (3, -3)}, "rising"),
        ({"low_pass_share": 2.0}, "low_pass_share"),
        ({"tilt_db": (0, 90)}, "-60 to 60"),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LevelsConfig(**wrong)


def test_random_bits_are_splitmix64s() -> None:
    """The first three outputs of seed 0 are known: Vigna's reference code, seed 0."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    start = rng.stream_seed("x")
    step = 0x9E3779B97F4A7C15
    shift = -start * pow(step, -1, 2**64) % 2**64  # so many steps on, the stream stands at 0
    assert [rng.random_bits(shift + k, "x") for k in range(3)] == known


def test_draws_are_uniform_and_streams_differ() -> None:
    values = [rng.uniform(k, 5, "a") for k in range(4000)]
    assert min(values) >= 0 and max(values) < 1
    assert statistics.mean(values) == pytest.approx(0.5, abs=0.02)
    assert values != [rng.uniform(k, 5, "b") for k in range(4000)]
    assert {rng.integer_below(3, k, 5, "a") for k in range(100)} == {0, 1, 2}
    assert sorted(rng.permutation(50, 1)) == list(range(50)) != rng.permutation(50, 1)
