"""Faults 17 to 22 on the training loop itself: plain processes over gloo, killed, poisoned, counted anew."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import apollo
from apollo.training.config import FitConfig, GanConfig
from tests.support.gloo_runs import Run, launch, log, logged, names, result, steps, weights

LAST = 18  # steps of a whole run
KILLED = -9


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What every disturbed run must equal."""
    run = Run(tmp_path_factory.mktemp("training") / "undisturbed")
    assert launch(run) == [0, 0]
    assert result(run).status == "done"
    assert result(run).step == LAST
    return run


def assert_same(run: Run, undisturbed_run: Run) -> None:
    """The same examples, the same losses to the last bit, and the same state at the end."""
    for rank in range(2):
        assert steps(run, rank) == steps(undisturbed_run, rank)
    assert logged(run) == logged(undisturbed_run)
    found, expected = weights(run, LAST), weights(undisturbed_run, LAST)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, name
    assert (result(run).best, result(run).scores) == (
        result(undisturbed_run).best,
        result(undisturbed_run).scores,
    )


def test_an_epoch_takes_every_position_once_and_in_order(undisturbed_run: Run) -> None:
    taken = names(undisturbed_run, 2)
    for step in range(LAST):
        epoch, place = divmod(step, 6)
        assert taken[step + 1] == sorted(f"{epoch}-{4 * place + number}" for number in range(4))


@pytest.mark.parametrize("rank", [0, 1])
def test_17_a_worker_killed_at_a_random_step_changes_nothing(
    rank: int, undisturbed_run: Run, tmp_path: Path
) -> None:
    run, step = Run(tmp_path / "run"), random.Random(rank).randrange(5, LAST)
    codes = launch(run, kill={rank: step})
    assert codes[rank] == KILLED
    assert codes[1 - rank] == 1  # it lost its partner
    assert launch(run) == [0, 0]
    assert "resuming from step" in log(run)
    assert_same(run, undisturbed_run)


@pytest.mark.faults
def test_17_a_worker_killed_at_every_step_changes_nothing(undisturbed_run: Run, tmp_path: Path) -> None:
    for step in range(1, LAST + 1):
        run = Run(tmp_path / f"killed-{step}")
        assert launch(run, kill={step % 2: step})[step % 2] == KILLED
        assert launch(run) == [0, 0]
        assert_same(run, undisturbed_run)


def test_18_all_killed_again_and_again_ends_with_the_same_state(undisturbed_run: Run, tmp_path: Path) -> None:
    """What a killed driver does: everything is gone at once, the next run begins with what is on disk."""
    run = Run(tmp_path / "run")
    for step in (3, 9, 17):
        assert launch(run, kill={0: step, 1: step}) == [KILLED, KILLED]
    assert launch(run) == [0, 0]
    assert_same(run, undisturbed_run)


