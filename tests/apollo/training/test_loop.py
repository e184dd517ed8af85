"""The loop in one process: where it ends, what it keeps and tells, and that an ended run stays as it is."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import apollo
from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training import loop, step_metrics
from apollo.training.callbacks import Callbacks
from apollo.training.checkpoint_manager import CheckpointManager
from apollo.training.config import FitConfig, GanConfig, NonFiniteError
from apollo.training.data import Example
from apollo.training.discriminator import Discriminator
from apollo.training.distributed import DistributedContext
from apollo.training.gan import Gan
from apollo.training.loop import FitResult, fit
from apollo.training.validation import DEGRADED_SUFFIX, LSD, SI_SNR, STFT_LOSS
from tests.support.gloo_runs import SAMPLES, Noise
from tests.support.host_reads import HostReads

EPOCH_STEPS = 3  # of 2 examples; the epoch's seventh is taken by no step
SMALL = FitConfig(epochs=2, epoch_examples=7, validation_examples=2, log_steps=2)


@dataclass
class Recorder(Callbacks):
    """Writes every call down, in order."""

    stop_after: int = 0
    listening_examples: int = 1
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
        self.calls.append(("step", step, dict(metrics), list(names)))

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", step, dict(metrics)))

    def on_validation_end(self, step: int, scores: Mapping[str, float], restored: Sequence[Any]) -> None:
        self.calls.append(("validation", step, dict(scores), list(restored)))

    def on_checkpoint_saved(self, step: int, path: Path) -> None:
        assert (path / "MANIFEST.json").exists()
        self.calls.append(("checkpoint", step, path))

    def should_stop(self) -> bool:
        return bool(self.stop_after) and self.of("step")[-1][1] >= self.stop_after

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == kind]

    def steps(self, kind: str) -> list[int]:
        return [call[1] for call in self.of(kind)]

    def order(self) -> list[tuple[str, int]]:
        return [(call[0], call[1]) for call in self.calls]


def _gan(**settings: Any) -> Gan:
    torch.manual_seed(0)
    return Gan(
        Generator(GeneratorConfig(dim=8, layers=1, heads=2, output="correction")),
        Discriminator(DiscriminatorConfig(windows=(64,))),
        GanConfig(**{"batch_size": 2, "micro_batch": 2, "ema_decay": 0.5, **settings}),
        DistributedContext(torch.device("cpu")),
    )


def _fit(
    output: Path, *, validation: Any = "noise", callbacks: Callbacks | None = None, **settings: Any
) -> tuple[FitResult, Recorder]:
    callbacks = callbacks or Recorder()
    ending = fit(
        _gan(),
        Noise(),
        replace(SMALL, **settings),
        output=output,
        validation=Noise(count=9) if validation == "noise" else validation,
        callbacks=callbacks,
    )
    return ending, callbacks  # type: ignore[return-value]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let validations find given losses, one after the other; SI-SNR is the input's."""

    def plan(*losses: float, si_snr: Sequence[float] = ()) -> None:
        left, levels = iter(losses), iter(si_snr)

        def find(*_: Any, **__: Any) -> dict[str, float]:
            scores = {STFT_LOSS: next(left), SI_SNR: next(levels, 10.0), LSD: 20.0}
            return scores | {
                STFT_LOSS + DEGRADED_SUFFIX: 0.5,
                SI_SNR + DEGRADED_SUFFIX: 10.0,
                LSD + DEGRADED_SUFFIX: 30.0,
            }

        monkeypatch.setattr(loop, "validate", find)

    return plan


def _kept(output: Path) -> list[int]:
    return CheckpointManager(output).steps()


def test_callbacks_are_called_in_order(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path)
    assert callbacks.order() == [
        *(
            ("step", 1),
            ("step", 2),
            ("log", 2),
            ("step", 3),
            ("validation", 3),
            ("checkpoint", 3),
        ),
        *(
            ("step", 4),
            ("log", 4),
            ("step", 5),
            ("step", 6),
            ("log", 6),
        ),
        *(("validation", 6), ("checkpoint", 6)),
    ]
    assert [call[3] for call in callbacks.of("step")] == [
        *(["0-0", "0-1"], ["0-2", "0-3"], ["0-4", "0-5"], ["1-0", "1-1"], ["1-2", "1-3"], ["1-4", "1-5"])
    ]
    assert [one.name for one in callbacks.of("validation")[0][3]] == ["0-0"]
    assert (ending.status, ending.step, ending.skipped) == ("done", 6, 0)
    assert ending.scores == callbacks.of("validation")[callbacks.steps("validation").index(ending.best)][2]


