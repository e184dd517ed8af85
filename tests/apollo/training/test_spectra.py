"""Spectra are torch's, each computed once, whoever asks first."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from apollo.training.spectra import Spectra, as_spectra, concatenate


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every transform by its window, in order."""
    asked: list[int] = []
    transform = torch.stft

    def count(samples: Tensor, window_samples: int, *arguments: Any, **settings: Any) -> Tensor:
        asked.append(window_samples)
        return transform(samples, window_samples, *arguments, **settings)

    monkeypatch.setattr(torch, "stft", count)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window_samples", [32, 882, 2048])
def test_spectrum_is_torchs_of_each_channel(window_samples: int, dtype: torch.dtype) -> None:
    samples = _noise(2, 3, 3_000).to(dtype)
    found = Spectra(samples)[window_samples]
    assert found.shape == (2, 3, window_samples // 2 + 1, 3_000 // (window_samples // 2) + 1)
    for example in range(2):
        for channel in range(3):
            expected = torch.stft(
                samples[example, channel],
                window_samples,
                hop_length=window_samples // 2,
                window=torch.hann_window(window_samples, dtype=dtype),
                return_complex=True,
            )
            torch.testing.assert_close(found[example, channel], expected)


def test_spectrum_of_an_impulse_by_hand() -> None:
    """A one in a frame's middle: the window's peak at every bin, with alternating sign."""
    samples = torch.zeros(1, 1, 16)
    samples[0, 0, 8] = 1
    frame = Spectra(samples)[8][0, 0, :, 2]  # frames are centred at multiples of the hop
    torch.testing.assert_close(frame, torch.tensor([1, -1, 1, -1, 1], dtype=torch.complex64))


def test_autocast_does_not_reach_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    transform, seen = torch.stft, []

    def watch(*arguments: Any, **settings: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return transform(*arguments, **settings)

    monkeypatch.setattr(torch, "stft", watch)
    samples = _noise(1, 2, 1_000)
    with torch.autocast("cpu", torch.bfloat16):
        found = Spectra(samples)[64]
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False]
    assert torch.equal(found, Spectra(samples)[64])


def test_each_window_is_computed_once_on_first_access(windows: list[int]) -> None:
    spectra = Spectra(_noise(1, 2, 1_000))
    assert windows == []
    first = spectra[64]
    assert spectra[64] is first
    _ = spectra[256], spectra[64], spectra[256]
    assert windows == [64, 256]


@pytest.mark.parametrize("first", ["itself", "detached"])
def test_detached_spectra_are_shared_both_ways(first: str, windows: list[int]) -> None:
    samples = _noise(1, 2, 1_000).requires_grad_()
    spectra = Spectra(samples)
    detached = spectra.detach()
    for one in (spectra, detached) if first == "itself" else (detached, spectra):
        _ = one[64]
    assert windows == [64]
    assert torch.equal(spectra[64], detached[64])
    assert spectra[64].requires_grad and spectra.samples.requires_grad
    assert not detached[64].requires_grad and not detached.samples.requires_grad
    spectra[64].abs().sum().backward()
    assert samples.grad is not None and samples.grad.abs().sum() > 0


def test_concatenated_spectra_are_those_of_both_batches(windows: list[int]) -> None:
    one, other = Spectra(_noise(2, 2, 1_000)), Spectra(_noise(1, 2, 1_000, seed=2))
    both = concatenate(one, other)
    assert torch.equal(both.samples, torch.cat((one.samples, other.samples)))
    assert torch.equal(both[64], torch.cat((one[64], other[64])))
    _ = both[64], one[64], other[64]
    assert windows == [64, 64]  # once each, and never of the joined samples
    torch.testing.assert_close(both[64], Spectra(both.samples)[64])


def test_spectra_are_freed_without_references() -> None:
    """Not when Python next looks for cycles: it does not know how large they are."""
    samples = _noise(1, 2, 1_000)
    spectra = Spectra(samples)
    both = concatenate(spectra, spectra.detach())
    spectrum = weakref.ref(both[64])
    first = weakref.ref(spectra[64])
    gc.disable()
    try:
        del both, spectra
        assert spectrum() is None and first() is None
    finally:
        gc.enable()


def test_samples_become_spectra_and_spectra_stay_what_they_are() -> None:
    samples = _noise(1, 2, 1_000)
    spectra = as_spectra(samples)
    assert spectra.samples is samples
    assert as_spectra(spectra) is spectra
