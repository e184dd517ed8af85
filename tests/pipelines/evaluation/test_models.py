"""Models of an evaluation at several strengths of their noise."""

from pathlib import Path

import numpy as np
import pytest
import torch

from apollo.checkpoints import checkpoint
from apollo.inference.restoration import restore
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from pipelines.errors import UsageError
from pipelines.evaluation.models import load_models
from pipelines.evaluation.scorer import ItemRestorer

TINY = {"dim": 8, "layers": 1, "heads": 2}


def noisy(folder: Path) -> str:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(**TINY, trunk="frame_convolution", output="mask_and_noise"))
    return str(checkpoint.save(generator.eval(), folder / "noisy"))


def test_a_strength_is_a_model_of_its_own(tmp_path: Path) -> None:
    path = noisy(tmp_path)
    _, default, without, loud = load_models((path, f"{path}#strength=0", f"loud={path}#strength=1.50"), ())
    assert [one.name for one in (default, without, loud)] == ["noisy", "noisy-strength-0", "loud"]
    assert [one.source for one in (without, loud)] == [f"{path}#strength=0", f"{path}#strength=1.5"]
    assert len({default.digest, without.digest, loud.digest}) == 3
    assert default.parameters == without.parameters


def test_a_strength_is_what_restoring_takes(tmp_path: Path) -> None:
    path = noisy(tmp_path)
    degraded = 0.1 * np.random.default_rng(1).standard_normal((2, 9_000)).astype(np.float32)
    _, model = load_models((f"{path}#strength=0.5",), ())
    assert model.bundle is not None
    found = ItemRestorer("float32", "cpu").restore(model.bundle, degraded)
    expected, other = (
        restore(checkpoint.load(path), torch.from_numpy(degraded), strength=strength).numpy()
        for strength in (0.5, 1.0)
    )
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, other)


@pytest.mark.parametrize("strength", ["-0.1", "1.6", "nan", "loud", ""])
def test_a_strength_must_be_in_its_range(strength: str) -> None:
    with pytest.raises(UsageError, match=r"#strength=.*must be a number from 0 to 1\.5"):
        load_models((f"compact#strength={strength}",), ())


def test_a_model_without_noise_has_no_strength(tmp_path: Path) -> None:
    path = checkpoint.save(Generator(GeneratorConfig(**TINY)), tmp_path / "plain")
    with pytest.raises(UsageError, match=r"output of this model is direct.*leave out #strength"):
        load_models((f"{path}#strength=0",), ())


def test_a_path_that_looks_like_a_strength_is_a_path(tmp_path: Path) -> None:
    generator = Generator(GeneratorConfig(**TINY))
    path = checkpoint.save(generator, tmp_path / "run#strength=1")
    assert load_models((str(path),), ())[1].name == "run-strength-1"


def test_models_without_parameters_are_models_as_others() -> None:
    degraded = 0.1 * np.random.default_rng(1).standard_normal((2, 9_000)).astype(np.float32)
    _, *models = load_models(("codec", "replication"), ())
    assert [(one.name, one.parameters) for one in models] == [("codec", 0), ("replication", 0)]
    for one in models:
        assert one.bundle is not None
        found = ItemRestorer("float32", "cpu").restore(one.bundle, degraded)
        expected = restore(checkpoint.load(one.name), torch.from_numpy(degraded)).numpy()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, degraded, atol=1e-4)  # a full band leaves nothing to replicate