def test_the_validated_weights_are_the_saved_ema(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path)
    expected = apollo.load(tmp_path)(callbacks.of("validation")[0][3][0].degraded)
    found = callbacks.of("validation")[callbacks.steps("validation").index(ending.best)][3][0]
    torch.testing.assert_close(expected, found.restored)
    assert expected.shape == (2, SAMPLES)


def test_validation_has_at_most_the_examples_there_are(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    class Few(Noise):
        def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
            asked.append(list(positions))
            return super().read(epoch, positions)

    few = Few(count=3)
    _fit(tmp_path / "few", validation=few, validation_examples=500, epochs=1)
    _fit(tmp_path / "fewer", validation=few, validation_examples=2, epochs=1)
    assert asked[::2] == [[0, 1, 2], [0, 1]]  # between them is read what is restored


def test_logged_metrics_are_means_of_the_steps_since_the_last_log(tmp_path: Path) -> None:
    _, callbacks = _fit(tmp_path)
    steps = [call[2] for call in callbacks.of("step")]
    for number, (_, step, logged) in enumerate(callbacks.of("log")):
        assert step == 2 * number + 2
        for name in ("g/stft", "d/real", "d/margin/64", "norm/generator"):
            by_hand = (steps[step - 2][name] + steps[step - 1][name]) / 2
            assert logged[name] == pytest.approx(by_hand, rel=1e-12), (step, name)
        assert "step/skipped" not in logged
        assert logged["rate/skipped_share"] == 0
        assert logged["learning_rate/generator"] == 1e-3
        assert logged["learning_rate/discriminator"] == 1e-4


def test_times_and_rates_by_hand() -> None:
    gan = _gan()
    one = step_metrics.MetricTracker(gan, last_step=10)
    one.add({"g/stft": 1.0, "step/skipped": 0.0})
    one.add_seconds(0.5, 1.5)
    one.add({"g/stft": 4.0, "step/skipped": 0.0})
    one.add_seconds(1.5, 0.5)
    one.add_seconds(1.0, 1.0)  # a skipped step takes its time, and counts in no mean
    found = one.flush(0.25)
    expected = {
        **{"g/stft": 2.5, "time/data": 1.0, "time/step": 2.0, "rate/examples_per_second": 1.0},
        **{"rate/data_wait_share": 0.5, "rate/skipped_share": 0.25},
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["memory/process_peak_mib"] > 50
    one.add({"g/stft": 7.0})
    one.add_seconds(0.0, 4.0)
    again = one.flush(0.2)
    assert (again["g/stft"], again["time/step"], again["time/data"]) == (7.0, 4.0, 0.0)


def test_a_skipped_step_counts_in_no_mean(tmp_path: Path) -> None:
    ending, callbacks = Recorder(), Recorder()
    ending = fit(
        _gan(), Noise(frozenset({"0-2"})), replace(SMALL, epochs=1), output=tmp_path, callbacks=callbacks
    )
    assert ending.skipped == 1
    steps, (logged,) = (
        [call[2] for call in callbacks.of("step")],
        [call[2] for call in callbacks.of("log")],
    )
    assert [one["step/skipped"] for one in steps] == [0, 1, 0]
    assert math.isnan(steps[1]["d/fake"])
    assert all(logged[name] == steps[0][name] for name in ("g/stft", "d/fake", "norm/discriminator"))
    assert logged["rate/skipped_share"] == 0.5


@pytest.mark.parametrize("log_steps", [2, 4, 50])
def test_the_host_reads_results_where_they_are_logged_saved_or_the_epoch_ends(
    log_steps: int, tmp_path: Path
) -> None:
    """Counts are reads until the end of each step, since the last checkpoint, which has its own."""
    gan, counts = _gan(), []

    class Watch(Callbacks):
        def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
            counts.append(reads.count)

        def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
            counts.append(f"{step} logged")

        def on_checkpoint_saved(self, step: int, path: Path) -> None:
            counts.append(f"{step} saved")
            reads.count = 0

    with HostReads() as reads:
        reads.ignore_steps_of_adamw(gan)
        config = replace(SMALL, epochs=1, epoch_examples=14, log_steps=log_steps, checkpoint_steps=5)
        fit(gan, Noise(), config, output=tmp_path, callbacks=Watch())
    expected = {
        2: [0, 0, "2 logged", 1, 1, "4 logged", 2, "5 saved", 0, "6 logged", 1, "7 saved"],
        4: [0, 0, 0, 0, "4 logged", 1, "5 saved", 0, 0, "7 saved"],
        50: [0, 0, 0, 0, 0, "5 saved", 0, 0, "7 saved"],
    }
    assert counts == expected[log_steps]


def test_skipped_steps_are_handled_in_order_when_they_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []

    class Watch(Callbacks):
        def on_train_step_end(self, step: int, metrics: Mapping[str, float], names: Sequence[str]) -> None:
            calls.append(step)

        def on_train_step_skipped(self, step: int, examples: Sequence[str]) -> None:
            calls.append((f"{step} skipped", *examples))

    poison, config = frozenset({"0-2", "0-5", "0-11"}), replace(SMALL, epoch_examples=24, log_steps=4)
    gan = _gan(max_skipped_steps=2)
    with pytest.raises(NonFiniteError, match=r"3 steps skipped.*The last: step 6: .*examples: 0-10, 0-11\."):
        fit(gan, Noise(poison), config, output=tmp_path, callbacks=Watch())
    skipped = [("2 skipped", "0-2", "0-3"), ("3 skipped", "0-4", "0-5"), ("6 skipped", "0-10", "0-11")]
    assert calls == [1, 2, 3, 4, *skipped[:2], 5, 6, 7, 8, skipped[2]]
    assert [message[:7] for message in caplog.messages if "step skipped" in message] == [
        *("step 2:", "step 3:", "step 6:")
    ]
    assert all(value.isfinite().all() for value in gan.generator.state_dict().values())


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_run_resumed_after_a_skipped_step_is_the_undisturbed_one(stop: int, tmp_path: Path) -> None:
    """It was skipped before the stop and is read at the stop, in the undisturbed run later."""

    def run(folder: str, steps: int) -> tuple[list[Any], dict[str, Any]]:
        torch.manual_seed(0)
        gan = _gan(warmup_steps=6, ema_decay=0.999)
        callbacks = Recorder()
        config = replace(SMALL, epochs=1, epoch_examples=16, max_steps=steps, log_steps=8)
        fit(gan, Noise(frozenset({"0-5"})), config, output=tmp_path / folder, callbacks=callbacks)
        return [call[2] for call in callbacks.of("step")], gan.ema_generator.state_dict()

    whole, weights = run("whole", 8)
    first, _ = run("parts", stop)
    rest, found = run("parts", 8)
    assert [step["step/skipped"] for step in whole] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert json.dumps(first + rest) == json.dumps(whole)
    torch.testing.assert_close(found, weights, rtol=0, atol=0)


def test_the_progress_line_has_step_rate_and_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, now = step_metrics.MetricTracker(_gan(), last_step=1_000), [100.0]
    monkeypatch.setattr(step_metrics.time, "monotonic", lambda: now[0])
    numbers = {
        **{"g/stft": 0.51249, "d/real": 0.25, "d/fake": 0.125, "time/step": 4.0},
        **{"rate/examples_per_second": 0.5, "rate/data_wait_share": 0.127},
    }
    expected = (
        "step 100 of 1000: g/stft 0.512, d/real 0.250, d/fake 0.125, 0.50 examples/s, 13% waiting for data"
    )
    assert one.progress_line(100, numbers) == expected + ", about 1 h 00 min left"
    now[0] += 29
    assert one.progress_line(105, numbers) == ""  # that was a moment ago
    assert one.progress_line(1_000, numbers).endswith("about 0 min 00 s left")  # always at the last step
    now[0] += 31
    assert one.progress_line(985, numbers).endswith("about 1 min 00 s left")


def test_log_lines_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, callbacks = _fit(tmp_path)
    said = caplog.messages
    assert re.match(r"epoch 1, step 2 of 6: g/stft \d\.\d{3}, d/real \d\.\d{3}, d/fake \d\.\d{3}, ", said[0])
    scores = callbacks.of("validation")[0][2]
    assert said[1] == (
        f"epoch 1, step 3: valid/stft {scores[STFT_LOSS]:.3f} "
        f"(input {scores[STFT_LOSS + DEGRADED_SUFFIX]:.3f}), "
        f"valid/si_snr {scores[SI_SNR]:.3f} dB (input {scores[SI_SNR + DEGRADED_SUFFIX]:.3f}), "
        f"valid/lsd_above_5khz {scores[LSD]:.3f} dB (input {scores[LSD + DEGRADED_SUFFIX]:.3f})"
    )
    assert said[2].startswith("epoch 2, step 6 of 6: ")
    assert len(said) == 4


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        ([0.5, 0.4, 0.4, 0.4], 2, 4),  # equal is no lower
        ([0.5, 0.6, 0.4, 0.5, 0.6], 2, 5),
        ([0.5, 0.6], 1, 2),
    ],
)
def test_it_ends_early_after_epochs_without_a_lower_loss(
    losses: list[float], patience: int, epochs: int, scripted: Any, tmp_path: Path
) -> None:
    scripted(*losses)
    ending, callbacks = _fit(tmp_path, epochs=50, patience_epochs=patience)
    assert (ending.status, ending.step) == ("early", epochs * EPOCH_STEPS)
    assert callbacks.steps("validation") == [EPOCH_STEPS * (epoch + 1) for epoch in range(epochs)]
    assert ending.best == EPOCH_STEPS * (1 + losses.index(min(losses)))
    again, callbacks = _fit(tmp_path, epochs=50, patience_epochs=patience)  # it stays ended
    assert again == ending
    assert callbacks.order() == []
    scripted(0.1, 0.1)
    more, callbacks = _fit(
        tmp_path, epochs=epochs + 1, patience_epochs=patience + 5
    )  # with patience it goes on
    assert (more.status, more.step) == ("done", (epochs + 1) * EPOCH_STEPS)


