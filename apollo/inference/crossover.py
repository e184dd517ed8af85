"""Keep the input below a frequency: a linear-phase FIR cross-over between the input and the network's output.

    output = restored + lowpass(input - restored)

so what input and output have in common is passed as it is. The low-pass is a windowed sinc
(Kaiser): it passes half at the frequency, and all of it 100 Hz below and nothing 100 Hz above, to 80 dB. Its
delay is compensated. Both signals count as silent before their beginning and after their end.

Shape legend: samples [batch, samples], rows are channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TRANSITION_HZ = 200.0
ATTENUATION_DB = 80.0
_DESIGN_DB = ATTENUATION_DB + 10.0  # Kaiser's formulas are estimates; near 0 Hz two ripples add up


def check_keep_below(hertz: float, sample_rate: int) -> None:
    """Check the frequency of a cross-over.

    Raises:
        ValueError: it is not between 0 and half the sample rate.
    """
    if not 0 < hertz < sample_rate / 2:
        raise ValueError(
            f"keep-below is {hertz:g} Hz: it must be more than 0 and less than {sample_rate / 2:g} Hz, "
            f"half the model's sample rate"
        )


@dataclass(frozen=True)
class CrossoverState:
    """State of a cross-over between calls.

    Args:
        inputs: Input samples whose restored ones are not known yet.
        restored: Restored samples that were not returned yet.
        difference: Differences that the low-pass still needs, with the silence before the first.
    """

    inputs: Tensor
    restored: Tensor
    difference: Tensor


class Crossover:
    """Combines streams of input and restored samples; holds no state itself.

    Args:
        keep_below_hz: Frequency below which the input is kept.
        sample_rate: Hz.

    Raises:
        ValueError: the frequency is not between 0 and half the sample rate.
    """

    def __init__(self, keep_below_hz: float, sample_rate: int) -> None:
        check_keep_below(keep_below_hz, sample_rate)
        self.taps = _lowpass(keep_below_hz, sample_rate)

    @property
    def delay_samples(self) -> int:
        """Number of later samples that an output sample needs."""
        return len(self.taps) // 2

    def start(self, like: Tensor) -> CrossoverState:
        """Return the initial state; `like` is [batch, 0], of the device and type of the samples."""
        return CrossoverState(like, like, like.new_zeros(len(like), self.delay_samples))

    def push(self, state: CrossoverState, inputs: Tensor, restored: Tensor) -> tuple[Tensor, CrossoverState]:
        """Process input samples, and the restored ones that became known, of this and earlier calls.

        Returns:
            Samples [batch, samples] in order, possibly none; and the next state.
        """
        inputs = torch.cat((state.inputs, inputs), 1)
        difference = torch.cat((state.difference, inputs[:, : restored.shape[1]] - restored), 1)
        pending = torch.cat((state.restored, restored), 1)
        final = max(difference.shape[1] - 2 * self.delay_samples, 0)
        output = pending[:, :final]
        if final:
            output = output + _convolve(difference, self.taps)
        return output, CrossoverState(
            inputs[:, restored.shape[1] :].clone(), pending[:, final:].clone(), difference[:, final:].clone()
        )

    def finish(self, state: CrossoverState, restored: Tensor) -> Tensor:
        """Return the remaining samples, with the restored ones that were still missing."""
        output, state = self.push(state, restored[:, :0], restored)
        silence = restored.new_zeros(len(restored), self.delay_samples)
        rest, _ = self.push(state, silence, silence)
        return torch.cat((output, rest), 1)


def _lowpass(hertz: float, sample_rate: int) -> Tensor:
    """Return the taps of the low-pass, an odd number, in float64."""
    width = 2 * math.pi * TRANSITION_HZ / sample_rate
    delay = math.ceil((_DESIGN_DB - 7.95) / (2.285 * width) / 2)
    at = torch.arange(-delay, delay + 1, dtype=torch.float64)
    beta = 0.1102 * (_DESIGN_DB - 8.7)
    window = torch.kaiser_window(2 * delay + 1, periodic=False, beta=beta, dtype=torch.float64)
    taps = window * torch.sinc(2 * hertz / sample_rate * at)
    return taps / taps.sum()


def _convolve(samples: Tensor, taps: Tensor) -> Tensor:
    """Return the part of a convolution with symmetric taps for which all samples are known."""
    size = 1 << (samples.shape[1] - 1).bit_length()
    response = torch.fft.rfft(taps, size).to(
        samples.device, torch.promote_types(samples.dtype, torch.complex64)
    )
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(samples, size) * response, size)
    return filtered[:, len(taps) - 1 : samples.shape[1]]
