"""What a generator's configuration may be, how large it makes the network, and that it costs no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import apollo
from apollo.model.config import PRESETS, GeneratorConfig
from apollo.model.generator import Generator


def _parameters(config: GeneratorConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Generator(config).parameters())


def _expected_convolution_parameters(config: GeneratorConfig) -> int:
    """Count the parameters of a convolutional trunk with mask and gains."""
    dim, hidden, bins = config.dim, config.expansion * config.dim, config.bins
    block = 7 * dim + dim + 2 * dim + (dim * hidden + hidden) + (hidden * dim + dim) + dim
    heads = (dim * 2 * bins + 2 * bins) + (dim * bins + bins)
    return (bins * dim + dim) + config.layers * block + 2 * dim + heads


def _expected_gated_parameters(config: GeneratorConfig) -> int:
    """Count the parameters of a gated trunk with one complex number a bin."""
    dim, parts = config.dim, 2 * config.bins
    block = 2 * dim + (3 * dim * 2 * dim + 2 * dim) + (dim * dim + dim)
    return (parts * dim + dim) + 64 * dim + config.layers * block + 2 * dim + (dim * parts + parts)


def _expected_parameters(dim: int, layers: int, widths: tuple[int, ...]) -> int:
    """Count by the layers of the released network (field notes), one at a time."""
    band_split = sum(2 * m + 1 + dim * (2 * m + 1) + dim for m in widths)
    band_merge = sum(dim + 4 * m * dim + 4 * m for m in widths)
    attention = dim + 3 * dim * dim + dim * dim + dim + 8 * dim * dim + 4 * dim * dim
    time_block = (7 * dim + dim) + dim + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim)
    return band_split + layers * (attention + 3 * time_block) + band_merge


def test_released_layout_is_79_bands_of_5_bins_and_one_of_47() -> None:
    assert GeneratorConfig().band_widths == (5,) * 79 + (47,)
    assert (GeneratorConfig().hop_samples, GeneratorConfig().bins) == (441, 442)


def test_paper_layout_is_138_bands_whose_edges_are_multiples_of_160_hz_to_the_nearest_bin() -> None:
    widths = GeneratorConfig(bands="paper").band_widths
    assert (len(widths), sum(widths)) == (138, 442)
    edges = [sum(widths[:band]) * 44100 / 882 for band in range(138)]
    assert all(abs(edge - 160 * band) <= 25 for band, edge in enumerate(edges))  # half a bin of 50 Hz


@pytest.mark.parametrize("window, sample_rate", [(882, 44100), (960, 48000), (2048, 44100), (1764, 44100)])
@pytest.mark.parametrize("bands", ["released", "paper"])
def test_named_layouts_cover_every_bin_at_other_rates_and_windows(
    bands: str, window: int, sample_rate: int
) -> None:
    config = GeneratorConfig(bands=bands, window_samples=window, sample_rate=sample_rate)
    assert sum(config.band_widths) == window // 2 + 1 and min(config.band_widths) >= 1


@pytest.mark.parametrize("bands", [(5, 5), (442, 1), (), (443,)])
def test_layout_that_does_not_sum_is_refused_with_both_numbers(bands: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\b{sum(bands)}\b.*\b442\b"):
        GeneratorConfig(bands=bands)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"bands": (0, 442)}, "at least 1"),
        ({"bands": (-1, 443)}, "at least 1"),
        ({"bands": "octaves"}, "octaves"),
        ({"window_samples": 788}, "788"),  # the released layout needs 396 bins
        ({"window_samples": 881}, "881"),
        ({"window_samples": 2, "bands": (2,)}, "window_samples is 2"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"dim": 0}, "dim is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"dim": 20}, "dim 20 over 8 heads"),
        ({"dim": 24}, "dim 24 over 8 heads"),  # three dimensions a head do not pair up
        ({"output": "mask"}, "mask"),
        ({"trunk": "convolution"}, "trunk is 'convolution'"),
        ({"expansion": 0}, "expansion is 0"),
        ({"noise_strength": -0.5}, "noise_strength is -0.5"),
        ({"noise_limit": float("nan")}, "noise_limit is nan"),
    ],
)
def test_invalid_configurations_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GeneratorConfig(**changes)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_the_parameters_that_its_layers_sum_to(name: str) -> None:
    config = PRESETS[name]
    if config.trunk in ("identity", "replication"):
        expected = 0
    elif config.trunk == "frame_convolution":
        expected = _expected_convolution_parameters(config)
    elif config.trunk == "gated_convolution":
        expected = _expected_gated_parameters(config)
    else:
        expected = _expected_parameters(config.dim, config.layers, config.band_widths)
        if config.predicts_real:  # layers as those of the complex numbers
            expected += sum(config.dim + 4 * m * config.dim + 4 * m for m in config.band_widths)
    assert _parameters(config) == expected


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sr_gan", 302_239_746), ("sr_gan-small", 1_688_706), ("ams", 17_014_164), ("ams-small", 1_205_268)],
)
def test_presets_have_the_counts_that_the_documentation_prints(name: str, parameters: int) -> None:
    assert _parameters(PRESETS[name]) == parameters


@pytest.mark.parametrize(
    "dim, parameters", [(256, 16_539_308), (192, 9_456_044), (384, 36_604_076), (512, 64_533_164)]
)
def test_known_dimensions_have_their_known_parameter_counts(dim: int, parameters: int) -> None:
    config = GeneratorConfig(dim=dim)
    assert _parameters(config) == parameters == _expected_parameters(dim, 6, config.band_widths)


@pytest.mark.parametrize(
    "config",
    [*PRESETS.values(), GeneratorConfig(window_samples=16, bands=(2, 3, 2, 2), dim=16, causal=True)],
    ids=[*PRESETS, "custom"],
)
def test_config_survives_json(config: GeneratorConfig) -> None:
    again = GeneratorConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.band_widths == config.band_widths


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="depth, width"):
        GeneratorConfig.from_dict({"width": 3, "dim": 16, "depth": 2})


@pytest.mark.parametrize("module", ["apollo", "apollo.model.config"])
def test_import_costs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_every_public_name_resolves_and_no_other_does() -> None:
    for name in apollo.__all__:
        assert getattr(apollo, name).__name__ == name if name != "PRESETS" else apollo.PRESETS is PRESETS
    assert set(apollo.__all__) <= set(dir(apollo))
    with pytest.raises(AttributeError, match="Restorer"):
        _ = apollo.Restorer


def test_the_causal_configuration_of_the_jobs_is_the_preset() -> None:
    written = yaml.safe_load((Path(__file__).parents[3] / "jobs/configs/causal.yaml").read_text())
    assert GeneratorConfig.from_dict(written["generator"]) == PRESETS["causal"]