def test_falling_losses_end_with_the_last_epoch(scripted: Any, tmp_path: Path) -> None:
    scripted(0.5, 0.4, 0.3)
    ending, _ = _fit(tmp_path, epochs=3, patience_epochs=1)
    assert (ending.status, ending.step, ending.best) == ("done", 9, 9)


def test_max_steps_may_end_it_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path, max_steps=4, epochs=50)
    assert (ending.status, ending.step) == ("done", 4)
    assert callbacks.steps("step") == [1, 2, 3, 4]
    assert callbacks.steps("validation") == callbacks.steps("checkpoint") == [3, 4]
    assert ending.best in (3, 4)


def test_more_steps_resume_where_the_last_run_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, callbacks = _fit(tmp_path / "whole")
    _fit(tmp_path / "parts", max_steps=2)
    _, more = _fit(tmp_path / "parts")
    assert "resuming from step 2" in caplog.messages
    assert [call[2:] for call in more.of("step")] == [call[2:] for call in callbacks.of("step")[2:]]
    assert callbacks.of("validation")[-1][2] == more.of("validation")[-1][2]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_resumes_before_and_after_its_discriminator_starts(stop: int, tmp_path: Path) -> None:
    """Muon, warm-up, cosine and a discriminator from step 2 on: the same steps, whenever it was stopped."""

    def run(folder: str, steps: int) -> list[Any]:
        torch.manual_seed(0)
        gan = Gan(
            Generator(GeneratorConfig(dim=8, layers=1, trunk="frame_convolution", output="mask_and_noise")),
            DiscriminatorConfig(windows=(64,)),
            GanConfig(
                batch_size=2,
                micro_batch=2,
                generator_optimizer="muon",
                warmup_steps=2,
                cosine_steps=4,
                adversarial_start_step=2,
                weights={"g/envelope": 1.0, "g/noise_error": 0.1},
            ),
            DistributedContext(torch.device("cpu")),
        )
        callbacks = Recorder()
        config = replace(SMALL, max_steps=steps)
        fit(gan, Noise(), config, output=tmp_path / folder, validation=Noise(count=2), callbacks=callbacks)
        return [call[2] for call in callbacks.of("step")]

    whole = run("whole", 5)
    assert ["d/real" in step for step in whole] == [False, False, True, True, True]
    assert run("parts", stop) + run("parts", 5) == whole
    saved = [
        "discriminator" in torch.load(folder / "weights.pt", weights_only=True)
        for folder in sorted((tmp_path / "parts/checkpoints").glob("step-*"))
    ]
    assert saved[-1] is True


