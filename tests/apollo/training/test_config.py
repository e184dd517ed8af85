"""What a training run is told: refusals that name field, value and remedy, and the paper's numbers."""

from typing import Any

import pytest

from apollo.model.config import LOSS_WEIGHTS
from apollo.training.config import FitConfig, GanConfig


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"weights": {"g/sftf": 1.0}},
            r"unknown losses in weights: g/sftf; the losses are g/stft, g/adversarial, ",
        ),
        ({"weights": {"g/stft": -1.0}}, r"g/stft is -1.0: it must be finite and at least 0"),
        ({"weights": {"d/real": float("nan")}}, r"d/real is nan: it must be finite and at least 0"),
        ({"precision": "float16"}, r"precision is 'float16': it must be 'float32' or 'bfloat16'"),
        ({"batch_size": 0}, r"batch_size is 0: it must be at least 1"),
        ({"micro_batch": -1}, r"micro_batch is -1: it must be at least 1"),
        ({"decay_epochs": 0}, r"decay_epochs is 0: it must be at least 1"),
        ({"generator_learning_rate": 0.0}, r"generator_learning_rate is 0.0: it must be above 0"),
        ({"discriminator_learning_rate": -1e-4}, r"discriminator_learning_rate is -0.0001: it must be above"),
        ({"clip_norm": float("nan")}, r"clip_norm is nan: it must be above 0"),
        ({"adversarial_start_step": 5, "weights": {"g/stft": 0.0}}, r"no loss before adversarial_start_step"),
        (
            {"weights": {"g/stft": 0, "g/adversarial": 0, "g/feature": 0}},
            r"leaves the generator no loss: give",
        ),
        ({"generator_optimizer": "sgd"}, r"generator_optimizer is 'sgd': it must be 'adamw' or 'muon'"),
        ({"muon_learning_rate": 0.0}, r"muon_learning_rate is 0.0: it must be above 0"),
        ({"warmup_steps": -1}, r"warmup_steps is -1: it must be at least 0"),
        ({"decay": 0.0}, r"decay is 0.0: it must be above 0"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0: it must be from 0 to below 1"),
        ({"ema_decay": -0.1}, r"ema_decay is -0.1: it must be from 0 to below 1"),
        ({"recompute": "all"}, r"recompute is 'all': it must be one of nothing, hidden, layers"),
        ({"compile": True, "recompute": "hidden"}, r"compile is True and recompute is 'hidden': .* leave"),
        ({"discriminator_warmup_steps": -1}, r"discriminator_warmup_steps is -1: it must be at least 0"),
        ({"max_skipped_steps": -2}, r"max_skipped_steps is -2: it must be at least 0"),
    ],
)
def test_invalid_gan_configurations_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GanConfig(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        *(
            ({name: 0}, f"{name} is 0: it must be at least 1")
            for name in (
                *("epochs", "epoch_examples", "patience_epochs", "checkpoint_steps", "keep_checkpoints"),
                *("validation_examples", "log_steps"),
            )
        ),
        ({"max_steps": -5}, r"max_steps is -5: it must be 0 \(no limit\) or more"),
    ],
)
def test_invalid_fit_configurations_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FitConfig(**values)


def test_edges_that_make_sense_are_taken() -> None:
    GanConfig(ema_decay=0.0, max_skipped_steps=0, micro_batch=100, weights={"g/stft": 0.0})
    GanConfig(compile=True)
    FitConfig(max_steps=0, epochs=1, epoch_examples=1)


def test_defaults_are_the_papers() -> None:
    config, loop = GanConfig(), FitConfig()
    assert (config.generator_learning_rate, config.discriminator_learning_rate) == (1e-3, 1e-4)
    assert (config.decay, config.decay_epochs, config.clip_norm) == (0.98, 2, 5.0)
    assert loop.patience_epochs == 20


def test_learning_rates_are_scaled_by_steps_of_epochs() -> None:
    scales = [GanConfig().learning_rate_scale(epoch) for epoch in range(6)]
    assert scales == pytest.approx([1, 1, 0.98, 0.98, 0.9604, 0.9604], rel=1e-12)
    other = GanConfig(decay=0.5, decay_epochs=3)
    assert [other.learning_rate_scale(epoch) for epoch in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_weights_given_change_those_of_the_paper_and_no_others() -> None:
    assert GanConfig().all_weights == LOSS_WEIGHTS
    config = GanConfig(weights={"g/feature": 2.0, "g/waveform": 0.1})
    assert config.all_weights == LOSS_WEIGHTS | {"g/feature": 2.0, "g/waveform": 0.1}
    assert list(config.all_weights) == list(LOSS_WEIGHTS)
    assert (LOSS_WEIGHTS["g/feature"], LOSS_WEIGHTS["g/waveform"]) == (1.0, 0.0)  # the table itself stays
