"""Published results for reference, each of the authors' own test set.

Source: Li and Luo, "Apollo: Band-sequence Modeling for High-Quality Audio Restoration" (2024). Table II is
read from its picture in the authors' repository (asserts/types.png), Figure 2 from asserts/bitrates.png, by
the centres of the markers, to about 0.02 dB and 0.005 MOS. The mean of Figure 2 over bitrates is not Table
II's overall: they are different averages. The text of the paper gives other real-time factors for the same
table than the repository's picture; neither names the GPU.

MPASCNet (2026) and what its authors measured beside it: means over MP3 at 24 to 128 kbps on MedleyDB, from
its README. Results by category or bitrate are not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Published results of a model.

    Args:
        name: As the publication names it.
        overall: SDR in dB, SI-SNR in dB, ViSQOL in MOS, as printed; of the paper the mean of four categories.
        test_set: Whose results on what.
        table2: The same by category; empty if not published.
        parameters: In millions; None for a codec.
        rtf_ms: For a second at 44.1 kHz on a GPU; of the paper in the repository's picture.
        rtf_text_ms: The same in the text of the paper.
        figure2: Metric -> a value for each of BITRATES_BPS; empty if not published.
    """

    name: str
    overall: tuple[float, float, float]
    test_set: str = "paper (its own test set)"
    table2: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    parameters: float | None = None
    rtf_ms: float | None = None
    rtf_text_ms: float | None = None
    figure2: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and test set."""
        return f"{self.name}, {self.test_set}"


BITRATES_BPS = (24_000, 32_000, 48_000, 64_000, 96_000, 128_000)  # of MP3

SR_GAN = PublishedModel(
    name="SR-GAN",
    table2={
        "vocal": (10.62, 9.19, 2.72),
        "single_stem": (13.88, 12.52, 3.28),
        "multi_stems": (14.92, 14.16, 3.41),
        "multi_stems_vocal": (16.87, 15.54, 3.76),
    },
    overall=(14.07, 12.85, 3.29),
    parameters=322.53,
    rtf_ms=142.55,
    rtf_text_ms=34.55,
    figure2={
        "sdr": (10.16, 10.20, 11.35, 12.61, 15.91, 19.50),
        "si_snr": (8.61, 8.96, 9.73, 10.55, 14.04, 19.42),
        "visqol": (2.45, 2.61, 2.88, 3.14, 3.62, 4.28),
    },
)

APOLLO = PublishedModel(
    name="Apollo",
    table2={
        "vocal": (13.99, 12.58, 3.44),
        "single_stem": (16.56, 15.99, 4.08),
        "multi_stems": (17.52, 17.15, 4.41),
        "multi_stems_vocal": (18.51, 18.26, 4.54),
    },
    overall=(16.64, 16.00, 4.12),
    parameters=16.54,
    rtf_ms=206.23,
    rtf_text_ms=53.23,
    figure2={
        "sdr": (11.70, 11.72, 13.52, 15.61, 17.20, 20.90),
        "si_snr": (9.88, 10.15, 12.18, 14.88, 16.66, 20.63),
        "visqol": (3.41, 3.48, 3.76, 4.11, 4.43, 4.40),
    },
)

PAPER = (SR_GAN, APOLLO)
_MEDLEYDB = "MPASCNet's authors (MedleyDB)"
LATER = tuple(
    PublishedModel(name=name, overall=overall, parameters=parameters, rtf_ms=rtf, test_set=_MEDLEYDB)
    for name, overall, parameters, rtf in (
        ("MP3", (13.92, 12.22, 3.02), None, None),
        ("AEROMambaPS", (16.26, 15.73, 3.49), 18.55, 4.10),
        ("Apollo", (16.61, 15.77, 3.60), 16.54, 37.54),
        ("MPASCNet", (17.65, 17.27, 3.67), 6.49, 23.06),
    )
)
MODELS = (*PAPER, *LATER)