@pytest.mark.parametrize("keep", [1, 2])
def test_the_last_checkpoints_and_the_best_are_kept(keep: int, scripted: Any, tmp_path: Path) -> None:
    scripted(0.5, 0.2, 0.4, 0.3, 0.3)
    ending, callbacks = _fit(tmp_path, epochs=5, keep_checkpoints=keep)
    assert callbacks.steps("checkpoint") == [3, 6, 9, 12, 15]
    assert ending.best == 6
    assert _kept(tmp_path) == ([6, 15] if keep == 1 else [6, 12, 15])
    assert os.readlink(tmp_path / "best") == "checkpoints/step-00000006"


def test_checkpoints_come_between_epochs_too(tmp_path: Path) -> None:
    _, callbacks = _fit(tmp_path, checkpoint_steps=2, keep_checkpoints=9)
    assert callbacks.steps("checkpoint") == [2, 3, 4, 6]
    assert callbacks.steps("validation") == [3, 6]


def test_best_is_only_what_was_validated_and_never_step_zero(scripted: Any, tmp_path: Path) -> None:
    """The untrained network is better than both: validation of what begins finds so."""
    CheckpointManager(tmp_path).save(_gan(), 0, {})
    scripted(0.1, 0.9, 0.8)
    ending, _ = _fit(tmp_path, checkpoint_steps=2, keep_checkpoints=9)
    assert ending.best == 6
    assert _kept(tmp_path) == [0, 2, 3, 4, 6]
    assert CheckpointManager(tmp_path).scores()[0][STFT_LOSS] == 0.1


