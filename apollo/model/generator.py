"""The generator: from degraded samples to restored ones.

A trunk (`apollo.model.trunk`) predicts one complex number a bin, and for some outputs a real one, from which
the output is made (`apollo.model.outputs`). Source: Li and Luo (2024), section II, for the trunk
`band_sequence`; decisions where the paper is silent: docs/model.md. The default is the released network and
computes its numbers.

Some trunks and outputs work on the spectrum divided by its level, a moving average over frames: they are
equivariant to the level of the signal.

Only convolutions and averages look across frames, so a chunk of frames can be computed from the state of the
previous one: `step` is the network on a chunk, `forward` is one step over everything, streaming is many.

Shape legend: samples [batch, samples] or [batch, channels, samples], float32; spectrum [batch, frames, bins],
complex64. Channels are restored independently, but for the noise of left and right (`_mix_noise`).
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from apollo.model import stft
from apollo.model.config import GeneratorConfig
from apollo.model.generator_state import GeneratorState, OutputParts
from apollo.model.level import LEVEL_FLOOR, LEVEL_FRAMES, measure_power, moving_average
from apollo.model.noise import NoiseOptions, noise_spectra
from apollo.model.outputs import combine, noise_amplitude
from apollo.model.trunk import add_trunk_prefix, build_trunk

CPU_CHUNK_ACTIVATIONS = 1 << 20  # of a layer, in a chunk of frames: what stays in a CPU's cache


class Generator(nn.Module):
    """The restoring network.

    Args:
        config: Its shape.

    Attributes:
        empty: No samples, of the type and on the device of those that it restores.
    """

    empty: Tensor

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        self.trunk = build_trunk(config)
        self.register_buffer("empty", torch.empty(0), persistent=False)  # a trunk may have no parameters
        self.register_load_state_dict_pre_hook(add_trunk_prefix)  # type: ignore[no-untyped-call]

    def forward(self, samples: Tensor, noise: NoiseOptions | None = None) -> Tensor:
        """Restore samples of any length.

        Lengths that are multiples of the hop equal the published network's; others are padded with silence to
        the next multiple and trimmed, because the inverse transform has next to no weight at their ends.

        Args:
            samples: [..., samples] or [..., channels, samples], float32 (or float64 in a float64 generator),
                at the config's sample rate.
            noise: Strength and seed of the noise; its channels are taken from the shape.

        Returns:
            The same shape.

        Raises:
            ValueError: there are no samples.
        """
        if not samples.dim() or not samples.numel():
            raise ValueError(f"nothing to restore: the shape is {tuple(samples.shape)}")
        noise = replace(noise or NoiseOptions(), channels=num_channels(samples))
        spectrum, _ = self.step(self.analyze(samples), noise=noise)
        return self._to_samples(spectrum, samples.shape)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.empty.device

    @property
    def has_noise(self) -> bool:
        """Whether its output depends on strength and seed of noise."""
        return self.trunk.has_noise or self.config.output == "mask_and_noise"

    @property
    def normalizes_level(self) -> bool:
        """Whether the trunk sees the spectrum divided by its level."""
        return self.trunk.normalizes_level or self.config.predicts_real

    @property
    def level_lookahead(self) -> int:
        """Frames after a frame that its level depends on."""
        return LEVEL_FRAMES if self.normalizes_level and not self.config.causal else 0

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that it depends on."""
        return self.trunk.lookahead_frames + self.level_lookahead

    @property
    def past_frames(self) -> int:
        """Frames before a frame that it depends on."""
        return self.trunk.past_frames + (LEVEL_FRAMES if self.normalizes_level else 0)

    def initial_state(self, spectrum: Tensor) -> GeneratorState:
        """Return the state before a first chunk that is like `spectrum`."""
        empty, level_and_side = spectrum[:, :0], spectrum.real[:, :0, :0]
        return GeneratorState(self.trunk.initial_state(spectrum), empty, level_and_side, empty)

    def step(
        self,
        spectrum: Tensor,
        state: GeneratorState | None = None,
        *,
        final: bool = True,
        noise: NoiseOptions | None = None,
    ) -> tuple[Tensor, GeneratorState]:
        """Restore the next chunk of frames.

        Args:
            spectrum: [batch, frames, bins]; frames may be 0.
            state: What the last step gave; None before the first.
            final: Whether no frames follow, so that those that wait for later ones are returned too.
            noise: Strength, seed and channels of the noise, the same in all steps of a signal.

        Returns:
            Restored frames [batch, frames, bins], and the state for the next step. Without `final`, the
            first steps return `lookahead_frames` fewer frames in all than they take.

        Raises:
            ValueError: the rows are no whole number of items of `noise.channels` channels.
        """
        noise = noise or NoiseOptions()
        if len(spectrum) % noise.channels:
            raise ValueError(
                f"{len(spectrum)} rows are no whole number of items of {noise.channels} channels"
            )
        strength = self._strength(noise)
        state = self.initial_state(spectrum) if state is None else state
        restored = []
        at_a_time = None if torch.is_grad_enabled() else self.frames_at_a_time(len(spectrum), spectrum.device)
        chunks = spectrum.split(at_a_time or max(spectrum.shape[1], 1), 1)
        for number, chunk in enumerate(chunks):
            last = final and number == len(chunks) - 1
            output, amplitude, side_shares, state = self._forward_chunk(chunk, state, noise, final=last)
            if amplitude is not None and (strength or noise.separate):
                added = self._mix_noise(amplitude, side_shares, state.frames - output.shape[1], noise)
                output = torch.cat((output, added)) if noise.separate else output + strength * added
            restored.append(output)
        return torch.cat(restored, 1) if len(restored) > 1 else restored[0], state

    def decompose(self, samples: Tensor, noise: NoiseOptions | None = None) -> OutputParts:
        """Compute the parts of the output in one pass, for losses on spectra.

        Args:
            samples: [batch, channels, samples], as for `forward`.
            noise: Strength and seed of the noise that the trunk takes.

        Returns:
            The parts; `synthesize` makes samples of them.
        """
        noise = replace(noise or NoiseOptions(), channels=num_channels(samples))
        spectrum = self.analyze(samples)
        deterministic, amplitude, side_shares, _ = self._forward_chunk(
            spectrum, self.initial_state(spectrum), noise, final=True
        )
        return OutputParts(spectrum, deterministic, amplitude, side_shares, samples.shape)

    def analyze(self, samples: Tensor) -> Tensor:
        """Compute the spectrum [batch, frames, bins] that the network sees of samples of any length."""
        hop, length = self.config.hop_samples, samples.shape[-1]
        rows = nn.functional.pad(samples.reshape(-1, length), (0, padded_length(length, hop) - length))
        return stft.analyze(stft.reflect_pad(rows, hop), stft.hann_window(self.config.window_samples, rows))

    def synthesize(self, parts: OutputParts, noise: NoiseOptions) -> Tensor:
        """Return the samples of an output with its noise, in the shape of the input."""
        spectrum = parts.deterministic
        if parts.amplitude is not None:
            noise = replace(noise, channels=_channels(parts.shape))
            spectrum = spectrum + self._strength(noise) * self._mix_noise(
                parts.amplitude, parts.side_shares, 0, noise
            )
        return self._to_samples(spectrum, parts.shape)

    def _strength(self, noise: NoiseOptions) -> float:
        return self.config.noise_strength if noise.strength is None else noise.strength

    def _to_samples(self, spectrum: Tensor, shape: torch.Size) -> Tensor:
        window = stft.hann_window(self.config.window_samples, spectrum.real)
        first, second = stft.windowed_halves(spectrum, window)
        restored = stft.overlap_add(second[:, :-1], first[:, 1:], window)
        return restored[:, : shape[-1]].reshape(shape)

    def with_precision(self, dtype: torch.dtype) -> "Generator":
        """Return a copy whose linear layers compute in float32 or bfloat16, in evaluation mode.

        Residual stream, norms, convolutions, input and output layers stay float32.
        """
        prepared = copy.deepcopy(self).eval()
        for module in prepared.modules():
            if type(module) is nn.Linear:
                module.to(dtype)
        return prepared

    def frames_at_a_time(self, rows: int, device: torch.device) -> int | None:
        """Return how many frames are computed at a time without gradients; None if all are.

        Few on a CPU, so that they stay in its cache. Chunks of whole multiples give the same bytes as one
        of all frames.
        """
        if device.type != "cpu":
            return None
        return max(CPU_CHUNK_ACTIVATIONS // (rows * self.trunk.features_per_frame), 1)

    def _forward_chunk(
        self, spectrum: Tensor, state: GeneratorState, noise: NoiseOptions, *, final: bool
    ) -> tuple[Tensor, Tensor | None, Tensor, GeneratorState]:
        """Return deterministic part, noise amplitude and side share of the next frames, and next state."""
        if not self.normalizes_level:
            level_and_side = spectrum.real[:, :, :0]
            normalized, average, frames_without_level = spectrum, state.average, state.frames_without_level
        else:
            averages, average = moving_average(
                measure_power(spectrum, noise.channels),
                state.average,
                lookahead=self.level_lookahead,
                final=final,
            )
            pending = torch.cat((state.frames_without_level, spectrum), 1)
            ready = averages.shape[1]
            spectrum, frames_without_level = pending[:, :ready], pending[:, ready:]
            level_and_side = torch.cat(
                (averages[..., :1].sqrt(), averages[..., 2:] / (averages[..., 1:2] + LEVEL_FLOOR)), -1
            )
            normalized = spectrum / (averages[..., :1] + LEVEL_FLOOR).sqrt()
        prediction, real, trunk = self.trunk(
            normalized,
            state.trunk,
            final=final,
            noise=replace(noise, strength=self._strength(noise)),
            first_frame=state.frames + state.frames_without_output.shape[1],
        )
        frames = prediction.shape[1]
        waiting = torch.cat((state.frames_without_output, spectrum), 1)
        if state.level_and_side.shape[1]:
            level_and_side = torch.cat((state.level_and_side, level_and_side), 1)
        after = GeneratorState(
            trunk=trunk,
            frames_without_output=waiting[:, frames:],
            level_and_side=level_and_side[:, frames:],
            frames_without_level=frames_without_level,
            average=average,
            frames=state.frames + frames,
        )
        now, level = waiting[:, :frames], level_and_side[:, :frames, :1]
        deterministic = combine(self.config, now, prediction, real, level)
        amplitude = noise_amplitude(self.config, real, level)
        return deterministic, amplitude, level_and_side[:, :frames, 1:], after

    def _mix_noise(
        self, amplitude: Tensor, side_shares: Tensor, first_frame: int, options: NoiseOptions
    ) -> Tensor:
        """Return the noise of the next frames at strength 1.

        Left and right get a common noise and one of opposite signs, in the proportion of the signal's own mid
        and side power: what is equal in both channels stays equal, and what is wide stays wide.
        """
        if not amplitude.shape[1]:
            return torch.complex(amplitude, amplitude)
        window = stft.hann_window(self.config.window_samples, amplitude)
        common, *opposite = noise_spectra(options, first_frame, amplitude.shape[1], window)
        if not opposite:
            return amplitude * common
        signs = side_shares.new_tensor([1.0, -1.0]).repeat(len(amplitude) // 2)[:, None, None]
        return amplitude * ((1.0 - side_shares).sqrt() * common + signs * side_shares.sqrt() * opposite[0])


def num_channels(samples: Tensor) -> int:
    """Return the channels of samples [..., channels, samples]; one where there is no such dimension."""
    return _channels(samples.shape)


def _channels(shape: torch.Size) -> int:
    return shape[-2] if len(shape) > 1 else 1


def padded_length(samples: int, hop: int) -> int:
    """Return the length at which the transform is exact: a multiple of the hop, at least two hops."""
    return max(2, -(-samples // hop)) * hop
