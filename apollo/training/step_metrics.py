"""Step metrics: means over steps, throughput, memory, remaining time."""

import math
import time
from collections.abc import Mapping

import torch

from apollo.model.device import peak_memory_bytes
from apollo.training.gan import Gan
from apollo.training.step_statistics import SKIPPED
from apollo.training.validation import DEGRADED_SUFFIX, LSD, SI_SNR, STFT_LOSS, VISQOL

_LINE_SECONDS = 30.0


class MetricTracker:
    """Means of step metrics between log entries, with throughput."""

    def __init__(self, gan: Gan, last_step: int) -> None:
        self.gan, self.last_step = gan, last_step
        self._reset()
        self._last_line_time = -math.inf

    def _reset(self) -> None:
        self.sums: dict[str, list[float]] = {}
        self._data_seconds = self._compute_seconds = 0.0
        self._steps = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a step."""
        for name, value in metrics.items():
            if name != SKIPPED:
                self.sums.setdefault(name, []).append(value)

    def add_seconds(self, data: float, compute: float) -> None:
        """Add the seconds of a step: waiting for data, and computing."""
        self._data_seconds += data
        self._compute_seconds += compute
        self._steps += 1

    def flush(self, skipped_share: float) -> dict[str, float]:
        """Return the means since the last call, and reset."""
        means = {name: math.fsum(values) / len(values) for name, values in self.sums.items()}
        seconds = (self._data_seconds + self._compute_seconds) / max(self._steps, 1)
        means |= {
            "time/data": self._data_seconds / max(self._steps, 1),
            "time/step": seconds,
            "rate/examples_per_second": self.gan.config.batch_size / max(seconds, 1e-9),
            "rate/data_wait_share": self._data_seconds
            / max(self._data_seconds + self._compute_seconds, 1e-9),
            "rate/skipped_share": skipped_share,
            "learning_rate/generator": self.gan.generator_optimizer.param_groups[0]["lr"],
            "memory/process_peak_mib": peak_memory_bytes(torch.device("cpu")) / 2**20,
        }
        for group in self.gan.generator_optimizer.param_groups:
            if group.get("orthogonal"):
                means["learning_rate/muon"] = group["lr"]
        if self.gan.has_discriminator:
            means["learning_rate/discriminator"] = self.gan.discriminator_optimizer.param_groups[0]["lr"]
        if self.gan.context.device.type == "cuda":
            means["memory/gpu_peak_mib"] = peak_memory_bytes(self.gan.context.device) / 2**20
        self._reset()
        return means

    def progress_line(self, step: int, metrics: Mapping[str, float]) -> str:
        """Return a progress line, or an empty string within 30 s of the last one."""
        now = time.monotonic()
        if now - self._last_line_time < _LINE_SECONDS and step < self.last_step:
            return ""
        self._last_line_time = now
        left = (self.last_step - step) * metrics["time/step"]
        shown = [
            name
            for name in ("g/stft", "g/envelope", "g/error", "g/magnitude", "g/phase", "d/real", "d/fake")
            if name in metrics
        ]
        parts = [f"{name} {metrics[name]:.3f}" for name in shown]
        parts.append(f"{metrics['rate/examples_per_second']:.2f} examples/s")
        parts.append(f"{metrics['rate/data_wait_share']:.0%} waiting for data")
        return f"step {step} of {self.last_step}: {', '.join(parts)}, about {_duration(left)} left"


def format_scores(scores: Mapping[str, float]) -> str:
    """Format validation scores, each with the degraded input's."""
    parts = []
    for name, unit in ((STFT_LOSS, ""), (SI_SNR, " dB"), (LSD, " dB"), (VISQOL, "")):
        if name in scores:
            before = scores.get(name + DEGRADED_SUFFIX, math.nan)
            parts.append(f"{name} {scores[name]:.3f}{unit} (input {before:.3f})")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
