"""Configuration of generator and discriminator, presets, names of losses. Imports no torch.

Source: Li and Luo (2024), "Apollo: Band-sequence Modeling for High-Quality Audio Restoration", section II.
Where the paper is silent or contradicts itself, the defaults are the released network's (docs/model.md).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

RELEASED_BAND_BINS = 5
RELEASED_BANDS = 80
PAPER_BAND_HZ = 160.0
COMPACT = "compact"  # preset, and name of a model that the package contains
PACKAGED = (COMPACT, "codec", "replication")  # all of these; the last two have no parameters
DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "float32", "bfloat16")
TRUNKS = {  # module and class; what a class must have: apollo.model.trunk.Trunk
    "band_sequence": "apollo.model.band_sequence:BandSequenceTrunk",
    "frame_convolution": "apollo.model.frame_convolution:FrameConvolutionTrunk",
    "gated_convolution": "apollo.model.gated_convolution:GatedConvolutionTrunk",
    "identity": "apollo.model.baselines:IdentityTrunk",
    "replication": "apollo.model.baselines:ReplicationTrunk",
}
OUTPUTS = ("direct", "correction", "mask_and_noise", "magnitude_and_phase")  # apollo.model.outputs
COMPRESSION = 0.3  # power of compressed magnitudes
INITIAL_LOG_GAIN = -6.0  # of noise relative to the level: little at initialisation
ROTARY_ROWS = 100  # rows of the released network's rotary table; a longer one continues it


LOSS_WEIGHTS = {  # default weights: the paper's, and 0 for further losses
    "g/stft": 1.0,
    "g/adversarial": 1.0,
    "g/feature": 1.0,
    "g/waveform": 0.0,
    "g/spectrum": 0.0,
    "g/compressed": 0.0,
    "g/envelope": 0.0,
    "g/nsim": 0.0,
    "g/transients": 0.0,
    "g/tones": 0.0,
    "g/complex": 0.0,
    "g/error": 0.0,
    "g/noise_error": 0.0,
    "g/magnitude": 0.0,
    "g/phase": 0.0,
    "g/compressed_complex": 0.0,
    "g/consistency": 0.0,
    "d/real": 1.0,
    "d/fake": 1.0,
    "d/gradient_penalty": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Architecture of a generator. The defaults are the released network: 16,539,308 parameters.

    Args:
        sample_rate: Hz.
        window_samples: Length of the Hann window in samples; the hop is half of it.
        bands: `released`: 79 bands of 5 bins (250 Hz) and one of the remaining bins. `paper`: 160 Hz, as in
            the paper's text, rounded to whole bins. Or the widths of the bands in bins, from low to high,
            with the sum `window_samples // 2 + 1`.
        dim: Feature dimension, of a band (`band_sequence`) or of a frame.
        layers: Number of band-sequence modules or of convolution blocks.
        heads: Attention heads over bands; `dim / heads` must be even.
        causal: Depend on past frames only: 20 ms of latency instead of 0.56 s.
        output: `direct`: predict the restored spectrum, as published. `correction`: predict a residual that
            is added to the input's spectrum. `mask_and_noise`: predict a complex mask, and the gains of noise
            that is added. `magnitude_and_phase`: predict a change of the compressed magnitude, and the phase
            by two components. The last three return the input at initialization, but for little noise.
        trunk: `band_sequence`: the paper's. `frame_convolution`: convolutions over frames, without bands.
            `gated_convolution`: dilated gated convolutions over frames, with noise, after SR-GAN. `identity`
            and `replication` have no parameters: with the output `correction`, nothing is changed, or the
            empty band is filled with copies of the band below it.
        expansion: Width of the hidden layers of `frame_convolution`, in `dim`.
        noise_strength: Default strength of the noise.
        noise_limit: Soft limit of the noise's gains, relative to the signal's level; 0 for none.
    """

    sample_rate: int = 44100
    window_samples: int = 882
    bands: str | tuple[int, ...] = "released"
    dim: int = 256
    layers: int = 6
    heads: int = 8
    causal: bool = False
    output: str = "direct"
    trunk: str = "band_sequence"
    expansion: int = 2
    noise_strength: float = 1.0
    noise_limit: float = 0.0

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a field is out of range.
        """
        if not isinstance(self.bands, str):
            object.__setattr__(self, "bands", tuple(self.bands))
        for name in ("sample_rate", "dim", "layers", "heads", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.window_samples < 4 or self.window_samples % 2:
            raise ValueError(f"window_samples is {self.window_samples}: it must be even and at least 4")
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is {self.trunk!r}: it must be one of {', '.join(TRUNKS)}")
        for name in ("noise_strength", "noise_limit"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        if self.trunk == "band_sequence" and (self.dim % self.heads or self.dim // self.heads % 2):
            raise ValueError(
                f"dim {self.dim} over {self.heads} heads leaves {self.dim / self.heads:g} dimensions a head, "
                "which must be an even number for rotary embeddings"
            )
        if self.output not in OUTPUTS:
            raise ValueError(f"output is {self.output!r}: it must be one of {', '.join(OUTPUTS)}")
        _ = self.band_widths

    @property
    def predicts_real(self) -> bool:
        """Whether the output needs a real number of each bin, besides the complex one."""
        return self.output in ("mask_and_noise", "magnitude_and_phase")

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.window_samples // 2

    @property
    def bins(self) -> int:
        """Frequency bins of a frame."""
        return self.window_samples // 2 + 1

    @property
    def band_widths(self) -> tuple[int, ...]:
        """Widths of the bands in bins, from low to high.

        Raises:
            ValueError: the widths do not sum to the number of bins.
        """
        if isinstance(self.bands, str):
            return _named_layout(self.bands, self)
        if sum(self.bands) != self.bins or min(self.bands, default=0) < 1:
            raise ValueError(
                f"the {len(self.bands)} band widths sum to {sum(self.bands)} bins and the narrowest has "
                f"{min(self.bands, default=0)}; they must sum to {self.bins} (window_samples // 2 + 1), each "
                "at least 1"
            )
        return self.bands

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GeneratorConfig":
        """Create from the output of `to_dict`.

        Raises:
            ValueError: a key is unknown, or a value is out of range.
        """
        return cls(**_check_keys(cls, values, "generator"))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-serializable values."""
        return asdict(self)


