"""Check, measure and train on a machine with a GPU, torch and no network, in one call: docs/gpu.md.

python -m benchmarks.gpu --songs songs --golden golden --output output

Parts, one after the other: the published vectors in float32, forward passes, GAN steps, training of the
compact preset on the songs that `benchmarks.pack_songs` packed. Each runs in a process of its own for a
limited time, and OUTPUT/result.json has at any time what was found. A part that fails or is out of time does
not stop the next.
Exit codes: 0 all parts ended and the vectors agree, 1 not so, 2 usage.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from apollo.checkpoints.io import atomic_write
from apollo.model.config import PRESETS
from benchmarks.gpu_parts import PARTS, Record

_LIMIT_SECONDS = {"golden": 45.0, "forward": 50.0, "step": 60.0}
_ENDING_SECONDS = 5.0  # of a process that has nothing left to do
_GRACE_SECONDS = 20.0  # of training, to write its last checkpoint


class _Result:
    """OUTPUT/result.json, rewritten whenever something is recorded."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    def record(self, part: str, values: Mapping[str, Any]) -> None:
        """Set values of a part."""
        self._content.setdefault(part, {}).update(values)
        with atomic_write(self._path) as scratch:
            scratch.write_text(json.dumps(self._content, indent=1))

    def succeeded(self) -> bool:
        """Return whether all parts ended and the vectors agree."""
        parts = [part for part in self._content.values() if isinstance(part, dict) and "status" in part]
        return all(part["status"] == "done" and part.get("agrees", True) for part in parts)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.output / "result.json").exists():
        parser.error(f"{options.output} has results of another call")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.limit_minutes
    settings = {name: str(value) for name, value in vars(options).items()}
    result = _Result(options.output / "result.json", {"settings": settings})
    result.record("machine", _describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        for name in options.parts:
            left = end - time.monotonic()
            limit = _LIMIT_SECONDS.get(name, left)
            if name == "train":
                options.train_minutes = min(options.train_minutes, (left - _GRACE_SECONDS) / 60)
            logging.info("%s: at most %.0f s", name, min(limit, left))
            result.record(name, run_part(PARTS[name], options, min(limit, left), _recorder(result, name)))
    logging.info("%s", options.output / "result.json")
    return 0 if result.succeeded() else 1


def _parser() -> argparse.ArgumentParser:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--songs", type=Path, required=True, help="folder of benchmarks.pack_songs")
    parser.add_argument("--golden", type=Path, required=True, help="folder of generator_*.npz")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit-minutes", type=float, default=9.0, help="of everything (%(default)s)")
    parser.add_argument("--preset", choices=PRESETS, default="released", help="to measure (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of audio to measure with (%(default)s)")
    parser.add_argument("--forward-batches", type=int, nargs="+", default=[1, 8, 32], help="(1 8 32)")
    parser.add_argument("--step-batches", type=int, nargs="+", default=[1, 2, 4], help="(1 2 4)")
    parser.add_argument("--train-minutes", type=float, default=6.0, help="(%(default)s)")
    parser.add_argument("--max-steps", type=int, default=0, help="of training; 0: as the time allows")
    parser.add_argument("--init", help="checkpoint to train on from: compact, which needs safetensors")
    parser.add_argument("--workers", type=int, default=max(cores - 1, 0), help="that make MP3s (%(default)s)")
    parser.add_argument("--validation-examples", type=int, default=48, help="(%(default)s)")
    return parser


def _recorder(result: _Result, part: str) -> Record:
    return lambda values: result.record(part, values)


def run_part(
    work: Callable[[argparse.Namespace, Record], None],
    options: argparse.Namespace,
    limit_seconds: float,
    record: Record,
) -> dict[str, Any]:
    """Run a part in a new process, pass on what it records, and return how it ended.

    Args:
        work: Function of a module.
        options: Its first argument.
        limit_seconds: After these the process is ended.
        record: Called with what the part records.

    Returns:
        `status` (`done`, `failed`, `out of time`), `seconds`, and `error` of one that failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, options, sender))
    began, ending = time.monotonic(), {"status": "out of time"}
    process.start()
    sender.close()
    try:
        while receiver.poll(max(began + limit_seconds - time.monotonic(), 0)):
            kind, values = receiver.recv()
            if kind == "end":
                ending = values
                process.join(_ENDING_SECONDS)
                break
            record(values)
    except EOFError:
        process.join()
        ending = {"status": "failed", "error": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.terminate()
        process.join(_ENDING_SECONDS)
        process.kill()
    return {**ending, "seconds": round(time.monotonic() - began, 1)}


def _work(
    work: Callable[[argparse.Namespace, Record], None], options: argparse.Namespace, sender: Connection
) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        work(options, lambda values: sender.send(("values", dict(values))))
        sender.send(("end", {"status": "done"}))
    except Exception:
        sender.send(("end", {"status": "failed", "error": traceback.format_exc()}))


def _describe_machine() -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_memory_gb": round(gpu.total_memory / 1e9, 1)}
    return found


if __name__ == "__main__":
    sys.exit(main())
