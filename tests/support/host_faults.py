"""A rack of hosts on this machine: preprocess and training across them, while cables come off and hosts die.

    python tests/support/host_faults.py FOLDER      # as root, on Linux; or: make hosts

Every host is a set of namespaces (tests/support/network_namespaces.py) with a Ray of its own that asks for a
token. The head computes nothing; it has the drivers. Results must be those of runs that nothing disturbed.
"""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import datasets, invariants, network_namespaces, training_jobs

ADDRESS = f"10.77.0.1:{network_namespaces.PORT}"
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    # a host that is not heard of for 5 s is given up; Ray's own limits would take most of a minute
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "OMP_NUM_THREADS": "1",  # two threads add up in another order than one, and bits are compared
}
TRAINING = (
    *("--fit.epochs", "3", "--workers.cpus", "2"),  # a worker a host
    *("--tracking.uri", "http://127.0.0.1:9", "--tracking.close_seconds", "1"),  # nobody is there
)
ALONE = (*TRAINING, "--workers.cpus", "1")  # one thread there, too, whatever the environment says
SHORT_SECONDS = 3.0  # a cable that comes back before its host is given up
Say = Callable[[str], None]


class Rack:
    """A head and workers, of which some are up.

    Args:
        machines: All hosts, by name.
        folder: Of logs.
        say: Told what happens.
    """

    def __init__(self, machines: dict[str, network_namespaces.Host], folder: Path, say: Say) -> None:
        self.machines, self.folder, self._say = machines, folder, say
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Tell what happens, and when."""
        self._say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def up(self, *names: str) -> None:
        """Switch hosts on and start Ray on them."""
        starting = {}
        for name in names:
            host = self.machines[name]
            host.boot()
            how = (
                ["--head", f"--port={network_namespaces.PORT}", "--num-cpus=0", "--include-dashboard=false"]
                if name == "head"
                else [f"--address={ADDRESS}", "--num-cpus=2", '--resources={"cpu_node": 1}']
            )
            how += ["--object-store-memory=200000000", "--disable-usage-stats"]
            starting[name] = host.start(["ray", "start", *how], self.log(name))
        for name, process in starting.items():
            assert process.wait(120) == 0, self.log(name).read_text()
            self.say(f"{name} ({self.machines[name].address}) is up")

    def log(self, name: str) -> Path:
        """Give where a host's, or a driver's, words go."""
        return self.folder / f"{name}.log"

    def drive(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        """Start a driver on the head."""
        self.say(f"{name} begins")
        return self.machines["head"].start(["python", *command], self.log(name), RAY_ADDRESS=ADDRESS)

    def wait(self, condition: Callable[[], bool], driver: str, seconds: float = 300.0) -> None:
        """Wait until something is true of a run."""
        try:
            network_namespaces.wait_until(condition, seconds, f"what {driver} was to do")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log(driver).read_text()}") from error

    def pull(self, name: str, seconds: float) -> None:
        """Pull a host's cable for some time."""
        self.say(f"{name}: the cable is pulled")
        self.machines[name].cut()
        time.sleep(seconds)
        self.machines[name].mend()
        self.say(f"{name}: the cable is back after {seconds:.0f} s")

    def kill(self, name: str) -> None:
        """Switch a host off."""
        self.machines[name].kill()
        self.say(f"{name} is dead")


@contextmanager
def rack(folder: Path, say: Say) -> Iterator[Rack]:
    """Set up a head and three workers, all off."""
    settings = SETTINGS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with network_namespaces.rack(folder / "hosts", ("head", "ash", "birch", "cedar"), **settings) as machines:
        yield Rack(machines, folder / "logs", say)


