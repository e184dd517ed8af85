"""Generators in ONNX files, run by ONNX Runtime on a CPU, in the place of torch's.

Shape legend: samples [rows, samples], float32; rows are channels.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from apollo.checkpoints.container import CheckpointError
from apollo.inference.streaming import BaseStreamRestorer, StreamRestorer, StreamState
from apollo.model.config import GeneratorConfig
from apollo.model.generator import CPU_CHUNK_ACTIVATIONS, Generator
from apollo.model.noise import NoiseOptions, white_noise
from apollo.onnx.export import NOT_INSTALLED, PRODUCER, STREAMING


class OnnxGenerator:
    """A generator in the form `streaming` (`apollo.onnx.generator_graph`).

    Args:
        content: Of the file.
        name: Of the file, for messages.

    Raises:
        CheckpointError: onnxruntime is not installed, or the content is no such generator.
    """

    def __init__(self, content: bytes, name: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise CheckpointError(NOT_INSTALLED.format("onnxruntime")) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors: they are raised too
        try:
            self._session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base class of their own
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{name} is no ONNX file, or is damaged: {reason}") from error
        self.content, self.config = content, self._read_config(name)
        with torch.device("meta"):  # for its properties, without weights
            self._network = Generator(self.config)
        self.trunk = self._network.trunk
        self.state_size = self._read_state_size(name)
        self._names = {one.name for one in self._session.get_inputs()}

    @property
    def device(self) -> torch.device:
        """Where samples are taken and returned."""
        return torch.device("cpu")

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that it depends on."""
        return self._network.lookahead_frames

    def frames_at_a_time(self, rows: int, device: torch.device) -> int:
        """Return how many frames are computed at a time, so that they stay in a CPU's cache."""
        num_values = self.trunk.features_per_frame
        if self.config.trunk == "band_sequence":  # scores of attention, which torch never holds as a whole
            num_values = max(num_values, self.config.heads * len(self.config.band_widths) ** 2)
        return max(CPU_CHUNK_ACTIVATIONS // (rows * num_values), 1)

    def run(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Restore the next hops of samples; inputs, restored samples and next state as in the file."""
        feed = {name: value.numpy() for name, value in inputs.items() if name in self._names}
        try:
            restored, state = self._session.run(["restored", "next_state"], feed)
        except Exception as error:  # as above
            reason = str(error).partition("\n")[0]
            raise (MemoryError if "allocate memory" in reason else RuntimeError)(reason) from error
        return torch.from_numpy(restored), torch.from_numpy(state)

    def _read_config(self, name: str) -> GeneratorConfig:
        """Return the configuration that the metadata has.

        Raises:
            CheckpointError: the file is of another program, of the other form, or damaged.
        """
        meta = self._session.get_modelmeta()
        facts = meta.custom_metadata_map
        if meta.producer_name != PRODUCER or "form" not in facts:
            raise CheckpointError(
                f"{name} was not written by `apollo export`: its producer is {meta.producer_name!r}"
            )
        if facts["form"] != STREAMING:
            raise CheckpointError(
                f"{name} takes a whole signal in one call, restoring songs needs the streaming form: "
                "export it without --whole"
            )
        try:
            return GeneratorConfig.from_dict(json.loads(facts["config"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} is damaged: its metadata `config`: {error}") from error

    def _read_state_size(self, name: str) -> int:
        """Return the numbers of a row's state, after a check of the inputs."""
        shapes = {one.name: one.shape for one in self._session.get_inputs()}
        expected = {"samples", "valid", "state"}
        if self.config.output == "mask_and_noise":
            expected |= {"noise", "strength"}
        size = shapes.get("state", [None])[-1]
        if set(shapes) != expected or not isinstance(size, int):
            raise CheckpointError(f"{name} is damaged: its inputs {shapes} do not fit its metadata")
        return size


def load_onnx(path: str | os.PathLike[str]) -> OnnxGenerator:
    """Load a file that `export_onnx` wrote in the form `streaming`.

    Raises:
        CheckpointError: onnxruntime is not installed, or the file cannot be read or is no such generator.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    return OnnxGenerator(content, str(path))


def make_restorer(
    generator: Generator | OnnxGenerator, noise: NoiseOptions, *, keep_below_hz: float | None = None
) -> BaseStreamRestorer:
    """Return what restores streams with a generator; arguments as for `StreamRestorer`."""
    if isinstance(generator, OnnxGenerator):
        return OnnxStreamRestorer(generator, noise, keep_below_hz=keep_below_hz)
    return StreamRestorer(generator, noise, keep_below_hz=keep_below_hz)


@dataclass(frozen=True, kw_only=True)
class OnnxStreamState(StreamState):
    """State of a stream between calls.

    Args:
        network: State of the network.
        hops: Hops that the network was given, from the one before the first sample on.
    """

    network: Tensor
    hops: int = 0


class OnnxStreamRestorer(BaseStreamRestorer):
    """Restores streams with a generator in an ONNX file; arguments as for its base class."""

    generator: OnnxGenerator

    def start(self, batch: int) -> OnnxStreamState:
        """Return the initial state of `batch` rows."""
        none = torch.empty(batch, 0)
        crossover = None if self._crossover is None else self._crossover.start(none)
        network = torch.zeros(batch, self.generator.state_size)
        return OnnxStreamState(none, False, None, none[..., None], 0, 0, crossover, network=network)

    def _restore(self, state: StreamState, samples: Tensor, final: bool) -> tuple[Tensor, StreamState]:
        assert isinstance(state, OnnxStreamState)  # noqa: S101 - `start` returns one
        lookahead, hop = self.generator.lookahead_frames, self._hop
        new = samples if not state.hops else samples[:, hop:]
        hops = new.shape[1] // hop
        valid = torch.ones(hops + (lookahead if final else 0))
        if not state.hops:
            valid[0] = 0.0  # completes the frame before the first one
        if final:
            valid[hops:] = 0.0
            new = torch.nn.functional.pad(new, (0, lookahead * hop))
        at_a_time = self.generator.frames_at_a_time(len(samples), self.generator.device)
        parts = []
        for begin in range(0, len(valid), at_a_time):
            some = valid[begin : begin + at_a_time]
            part, state = self._run(state, new[:, begin * hop : (begin + len(some)) * hop], some)
            parts.append(part)
        return torch.cat(parts, 1), state

    def _run(self, state: OnnxStreamState, samples: Tensor, valid: Tensor) -> tuple[Tensor, OnnxStreamState]:
        """Restore hops of samples; those that come before the first sample are left out."""
        lookahead, strength = self.generator.lookahead_frames, self.noise.strength
        first, length = (state.hops - 1 - lookahead) * self._hop, samples.shape[1]
        noise = torch.zeros(2, length)  # the second is that of left and right alone
        for channel in range(2 if self.noise.channels == 2 else 1):
            noise[channel] = white_noise(self.noise.seed, channel, first, length)
        inputs = {
            "samples": samples.reshape(-1, self.noise.channels, length),
            "valid": valid,
            "noise": noise,
            "strength": torch.tensor(
                [self.generator.config.noise_strength if strength is None else strength]
            ),
            "state": state.network,
        }
        restored, network = self.generator.run(inputs)
        restored = restored.reshape(len(samples), -1)
        early = max((lookahead + 2 - state.hops) * self._hop, 0)
        return restored[:, early:], replace(state, network=network, hops=state.hops + len(valid))
