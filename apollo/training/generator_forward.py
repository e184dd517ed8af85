"""What a training step needs of the generator, in one pass that DistributedDataParallel can wrap."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from apollo.model.generator import Generator
from apollo.model.generator_state import OutputParts
from apollo.model.noise import NoiseOptions
from apollo.training.data import Batch
from apollo.training.spectra import Spectra, concatenate, limit_bandwidth
from apollo.training.spectral_pair import SpectralPair, make_pair

Output = tuple[Tensor | None, OutputParts | None]


class GeneratorForward(nn.Module):
    """Compute restored samples, the parts of the output, or both.

    Args:
        generator: Network to train.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, degraded: Tensor, *, seed: int, with_samples: bool = True, with_parts: bool = False
    ) -> Output:
        """Restore samples.

        Args:
            degraded: [examples, channels, samples].
            seed: Seed of the noise.
            with_samples: Whether restored samples are needed.
            with_parts: Whether the spectra of the output are needed.

        Returns:
            Samples [examples, channels, samples] and parts, each None if not needed.
        """
        noise = NoiseOptions(strength=1.0, seed=seed)  # the losses on spectra take it at 1 too
        if not with_parts:
            return self.generator(degraded, noise), None
        parts = self.generator.decompose(degraded, noise)
        return (self.generator.synthesize(parts, noise) if with_samples else None), parts


@dataclass(frozen=True)
class Generated:
    """Output of the generator for a micro-batch, with its graph, and the clean audio.

    Args:
        clean: Clean samples, up to where they are known; None in a step that needs no samples.
        restored: Restored samples, limited in the same way.
        spectral: Spectra for the losses of `spectral_losses`, if one has weight.
        degraded: Degraded samples, limited in the same way; None if the discriminator needs none.
    """

    clean: Spectra | None
    restored: Spectra | None
    spectral: SpectralPair | None
    degraded: Spectra | None = None

    @property
    def samples(self) -> tuple[Spectra, Spectra]:
        """Clean and restored samples, in a step that needs them."""
        if self.clean is None or self.restored is None:
            raise RuntimeError("this step has no samples")
        return self.clean, self.restored

    @property
    def degraded_twice(self) -> Spectra | None:
        """Degraded samples for a batch of clean and restored ones."""
        return None if self.degraded is None else concatenate(self.degraded, self.degraded)

    @property
    def zero_for_ddp(self) -> Tensor | float:
        """Zero-valued term that gives every output a gradient, as DistributedDataParallel requires."""
        if self.spectral is None:
            return 0.0
        return 0.0 * (self.spectral.deterministic.real.sum() + self.spectral.noise_power.sum())


def prepare(
    output: Output,
    batch: Batch,
    generator: Generator,
    *,
    with_degraded: bool = False,
    with_consistent: bool = False,
) -> Generated:
    """Prepare an output and the clean audio of its batch for losses; what is unknown of it is left out.

    Args:
        output: Of `GeneratorForward`.
        batch: What it was computed from.
        generator: What computed it.
        with_degraded: Whether a discriminator needs the degraded samples.
        with_consistent: Whether the spectrum of the output's samples is needed.
    """
    restored, parts = output
    config, bandwidth_hz = generator.config, batch.bandwidth_hz
    clean = limited = spectral = degraded = consistent = None
    if parts is not None and with_consistent:
        without_noise = replace(parts, amplitude=None)
        consistent = generator.analyze(generator.synthesize(without_noise, NoiseOptions()))
    if parts is not None:
        rows = None if bandwidth_hz is None else bandwidth_hz.repeat_interleave(batch.clean.shape[1])
        spectral = make_pair(parts, generator.analyze(batch.clean), config, rows, consistent)
    if restored is not None:
        clean = Spectra(limit_bandwidth(batch.clean, bandwidth_hz, config.sample_rate))
        limited = Spectra(limit_bandwidth(restored.float(), bandwidth_hz, config.sample_rate))
        if with_degraded:
            degraded = Spectra(limit_bandwidth(batch.degraded, bandwidth_hz, config.sample_rate))
    return Generated(clean, limited, spectral, degraded)
