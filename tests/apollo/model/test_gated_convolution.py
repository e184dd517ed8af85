"""The stochastic trunk: signed roots, noise by seed and frame."""

import pytest
import torch

from apollo.inference.restoration import restore
from apollo.model.config import PRESETS
from apollo.model.gated_convolution import signed_root, signed_square
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions
from tests.apollo.model.test_outputs import error, make, music


def test_signed_roots_are_those_worked_out_by_hand() -> None:
    spectrum = torch.tensor([[4.0 - 9.0j, -0.25 + 0.0j]])
    parts = signed_root(spectrum)
    torch.testing.assert_close(parts, torch.tensor([[2.0, -0.5, -3.0, 0.0]]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(signed_square(torch.tensor([[2.0, -0.5, -3.0, 0.0]])), spectrum)


def test_the_root_has_a_finite_gradient_at_zero() -> None:
    spectrum = torch.zeros(1, 3, dtype=torch.complex64, requires_grad=True)
    signed_root(spectrum).sum().backward()
    assert spectrum.grad is not None and spectrum.grad.isfinite().all()


@pytest.mark.parametrize("output", ["direct", "correction"])
def test_seed_and_strength_decide_the_output(output: str) -> None:
    generator, degraded = make("gated_convolution", output), music(20_000)
    once, again, other, none = (
        restore(generator, degraded, seed=seed, strength=strength)
        for seed, strength in ((1, 1.0), (1, 1.0), (2, 1.0), (1, 0.0))
    )
    assert generator.has_noise
    assert torch.equal(once, again)
    assert error(other, once) > 1e-3
    assert error(none, once) > 1e-3
    assert torch.equal(none, restore(generator, degraded, seed=2, strength=0.0))


def test_equal_channels_stay_equal_and_items_alone_are_those_of_a_batch() -> None:
    generator, degraded = make("gated_convolution", "direct"), music(20_000)
    left, right = restore(generator, degraded[:1].expand(2, -1))
    assert torch.equal(left, right)
    assert error(restore(generator, degraded[:1])[0], left) < 1e-6
    batch = torch.stack((music(9_000, 1), music(9_000, 2)))
    with torch.no_grad():
        assert error(generator(batch), torch.stack([generator(item) for item in batch])) < 1e-5


def test_noise_is_a_function_of_the_frame_and_not_of_the_chunk() -> None:
    """The sums of all frames alone, one at a time, are those of all at once."""
    generator = make("gated_convolution", "direct", causal=True)
    spectrum = torch.randn(1, 7, 442, dtype=torch.complex64)
    noise = NoiseOptions(seed=3, strength=1.0)
    with torch.no_grad():
        whole, _ = generator.step(spectrum, noise=noise)
        state, parts = None, []
        for frame in spectrum.split(1, 1):
            part, state = generator.step(frame, state, final=False, noise=noise)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_the_small_preset_equals_itself_in_chunks() -> None:
    torch.manual_seed(0)
    generator, degraded = Generator(PRESETS["sr_gan-small"]).eval(), music(50_000)
    with torch.no_grad():
        whole = generator(degraded)
    assert error(restore(generator, degraded, chunk_seconds=0.21), whole) < 1e-5