def test_18_a_requested_stop_is_agreed_on_and_leaves_a_checkpoint(
    undisturbed_run: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    assert launch(run, stop={1: 7}) == [0, 0]  # rank 1 alone was asked
    assert result(run).status == "interrupted"
    assert result(run).step == 7
    assert (run.output / "checkpoints/step-00000007/MANIFEST.json").exists()
    assert launch(run, stop={0: 12}) == [0, 0]  # at an epoch's end: its validation is made up for
    assert launch(run) == [0, 0]
    assert_same(run, undisturbed_run)


def _killed_at(run: Run, step: int) -> Path:
    assert launch(run, kill={0: step, 1: step}) == [KILLED, KILLED]
    return run.output / "checkpoints"


# by the digest, all three; tests/faults/test_training_on_ray.py empties one as well
_ALSO = [pytest.param(damage, marks=pytest.mark.faults) for damage in ("emptied", "truncated")]


@pytest.mark.parametrize("damage", [*_ALSO, "flipped", "no manifest", "older gone"])
def test_19_the_latest_valid_checkpoint_is_used_with_a_warning(
    damage: str, undisturbed_run: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    folder = _killed_at(run, 11)
    newest, older = folder / "step-00000008", folder / "step-00000006"
    assert newest.exists()
    assert older.exists()
    if damage == "emptied":
        for path in newest.iterdir():
            path.unlink()
    elif damage == "truncated":
        content = (newest / "training.pt").read_bytes()
        (newest / "training.pt").write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content = bytearray((newest / "weights.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (newest / "weights.pt").write_bytes(content)
    elif damage == "no manifest":
        (newest / "MANIFEST.json").unlink()
    else:
        shutil.rmtree(older)
    assert launch(run) == [0, 0]
    text = log(run)
    assert ("set aside as step-00000008.damaged" in text) == (damage != "older gone")
    assert f"resuming from step {8 if damage == 'older gone' else 6}" in text
    assert_same(run, undisturbed_run)


def test_19_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    undisturbed_run: Run, tmp_path: Path
) -> None:
    """Half a checkpoint lies under another name; what a kill leaves is made by hand."""
    run = Run(tmp_path / "run")
    folder = _killed_at(run, 11)
    half = folder / ".step-00000012-abc"
    shutil.copytree(folder / "step-00000008", half)
    (half / "MANIFEST.json").unlink()
    (folder / "scores.json").write_text('{"6": {"valid/st')  # it is not trusted either
    assert launch(run) == [0, 0]
    assert not half.exists()
    for rank in range(2):
        assert steps(run, rank) == steps(undisturbed_run, rank)


def test_19_without_a_valid_checkpoint_it_restarts_with_a_warning(
    undisturbed_run: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    folder = _killed_at(run, 5)
    (folder / "step-00000004/weights.pt").write_bytes(b"")
    assert launch(run) == [0, 0]
    assert "set aside" in log(run)
    assert "continuing" not in log(run)
    assert_same(run, undisturbed_run)


def test_20_another_number_of_workers_changes_no_example_and_no_loss_beyond_rounding(
    undisturbed_run: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    assert launch(run, world_size=4, stop={2: 5}) == [0] * 4
    assert launch(run, world_size=2, stop={0: 11}) == [0] * 2
    assert launch(run, world_size=4, stop={0: 14}) == [0] * 4
    assert launch(run, world_size=1) == [0]
    assert names(run, 4) == names(undisturbed_run, 2)
    expected = steps(undisturbed_run)
    for step, line in steps(run).items():
        for name in ("g/stft", "g/feature", "d/real", "d/fake"):
            assert line[name] == pytest.approx(expected[step][name], rel=1e-3), (step, name)


@pytest.mark.parametrize("gan", [{"micro_batch": 1}, {"micro_batch": 3}, {"micro_batch": 4}])
@pytest.mark.parametrize("world_size", [1, 2])
def test_20_workers_and_accumulation_give_one_loss_curve(
    world_size: int, gan: dict[str, int], undisturbed_run: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", world_size=world_size, gan=replace(undisturbed_run.gan, **gan))
    assert launch(run) == [0] * world_size
    expected = steps(undisturbed_run)
    for step, line in steps(run).items():
        for name in ("g/stft", "g/feature", "d/real", "d/fake"):
            assert line[name] == pytest.approx(expected[step][name], rel=1e-3), (step, name)


@pytest.mark.parametrize(("world_size", "batch_size", "validation"), [(2, 5, 1), (3, 4, 2), (4, 7, 3)])
def test_21_odd_numbers_of_examples_leave_no_rank_waiting(
    world_size: int, batch_size: int, validation: int, tmp_path: Path
) -> None:
    """Ranks have different numbers of examples, and some none in validation."""
    run = Run(
        tmp_path / "run",
        world_size=world_size,
        gan=GanConfig(batch_size=batch_size),
        fit=FitConfig(epochs=2, epoch_examples=15, validation_examples=validation),
    )
    assert launch(run) == [0] * world_size
    taken = names(run, world_size)
    per_epoch = 15 // batch_size
    assert len(taken) == 2 * per_epoch
    for step, found in taken.items():
        epoch, place = divmod(step - 1, per_epoch)
        assert found == sorted(f"{epoch}-{batch_size * place + number}" for number in range(batch_size))


def test_21_fewer_examples_than_workers_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", world_size=2, gan=GanConfig(batch_size=1))
    assert launch(run) == [1, 1]


def test_22_a_non_finite_step_is_skipped_on_all_ranks_and_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", poison=frozenset({"0-13", "1-2"}))
    assert launch(run) == [0, 0]
    text = log(run)
    assert "step 4: non-finite loss or gradient, step skipped; examples: 0-13, 0-15\n" in text
    assert "step 7: non-finite loss or gradient, step skipped; examples: 1-0, 1-2\n" in text
    assert result(run).skipped == 2
    for rank in range(2):
        assert [step for step, line in steps(run, rank).items() if line["step/skipped"]] == [4, 7]
    assert all(
        torch.isfinite(value).all()
        for name, value in weights(run, LAST).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )
    share = [
        json.loads(line)["rate/skipped_share"]
        for line in (run.output / "logged.jsonl").read_text().splitlines()
    ]
    assert share[-1] == pytest.approx(2 / 15)  # at the last step that was logged
    apollo.load(run.output)


def test_22_a_run_with_many_non_finite_steps_ends_with_a_finite_checkpoint(tmp_path: Path) -> None:
    poison = frozenset(f"1-{position}" for position in range(24))
    run = Run(tmp_path / "run", poison=poison, gan=GanConfig(batch_size=4, max_skipped_steps=2))
    assert launch(run) == [1, 1]
    assert log(run).count("step skipped") == 3
    apollo.load(run.output / "checkpoints/step-00000006")


def test_async_scores_choose_the_best_and_a_kill_before_they_arrive_validates_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", has_async_scores=True)
    assert launch(run, kill={0: 7, 1: 7}) == [KILLED, KILLED]
    assert launch(run) == [0, 0]
    scores = json.loads((run.output / "checkpoints/scores.json").read_text())
    assert {int(step): one["valid/visqol"] for step, one in scores.items()} == {6: 2.06, 12: 2.12, 18: 2.18}
    assert result(run).best in (6, 12, 18)
    assert (run.output / "best").resolve().name == f"step-{result(run).best:08d}"