def preprocess(rack: Rack, data: Path, output: Path) -> None:
    """Render while one host's cable is pulled, another dies and a third joins."""
    options = datasets.arguments(data, output, "--actors", "4")
    driver = rack.drive("preprocess", "jobs/preprocess.py", *options)

    def shards() -> int:
        return len(list(output.glob("commits/*.json")))

    rack.wait(lambda: shards() >= 1, "preprocess")
    stranger = rack.machines["ash"].run(
        ["ray", "status", f"--address={ADDRESS}"], rack.log("stranger"), RAY_AUTH_TOKEN="0" * 64
    )
    assert stranger and "InvalidAuthToken" in rack.log("stranger").read_text()
    rack.say("who has another token is turned away")
    rack.pull("birch", SHORT_SECONDS)
    rack.wait(lambda: shards() >= 2, "preprocess")
    assert driver.poll() is None, "preprocess was over before a host died"
    rack.kill("ash")
    rack.up("cedar")
    assert driver.wait(240) == 0, rack.log("preprocess").read_text()
    rack.say(f"preprocess is done: {shards()} shards")


def train(rack: Rack, shards: Path, output: Path) -> None:
    """Train on two hosts while the cable of one is pulled, and one dies and another one joins."""
    options = training_jobs.training(shards, output, *TRAINING)
    driver = rack.drive("train", "jobs/train.py", *options)

    def steps() -> int:
        return training_jobs.steps(output)

    def said() -> str:
        return rack.log("train").read_text()

    rack.wait(lambda: steps() >= 4, "train")
    before = steps()
    rack.pull("birch", SHORT_SECONDS)
    rack.wait(lambda: steps() >= before + 3, "train")
    assert "resuming from step" not in said(), "such a pause is no failure"
    rack.say(f"training has gone on: step {steps()}")
    rack.kill("cedar")
    kept = max(int(path.parent.name[5:]) for path in output.glob("checkpoints/step-????????/MANIFEST.json"))
    rack.up("ash")
    rack.wait(lambda: "resuming from step" in said(), "train", 240)
    (resumed,) = re.findall(r"resuming from step (\d+)", said())
    assert int(resumed) >= kept > 0, said()
    rack.say(f"training goes on from its checkpoint of step {resumed}")
    assert driver.wait(240) == 0, said()
    rack.say("training is done")


def history_differs(output: Path, undisturbed: Path) -> str | None:
    """Say at which step a rank's numbers are not those of a run that nothing disturbed; to the last bit."""
    for rank in range(2):
        ours, theirs = (training_jobs.history(folder, rank) for folder in (output, undisturbed))
        for step in sorted(ours.keys() | theirs.keys()):
            if ours.get(step) != theirs.get(step):
                return f"step {step} of rank {rank}: {ours.get(step)} instead of {theirs.get(step)}"
    return None


@contextmanager
def local_ray() -> Iterator[str]:
    """Start Ray on this machine, with CPUs for two trainers whatever the machine has."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def main(folder: Path) -> None:
    """Do all of it, and tell."""
    if reason := network_namespaces.why_not():
        sys.exit(reason)
    data = datasets.write_musdb(folder / "data")
    shards, trained = folder / "undisturbed", folder / "trained"
    options = training_jobs.training(shards, trained, *ALONE)
    with local_ray() as address:
        for command in (
            ["jobs/preprocess.py", *datasets.arguments(data, shards)],
            ["jobs/train.py", *options],
        ):
            environment = os.environ | {"RAY_ADDRESS": address}
            subprocess.run(
                [sys.executable, *command], env=environment, cwd=network_namespaces.ROOT, check=True
            )
    with rack(folder, print) as machines:
        machines.up("head", "ash", "birch")
        preprocess(machines, data, folder / "shards")
        train(machines, shards, folder / "run")
    rejected = invariants.check(folder / "shards", shards)
    print(f"preprocess: the bytes of a run that nothing disturbed, {len(rejected)} rejects")
    assert training_jobs.steps(trained) == 24, "or nothing was compared"
    if differs := history_differs(folder / "run", trained):
        sys.exit(f"training: {differs}")
    print("training: the numbers of a run that nothing disturbed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
