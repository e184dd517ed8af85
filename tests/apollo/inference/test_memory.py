"""Free memory by the system and by control groups, and chunks that fit in it."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apollo.inference import chunks
from apollo.inference.chunks import ChunkLength, restore_chunks
from apollo.inference.memory import free_memory_bytes, free_system_memory_bytes, is_out_of_memory
from apollo.inference.streaming import StreamRestorer, StreamState
from apollo.model import generator as generator_module
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator

HOP = 441
MIB = 1 << 20
MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8192 kB\n"}


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "files, free",
    [
        ({}, None),
        (MEMINFO, 8 * MIB),
        (
            {  # version 2, a limit of the group above; its file cache is free
                **MEMINFO,
                "proc/self/cgroup": "0::/app/worker\n",
                "sys/fs/cgroup/app/worker/memory.max": "max\n",
                "sys/fs/cgroup/app/worker/memory.current": "1000\n",
                "sys/fs/cgroup/app/memory.max": str(4 * MIB),
                "sys/fs/cgroup/app/memory.current": str(3 * MIB),
                "sys/fs/cgroup/app/memory.stat": f"anon 5\ninactive_file {MIB}\n",
            },
            2 * MIB,
        ),
        (
            {  # version 1 in a container, which sees its own group at the mount
                **MEMINFO,
                "proc/self/cgroup": "5:cpuset:/x\n4:cpu,memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(5 * MIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(6 * MIB),
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            },
            0,
        ),
        (
            {
                **MEMINFO,
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            },
            8 * MIB,
        ),
        ({"proc/self/cgroup": "not a group\n"}, None),
    ],
)
def test_free_memory_is_the_least_of_the_system_and_its_groups(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    assert free_system_memory_bytes(tree(tmp_path, files)) == free


def test_this_machine_has_free_memory() -> None:
    free = free_memory_bytes(torch.device("cpu"))
    assert free is None or MIB < free < 1 << 50


def test_a_gpu_has_what_is_free_and_what_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("mem_get_info", (700, 1000)), ("memory_reserved", 50), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory_bytes(torch.device("cuda:0")) == 730


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def small_generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(dim=16, layers=1))
    for group in generator.trunk.merge.groups:
        nn.init.normal_(group.weight, std=0.2)
    return generator.eval()


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """A generator that computes 10 frames of stereo at a time."""
    monkeypatch.setattr(generator_module, "CPU_CHUNK_ACTIVATIONS", 10 * 2 * 80 * 16)
    monkeypatch.setattr(chunks, "free_memory_bytes", lambda device: None)
    return small_generator()


def song(frames: int = 137) -> Tensor:
    return 0.1 * torch.randn(2, frames * HOP + 17, generator=torch.Generator().manual_seed(1))


def restore(generator: Generator, samples: Tensor, length: ChunkLength, block: int = 5_000) -> Tensor:
    pairs = list(restore_chunks(StreamRestorer(generator), samples.split(block, 1), 2, length))
    assert torch.equal(torch.cat([degraded for degraded, _ in pairs], 1), samples)
    return torch.cat([restored for _, restored in pairs], 1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_chunks_of_a_cpu_give_the_bytes_of_the_whole_whatever_their_length(
    generator: Generator, precision: torch.dtype
) -> None:
    generator = generator.with_precision(precision)
    with torch.inference_mode():
        whole = generator(song())
    for seconds, block in ((None, 5_000), (0.01, 441), (0.25, 44_100), (9.0, 1_000)):
        assert torch.equal(restore(generator, song(), ChunkLength(generator, seconds), block), whole)


@pytest.mark.parametrize(
    "free, frames",
    [(None, 100), (1 << 40, 100), (6 * MIB, 70), (4 * MIB, 40), (1 * MIB, 10), (MIB // 4, 8), (0, 8)],
)
def test_little_free_memory_shortens_chunks_of_a_cpu(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, free: int | None, frames: int
) -> None:
    monkeypatch.setattr(chunks, "free_memory_bytes", lambda device: free)
    found = ChunkLength(generator).frames(2)
    assert found % 10 == 0 or found == 8
    assert found <= frames
    assert ChunkLength(generator, 2.0).frames(2) == 200  # --batch takes no account of memory


def test_a_gpu_takes_the_first_of_a_fixed_series_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        generator = Generator()
    monkeypatch.setattr(Generator, "frames_at_a_time", lambda self, rows, device: None)
    found = []
    for free in (80 << 30, 8 << 30, 4 << 30, 1 << 30, 0):
        monkeypatch.setattr(chunks, "free_memory_bytes", lambda device, free=free: free)
        found.append(ChunkLength(generator).frames(2))
    assert found == [500, 500, 250, 62, 8]


def fail_above(
    monkeypatch: pytest.MonkeyPatch, limit: int, error: Callable[[], Exception], after: int = 0
) -> list[int]:
    """Have chunks of more than `limit` frames fail, once `after` samples were received."""
    push, pushed = StreamRestorer.push, []

    def push_or_fail(self: StreamRestorer, state: StreamState, samples: Tensor) -> object:
        if state.received >= after and samples.shape[1] > limit * HOP:
            raise error()
        pushed.append(samples.shape[1] // HOP)
        return push(self, state, samples)

    monkeypatch.setattr(StreamRestorer, "push", push_or_fail)
    return pushed


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError,
    ],
)
def test_a_chunk_that_does_not_fit_is_halved_and_the_song_goes_on(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    with torch.inference_mode():
        whole = generator(song())
    length = ChunkLength(generator, 0.8)
    pushed = fail_above(monkeypatch, 20, error, after=100)
    assert torch.equal(restore(generator, song(), length), whole)
    assert pushed == [80, 20, 20, 17]
    assert restore(generator, song(), length).equal(whole)  # the next song begins with what fits
    assert pushed[4:] == [20] * 6 + [17]


def test_below_what_is_computed_at_a_time_chunks_agree_to_rounding(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        whole = generator(song())
    fail_above(monkeypatch, 8, MemoryError)
    found = restore(generator, song(), ChunkLength(generator))
    assert (found - whole).abs().max() <= 1e-5 * whole.square().mean().sqrt()


def test_errors_end_the_song_where_halving_does_not_help(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 7, MemoryError)
    with pytest.raises(MemoryError):
        restore(generator, song(), ChunkLength(generator))
    monkeypatch.undo()
    fail_above(monkeypatch, 0, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        restore(small_generator(), song(), ChunkLength(small_generator()))
