"""Training runs in a bucket: only whole checkpoints count, and an empty machine resumes exactly."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from apollo.checkpoints import checkpoint
from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.model.generator import Generator
from apollo.training.config import FitConfig, GanConfig
from apollo.training.distributed import DistributedContext
from pipelines.cluster.resources import WorkersConfig
from pipelines.dataset.bad_rows import Reject
from pipelines.runtime.outcome import Exit
from pipelines.runtime.run import lock_output
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import ATTEMPTS, StoreError
from pipelines.tracking.run import TrackingConfig, open_run
from pipelines.training import callbacks, worker
from pipelines.training.checkpoint_sync import CheckpointSync, make_folder
from pipelines.training.config import TrainConfig
from pipelines.training.resolve import resolve
from pipelines.training.run import train
from tests.support import gloo_runs, shard_outputs
from tests.support.gloo_runs import Noise
from tests.support.restoration_jobs import save_generator
from tests.support.s3_server import Bucket

_EVER = float("inf")
LAST, STOPPED = 16, 8  # checkpoints at 3, 6, 8 (the end of an epoch), 11, 14, 16


class _FakeCoordinator:
    """Coordinator client in this process."""

    def __init__(self, stop_after: int | None) -> None:
        self.said, self.asked, self.stop_after = list[str](), 0, stop_after

    def log(self, record: dict[str, Any]) -> None:
        self.said.append(record["msg"])

    def start_heartbeat(self) -> None:
        pass

    def failure(self) -> str:
        return ""

    def fail(self, text: str) -> None:
        self.said.append(text)

    def stop_requested(self) -> bool:
        """Asked once a step."""
        self.asked += 1
        return self.asked == self.stop_after


class _NoReview:
    def poll(self, timeout_seconds: float = 0.0) -> tuple[bool, dict[str, Any]]:
        return True, {"scores": {}, "pictures": {}, "clips": {}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainConfig]:
    """Configuration of a run with short examples that are functions of their position, without reviews."""
    monkeypatch.setenv(ATTEMPTS, "2")
    monkeypatch.setattr(worker, "worker_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(worker, "_source", lambda *_: Noise())
    monkeypatch.setattr(worker, "ValidationSource", lambda *_, **__: Noise(count=50))
    monkeypatch.setattr(callbacks, "BackgroundTask", lambda *_, **__: _NoReview())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TrainConfig(
        shards=str(tmp_path / "shards"),
        output=str(tmp_path / "on a disk"),
        generator=GeneratorConfig(dim=8, layers=1, heads=2, output="correction"),
        discriminator=DiscriminatorConfig(windows=(64, 256), norm="rms"),
        gan=GanConfig(batch_size=2),
        fit=FitConfig(
            epochs=2,
            epoch_examples=16,
            checkpoint_steps=3,
            log_steps=2,
            validation_examples=2,
            keep_checkpoints=2,
        ),
        workers=WorkersConfig(count=1, gpu=False, cpus=1.0),
        tracking=TrackingConfig(uri="http://127.0.0.1:9", close_seconds=0.1, system_metrics=False),
        listening_examples=0,
        visqol=False,
        scratch=str(tmp_path / "scratch"),
    )
    torch.set_num_threads(threads)


def _work(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None
) -> _FakeCoordinator:
    """Run the only worker of a training in this process."""
    coordinator = _FakeCoordinator(stop_after)
    monkeypatch.setattr(worker, "CoordinatorClient", lambda _: coordinator)
    config.folder.mkdir(parents=True, exist_ok=True)
    run = open_run(config.tracking, str(config.folder), params={}, tags={})
    worker.work({"config": config, "run": run, "log_level": "INFO", "coordinator": None})
    return coordinator


def _logged(folder: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (folder / "tracking/metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], {name: value for name, value in line["metrics"].items() if name[:2] in ("g/", "d/")})
        for line in lines
        if line["kind"] == "step"
    ]


def _weights(folder: Path, step: int) -> dict[str, Any]:
    return gloo_runs.weights(gloo_runs.Run(folder), step)


def test_a_run_whose_machine_is_lost_resumes_from_the_newest_whole_checkpoint_of_the_bucket(
    config: TrainConfig, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 8 steps while uploads of the last checkpoint fail; then the disk is lost."""
    _work(config, monkeypatch)
    alone = config.folder
    config = dataclasses.replace(config, output=bucket.uri("run"))
    cut = bucket.proxy.fail("cut_upload", r"PUT /\S+/step-00000008/weights.pt", times=_EVER)
    with pytest.raises(StoreError, match=r"cannot write s3://.*step-00000008/weights\.pt"):
        _work(config, monkeypatch, stop_after=STOPPED)
    assert cut.struck
    there = set(bucket.objects("run/checkpoints/"))
    assert {"step-00000003/MANIFEST.json", "step-00000006/MANIFEST.json"} <= there
    assert "step-00000008/training.pt" in there, "a part of it is uploaded"
    assert "step-00000008/MANIFEST.json" not in there
    bucket.proxy.heal()
    shutil.rmtree(config.folder)

    coordinator = _work(config, monkeypatch)
    assert "resuming from step 6" in coordinator.said
    back = bucket.download("run", tmp_path / "back")
    assert _weights(back, LAST).keys() == _weights(alone, LAST).keys()
    for name, value in _weights(alone, LAST).items():
        other = _weights(back, LAST)[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    assert _logged(back) == _logged(alone), "every step is logged once"
    best = (alone / "best").readlink().as_posix()
    assert (back / "best").read_text() == best
    kept = {path.name for path in (alone / "checkpoints").iterdir() if path.is_dir()}
    assert {path.name for path in (back / "checkpoints").iterdir() if path.is_dir()} == kept
    loaded = checkpoint.load(bucket.uri("run"))
    assert all(
        torch.equal(value, loaded.state_dict()[name])
        for name, value in checkpoint.load(alone / "best").state_dict().items()
    )


def test_checkpoints_whose_upload_failed_are_uploaded_later(
    config: TrainConfig, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training continues meanwhile, and a damaged object is not used as a checkpoint."""
    config = dataclasses.replace(
        config, output=bucket.uri("run"), fit=dataclasses.replace(config.fit, epochs=1)
    )
    away = bucket.proxy.fail("refuse", r"PUT /\S+/checkpoints/step-00000003/", times=2)
    coordinator = _work(config, monkeypatch)
    assert away.struck == 2
    (line,) = [text for text in coordinator.said if "upload failed, retrying" in text]
    assert "step-00000003" in line
    there = bucket.objects("run/checkpoints/")
    whole = {name for name in there if name.endswith("MANIFEST.json")}
    assert whole == {"step-00000006/MANIFEST.json", "step-00000008/MANIFEST.json"}
    shutil.rmtree(config.folder)
    bucket.put("run/checkpoints/step-00000008/weights.pt", there["step-00000008/weights.pt"][:-1])
    coordinator = _work(config, monkeypatch)
    assert "resuming from step 6" in coordinator.said
    assert any("step-00000008" in text and "damaged" in text for text in coordinator.said)
    now = bucket.objects("run/checkpoints/step-00000008/")
    assert len(now["weights.pt"]) == len(there["step-00000008/weights.pt"]), (
        "it was written and uploaded again"
    )


def test_a_run_in_a_bucket_needs_a_tracking_uri(
    config: TrainConfig, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = dataclasses.replace(config, output=bucket.uri("run"), tracking=TrackingConfig())
    outcome = train(config)
    assert outcome.code == Exit.USAGE
    assert "MLFLOW_TRACKING_URI" in outcome.message
    assert set(bucket.objects()) == {"run/result.json"}


def test_every_node_gets_the_initial_checkpoint_and_its_own_rejects(bucket: Bucket, tmp_path: Path) -> None:
    """A worker downloads and uploads its own rejects only, though it may have old ones of other ranks."""
    first = CheckpointSync(bucket.uri("run"), tmp_path / "first", rank=0)
    save_generator(tmp_path / "first/init")
    first.push_init()
    for rank, sync in enumerate((first, CheckpointSync(bucket.uri("run"), tmp_path / "second", rank=1))):
        sync.pull()
        folder = tmp_path / ("first", "second")[rank]
        (folder / f"rejects-{rank}.jsonl").write_text("{}\n")
        sync.try_push_rejects()
        checkpoint.load(folder / "init")
    first.push()
    there = bucket.objects("run/")
    assert {"rejects-0.jsonl", "rejects-1.jsonl", "init/MANIFEST.json"} <= set(there)
    shutil.rmtree(tmp_path / "second")
    CheckpointSync(bucket.uri("run"), tmp_path / "second", rank=1).pull()
    assert {path.name for path in (tmp_path / "second").iterdir()} >= {"init", "rejects-1.jsonl"}
    assert not (tmp_path / "second/rejects-0.jsonl").exists()


def test_the_folder_of_a_node_is_closed_to_other_users(tmp_path: Path) -> None:
    make_folder(tmp_path / "apollo" / "run")
    assert (tmp_path / "apollo").stat().st_mode & 0o777 == 0o700


def test_settings_that_may_change_on_resume_leave_the_folder_of_a_node(config: TrainConfig) -> None:
    """Two runs on one output have one folder, and so one lock."""
    config = dataclasses.replace(config, output="s3://bucket/run")
    changed = dataclasses.replace(
        config,
        shards="/moved/shards",
        gan=dataclasses.replace(config.gan, micro_batch=2, recompute="hidden", max_skipped_steps=1),
        fit=dataclasses.replace(config.fit, epochs=9, checkpoint_steps=7),
        loader=dataclasses.replace(config.loader, look_ahead=3, decode_threads=1, fetch_threads=1),
    )
    assert changed.folder == config.folder
    assert dataclasses.replace(config, output="s3://bucket/run2").folder != config.folder


def _save_checkpoint(folder: Path, name: str, *, seed: int = 0) -> bytes:
    """Write a checkpoint with the files of a training's; return its manifest."""
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(dim=8, layers=1, heads=2))
    checkpoint.save(generator, folder / "checkpoints" / name, training_state={"seed": seed})
    return (folder / "checkpoints" / name / "MANIFEST.json").read_bytes()


def _uploaded(bucket: Bucket) -> set[str]:
    return {
        name.partition("/")[0]
        for name in bucket.objects("run/checkpoints/")
        if name.endswith("MANIFEST.json")
    }


def test_checkpoints_of_the_same_run_are_uploaded_by_the_next_and_those_of_a_deleted_run_are_not(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.put("run/fingerprint.json", b"first")
    local = tmp_path / "run"
    sync = CheckpointSync(bucket.uri("run"), local)
    sync.pull_initial()
    (local / ".lock").touch()
    _save_checkpoint(local, "step-00000003")  # the run is killed before its upload
    sync = CheckpointSync(bucket.uri("run"), local)
    for resume in (sync.pull_initial, sync.bind_to_run, sync.push_newer, sync.pull):
        resume()
    assert _uploaded(bucket) == {"step-00000003"}
    CheckpointSync(bucket.uri("run"), tmp_path / "another node/run").bind_to_run()
    assert not caplog.records

    for name in bucket.objects("run/"):
        bucket.delete(f"run/{name}")
    for begin in ("no run", "another run"):
        if begin == "another run":
            _save_checkpoint(local, "step-00000003")
            bucket.put("run/fingerprint.json", b"second")
        sync.pull_initial()
        assert {path.name for path in local.iterdir()} <= {".lock", ".sync.lock", "fingerprint.json"}
        assert "is of a run that s3://" in caplog.text
        caplog.clear()


def test_a_driver_resumes_with_other_settings_in_the_same_folder_and_starts_anew_in_an_empty_one(
    config: TrainConfig, bucket: Bucket, tmp_path: Path
) -> None:
    """What the driver does before its workers start."""
    shard_outputs.write(tmp_path / "shards", 2)
    shard_outputs.write(tmp_path / "shards", 1, split="valid")
    config = dataclasses.replace(config, output=bucket.uri("run"))
    checkpoints = config.folder / "checkpoints"
    make_folder(config.folder)
    for micro_batch in (1, 2):
        config = dataclasses.replace(config, gan=dataclasses.replace(config.gan, micro_batch=micro_batch))
        with lock_output(Folder(str(config.folder))):
            assert resolve(config).finished is None
        if micro_batch == 1:
            _save_checkpoint(config.folder, "step-00000003")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000003"]
    bucket.delete("run/fingerprint.json")
    assert resolve(config).finished is None
    assert not checkpoints.exists()
    assert (config.folder / "fingerprint.json").read_bytes() == bucket.objects("run/")["fingerprint.json"]


def test_an_intact_checkpoint_stays_while_the_store_has_none_to_take_its_place(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store's is another version of it, and damaged; rank 0 uploads its own."""
    sync, name = CheckpointSync(bucket.uri("run"), tmp_path / "first"), "step-00000003"
    _save_checkpoint(tmp_path / "first", name, seed=1)
    sync.push()
    weights = f"run/checkpoints/{name}/weights.pt"
    bucket.put(weights, bucket.objects(weights)[""][:-1])
    sync = CheckpointSync(bucket.uri("run"), tmp_path / "second")
    kept = _save_checkpoint(tmp_path / "second", name, seed=2)
    sync.pull()
    assert "damaged" in caplog.text
    assert (tmp_path / "second/checkpoints" / name / "MANIFEST.json").read_bytes() == kept
    checkpoint.verify(tmp_path / "second/checkpoints" / name, ("weights.pt", "training.pt"))
    sync.push_intact()
    CheckpointSync(bucket.uri("run"), tmp_path / "third").pull()
    assert (tmp_path / "third/checkpoints" / name / "MANIFEST.json").read_bytes() == kept


def test_nothing_is_deleted_before_what_replaces_it_is_downloaded(bucket: Bucket, tmp_path: Path) -> None:
    sync = CheckpointSync(bucket.uri("run"), tmp_path / "first")
    _save_checkpoint(tmp_path / "first", "step-00000006")
    sync.push()
    _save_checkpoint(tmp_path / "second", "step-00000003")
    cut = bucket.proxy.fail("refuse", r"GET /\S+/step-00000006/weights.pt", times=_EVER)
    second = CheckpointSync(bucket.uri("run"), tmp_path / "second")
    with pytest.raises(StoreError):
        second.pull()
    assert cut.struck
    assert (tmp_path / "second/checkpoints/step-00000003/MANIFEST.json").exists()
    bucket.proxy.heal()
    second.pull()
    assert [path.name for path in (tmp_path / "second/checkpoints").iterdir()] == ["step-00000006"]


class _SlowStore:
    """Stands for a CheckpointSync whose uploads last until they are released."""

    def __init__(self) -> None:
        self.begun, self.released = list[str](), threading.Event()

    def read_tracking(self) -> dict[str, bytes]:
        return {}

    def try_push(self, tracking: dict[str, bytes]) -> None:
        self.begun.append("checkpoint")
        assert self.released.wait(30)

    def try_push_rejects(self) -> None:
        self.begun.append("rejects")

    def push(self) -> None:
        self.begun.append("rest")


def _callbacks(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, sync: Any = None
) -> callbacks.RayCallbacks:
    monkeypatch.setattr(callbacks, "Tracker", lambda _: None)
    config.folder.mkdir(parents=True, exist_ok=True)
    context = DistributedContext(torch.device("cpu"))
    return callbacks.RayCallbacks(config, Any, _FakeCoordinator(None), context, sync)  # type: ignore[arg-type]


def test_training_is_at_most_one_checkpoint_ahead_of_the_store_and_ends_level_with_it(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = _SlowStore()
    called = _callbacks(config, monkeypatch, store)
    called.on_checkpoint_saved(3, tmp_path)  # returns while it is uploaded
    called.log_reject(Reject("shard row 1", "damaged", "undecodable"))
    second = threading.Thread(target=called.on_checkpoint_saved, args=(6, tmp_path))
    second.start()
    second.join(0.3)
    assert second.is_alive() and store.begun == ["checkpoint"]
    store.released.set()
    second.join(30)
    called.finish()
    assert store.begun == ["checkpoint", "checkpoint", "rejects", "rest"]
    called.close()


def test_without_listening_examples_no_review_is_started(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a review")

    monkeypatch.setattr(callbacks, "BackgroundTask", start)
    called = _callbacks(dataclasses.replace(config, listening_examples=0), monkeypatch)
    called.on_validation_end(3, {"valid/stft": 1.0}, [])
    assert called.collect_async_scores(wait=True) == {}


def test_what_training_does_during_an_upload_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoint 3 is deleted, and 6 is written and becomes the best."""
    local, store = tmp_path / "local", tmp_path / "store"
    sync, put = CheckpointSync(str(store), local), Folder.put
    _save_checkpoint(local, "step-00000003")

    def interfere(folder: Folder, name: str, path: str) -> None:
        monkeypatch.setattr(Folder, "put", put)
        _save_checkpoint(local, "step-00000006")
        (local / "best").symlink_to("checkpoints/step-00000006")
        shutil.rmtree(local / "checkpoints/step-00000003")
        put(folder, name, path)

    monkeypatch.setattr(Folder, "put", interfere)
    sync.push()
    assert not (store / "best").exists(), "it would name what is not uploaded"
    sync.push()
    assert (store / "best").read_text() == "checkpoints/step-00000006"
    assert [path.parent.name for path in store.glob("checkpoints/*/MANIFEST.json")] == ["step-00000006"]