def test_of_equal_ones_the_earlier_is_best_and_the_floor_comes_first(scripted: Any, tmp_path: Path) -> None:
    scripted(0.4, 0.4, 0.4)
    assert _fit(tmp_path / "equal", epochs=3)[0].best == 3
    scripted(0.1, 0.4, 0.45, si_snr=[6.0, 8.0, 10.0])
    assert _fit(tmp_path / "floor", epochs=3)[0].best == 6
    scripted(0.1, 0.4, 0.45, si_snr=[6.0, 8.0, 10.0])
    assert _fit(tmp_path / "lower floor", epochs=3, floor_db=5.0)[0].best == 3


def test_without_validation_there_is_no_best_and_no_early_end(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path, validation=None, patience_epochs=1, epochs=3)
    assert ending == FitResult("done", 9, None, {}, 0)
    assert callbacks.of("validation") == []
    assert callbacks.steps("checkpoint") == [3, 6, 9]
    assert not os.path.lexists(tmp_path / "best")
    assert not (tmp_path / "checkpoints/scores.json").exists()


def test_a_stop_saves_the_step_without_validating(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path, callbacks=Recorder(stop_after=2))
    assert (ending.status, ending.step, ending.best) == ("interrupted", 2, None)
    assert callbacks.order() == [
        ("step", 1),
        ("step", 2),
        ("log", 2),
        ("checkpoint", 2),
    ]


def test_a_stop_at_an_epochs_end_is_validated_by_the_next_run(tmp_path: Path) -> None:
    _fit(tmp_path, callbacks=Recorder(stop_after=3))
    ending, callbacks = _fit(tmp_path)
    assert callbacks.order()[:2] == [("validation", 3), ("step", 4)]
    assert ending.status == "done"


def _contents(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_an_ended_run_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ending, _ = _fit(tmp_path)
    before = _contents(tmp_path)
    caplog.clear()
    again, callbacks = _fit(tmp_path)
    assert again == ending
    assert _contents(tmp_path) == before
    assert callbacks.calls == []
    assert caplog.messages == ["resuming from step 6"]


def test_progress_is_kept_in_the_checkpoint(scripted: Any, tmp_path: Path) -> None:
    scripted(0.4, 0.5)
    _fit(tmp_path)
    assert CheckpointManager(tmp_path).load(_gan(), 6) == {
        **{
            "step": 6,
            "skipped": 0,
            "lowest_loss": 0.4,
            "lowest_epoch": 1,
            "validated": 6,
            "unlogged": {},
        }
    }
    assert {step: one[STFT_LOSS] for step, one in CheckpointManager(tmp_path).scores().items()} == {
        3: 0.4,
        6: 0.5,
    }


def test_learning_rates_fall_with_epochs(tmp_path: Path) -> None:
    _, callbacks = _fit(tmp_path, epochs=3, log_steps=3, validation=None)
    rates = [call[2]["learning_rate/generator"] for call in callbacks.of("log")]
    assert rates == pytest.approx([1e-3, 1e-3, 0.98e-3])


def test_warm_up_steps_update_only_the_discriminator(tmp_path: Path) -> None:
    callbacks = Recorder()
    gan = _gan(discriminator_warmup_steps=2)
    fit(gan, Noise(), replace(SMALL, epochs=1), output=tmp_path, callbacks=callbacks)
    assert ["g/stft" in call[2] for call in callbacks.of("step")] == [False, False, True]
    assert gan.generator_steps == 1


def test_an_epoch_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an epoch of 1 examples has no batch of 2"):
        _fit(tmp_path, epoch_examples=1)
    assert list(tmp_path.iterdir()) == []


def test_results_are_plain_numbers(tmp_path: Path) -> None:
    ending, callbacks = _fit(tmp_path, epochs=1)
    for _, _, numbers, *_ in [
        *callbacks.of("step"),
        *callbacks.of("log"),
        *callbacks.of("validation"),
    ]:
        assert all(math.isfinite(value) for value in json.loads(json.dumps(numbers)).values())
    assert json.loads(json.dumps(ending.__dict__))["best"] == 3
