"""Parts for `benchmarks.gpu.run_part` that record something, and then hang or die."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any


def hang(options: argparse.Namespace, record: Callable[[dict[str, Any]], None]) -> None:
    record({"rows": 1})
    time.sleep(300)


def die(options: argparse.Namespace, record: Callable[[dict[str, Any]], None]) -> None:
    record({"rows": 1})
    os._exit(7)
