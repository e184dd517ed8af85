"""Private APIs of Ray: an upgrade that moves or changes one fails here, not on a cluster."""

import os

import pytest

from pipelines.cluster import ray_internals
from pipelines.cluster.gloo import GlooConfig, find_interface


def test_a_cluster_is_found_by_its_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    assert ray_internals.find_cluster() is not None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_internals.find_cluster() is None


def test_a_cluster_that_this_process_started_is_not_external(ray_address: str) -> None:
    assert not ray_internals.is_external_cluster()


def test_resources_of_an_autoscaler_are_empty_without_one(ray_address: str) -> None:
    assert ray_internals.max_autoscaled_resources() == {}


def test_loopback_is_used_inside_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    with ray_internals.on_loopback():
        assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
        assert os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert ray_constants.ENABLE_RAY_CLUSTER is True


def test_the_backend_of_gloo_is_ray_trains_with_a_hook_before_it() -> None:
    backend = GlooConfig().backend_cls()
    assert isinstance(backend, ray_internals.torch_backend())
    executed: list[object] = []

    class Group:
        def execute(self, function: object) -> None:
            executed.append(function)
            raise InterruptedError  # before anything is connected

    with pytest.raises(InterruptedError):
        backend.on_start(Group(), GlooConfig())
    assert [getattr(one, "__name__", "") for one in executed] == ["set_gloo_interface"]


@pytest.mark.parametrize("address, found", [("127.0.0.1", True), ("203.0.113.77", False)])
def test_an_interface_is_found_by_its_address(address: str, found: bool) -> None:
    name = find_interface(address)
    assert (name is not None) is found
    if found:
        assert name in ("lo", "lo0")


def test_35_output_of_workers_and_messages_of_ray_go_to_the_handler_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import ray_logging, worker

    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names  # what Ray calls
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # undone at the end
    dispatcher = ray_logging.WorkerStandardStreamDispatcher()
    monkeypatch.setattr(ray_logging, "global_worker_stdstream_dispatcher", dispatcher)
    printed: list[object] = []
    handled: list[object] = []
    dispatcher.add_handler("ray_print_logs", printed.append)
    ray_internals.handle_worker_output(handled.append)
    dispatcher.emit({"lines": ["x"]})
    message = {"lines": ["A worker died"], "pid": "raylet", "is_err": False}
    worker.print_to_stdstream(message, ignore_prefix=False)
    assert (printed, handled) == ([], [{"lines": ["x"]}, message])
    assert capsys.readouterr().out == ""
