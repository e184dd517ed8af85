"""Write generators as ONNX files: `apollo export`. Same weights, form and versions: same bytes."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from apollo import __version__
from apollo.checkpoints.container import CheckpointError
from apollo.checkpoints.io import atomic_write
from apollo.model.generator import Generator
from apollo.onnx.generator_graph import build_streaming, build_whole
from apollo.onnx.trunks import EXPORTED_OUTPUTS, EXPORTED_TRUNKS

if TYPE_CHECKING:
    import onnx

PRODUCER = "apollo-restoration"
STREAMING, WHOLE = "streaming", "whole"
NOT_INSTALLED = "{} is not installed: ONNX needs the extra `onnx`: pip install 'apollo-restoration[onnx]'"
_NEEDS_NO_PREPROCESSING = {"onnx.quant.pre_process": "onnxruntime.quant"}  # otherwise it warns
# the hidden layers: with input and output layers in 8 bits, the error would be ten times as large
_QUANTIZED = ("trunk/blocks.", "trunk/layers.")


def export_onnx(
    generator: Generator,
    path: str | os.PathLike[str],
    *,
    whole: bool = False,
    int8: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a generator as an ONNX file, whole or not at all.

    Args:
        generator: In float32, on the CPU.
        path: Of the file; one that exists is replaced.
        whole: Take a whole signal in one call, rather than its next samples and a state.
        int8: Multiply the matrices of hidden layers in 8-bit integers.
        metadata: Further metadata of the file.

    Raises:
        CheckpointError: onnx, or for `int8` onnxruntime, is not installed; or there is no graph for the
            generator's trunk or output.
        OSError: the file cannot be written.
    """
    content = to_onnx_bytes(generator, whole=whole, int8=int8, metadata=metadata)
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(content)


def to_onnx_bytes(
    generator: Generator,
    *,
    whole: bool = False,
    int8: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the content of the file that `export_onnx` writes; arguments and errors are the same."""
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError(NOT_INSTALLED.format("onnx")) from error
    config = generator.config
    if config.trunk not in EXPORTED_TRUNKS or config.output not in EXPORTED_OUTPUTS:
        raise CheckpointError(
            f"trunk {config.trunk!r} with output {config.output!r} cannot be exported; what can: trunks "
            f"{', '.join(EXPORTED_TRUNKS)}, outputs {', '.join(EXPORTED_OUTPUTS)}"
        )
    model = build_whole(generator) if whole else build_streaming(generator)
    if int8:
        model = _quantize(model)
    model.producer_name, model.producer_version = PRODUCER, __version__
    facts = _describe(generator, WHOLE if whole else STREAMING, "int8" if int8 else "float32")
    onnx.helper.set_model_props(model, {**facts, **(metadata or {})})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _describe(generator: Generator, form: str, precision: str) -> dict[str, str]:
    """Return what a program needs to know of a file, as metadata."""
    config = generator.config
    facts: dict[str, object] = {
        "form": form,
        "precision": precision,
        "sample_rate": config.sample_rate,
        "hop_samples": config.hop_samples,
        "lookahead_hops": generator.lookahead_frames,
        "noise_strength": config.noise_strength,
        "config": json.dumps(config.to_dict()),
    }
    return {name: str(value) for name, value in facts.items()}


def _quantize(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Quantize the weights of the hidden layers; their inputs are quantized when the model runs."""
    import onnx

    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise CheckpointError(NOT_INSTALLED.format("onnxruntime")) from error
    onnx.helper.set_model_props(model, _NEEDS_NO_PREPROCESSING)
    names = [node.name for node in model.graph.node if node.name.startswith(_QUANTIZED)]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(target)
    return quantized