def _named_layout(name: str, config: GeneratorConfig) -> tuple[int, ...]:
    bins = config.bins
    if name == "released":
        widest = bins - (RELEASED_BANDS - 1) * RELEASED_BAND_BINS
        if widest < 1:
            raise ValueError(
                f"the released band layout needs more than {bins - widest} bins; window_samples "
                f"{config.window_samples} has {bins}: give the band widths as a list"
            )
        return (RELEASED_BAND_BINS,) * (RELEASED_BANDS - 1) + (widest,)
    if name == "paper":
        width = PAPER_BAND_HZ * config.window_samples / config.sample_rate  # in bins
        edges = [round(band * width) for band in range(int(bins / width) + 1)]
        return tuple(high - low for low, high in pairwise([*edges[:-1], bins]))
    raise ValueError(f"bands is {name!r}: it must be 'released', 'paper' or a list of widths in bins")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Architecture of a discriminator.

    Args:
        channels: Channels of the audio, classified jointly.
        windows: STFT windows in samples; the hop is half of each.
        norm: `l2`: scale every example to unit energy, as published. `rms`: to unit RMS, with spectra divided
            by the root of the window's energy, so that the input level does not depend on the length.
        kind: Network of each window. `convolution`: the paper's, on the plane of bins and frames.
            `gated_convolution`: after SR-GAN, along frames, with all bins as channels; it compares a signal
            with the degraded one, at the degraded one's level.
        dim: Feature dimension of `gated_convolution`.
        layers: Number of its blocks.
    """

    channels: int = 2
    windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    norm: str = "l2"
    kind: str = "convolution"
    dim: int = 256
    layers: int = 10

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a field is out of range.
        """
        object.__setattr__(self, "windows", tuple(self.windows))
        if self.norm not in ("l2", "rms"):
            raise ValueError(f"norm is {self.norm!r}: it must be 'l2' or 'rms'")
        for name in ("channels", "dim", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.kind not in ("convolution", "gated_convolution"):
            raise ValueError(f"kind is {self.kind!r}: it must be 'convolution' or 'gated_convolution'")
        if self.is_conditional and self.norm != "rms":
            raise ValueError(f"norm is {self.norm!r}: the kind {self.kind!r} needs 'rms'")
        if not self.windows or any(window < 4 or window % 2 for window in self.windows):
            raise ValueError(f"windows is {self.windows}: it needs even numbers of at least 4 samples")

    @property
    def is_conditional(self) -> bool:
        """Whether the discriminator needs the degraded signal too."""
        return self.kind == "gated_convolution"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DiscriminatorConfig":
        """Create from the output of `to_dict`.

        Raises:
            ValueError: a key is unknown, or a value is out of range.
        """
        return cls(**_check_keys(cls, values, "discriminator"))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-serializable values."""
        return asdict(self)


def _check_keys(owner: type, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    unknown = set(values) - {field.name for field in fields(owner)}
    if unknown:
        raise ValueError(f"unknown {what} settings: {', '.join(sorted(unknown))}")
    return dict(values)


_SR_GAN = GeneratorConfig(window_samples=2048, dim=2048, layers=10, trunk="gated_convolution")
_COMPACT = GeneratorConfig(
    dim=192, layers=12, trunk="frame_convolution", output="mask_and_noise", noise_limit=0.15
)
PRESETS = {
    "released": GeneratorConfig(),
    "paper-bands": GeneratorConfig(bands="paper"),
    "demo": GeneratorConfig(dim=48, layers=2, output="correction"),
    "causal": GeneratorConfig(dim=64, layers=3, causal=True, output="correction"),
    COMPACT: _COMPACT,
    "compact-causal": replace(_COMPACT, causal=True),
    "sr_gan": _SR_GAN,
    "sr_gan-small": replace(_SR_GAN, dim=128, output="correction"),
    "ams": GeneratorConfig(output="magnitude_and_phase"),
    "ams-small": GeneratorConfig(dim=96, layers=2, output="magnitude_and_phase"),
    "codec": GeneratorConfig(trunk="identity", output="correction"),
    "replication": GeneratorConfig(trunk="replication", output="correction"),
}
