"""Build an ONNX graph: nodes in order, with constants from tensors; the same calls give the same bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import onnx

OPSET = 17  # the first with LayerNormalization; runtimes of 2022 and later read it
IR_VERSION = 8  # of the same time
END = 2**63 - 1  # of a slice: the end of the axis
FLOAT, INT64 = 1, 7  # types of ONNX


class GraphBuilder:
    """Collects the nodes of a graph. Values are strings: their names in the graph."""

    def __init__(self) -> None:
        from onnx import helper

        self._helper = helper
        self._scope: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[tuple[Any, ...], str] = {}  # of constants that are given by their values
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Begin the names of all that is added meanwhile with `name/`."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def input(self, name: str, shape: Sequence[str | int]) -> str:
        """Add an input of float32; a dimension that is a string may have any size."""
        self._inputs.append(self._helper.make_tensor_value_info(name, FLOAT, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[str | int]) -> None:
        """Make a value of float32 an output."""
        self._nodes.append(self._helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(self._helper.make_tensor_value_info(name, FLOAT, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, *inputs, num_outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, num_outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        name = "/".join([*self._scope, f"{kind}_{len(self._nodes)}"])
        outputs = [name] if num_outputs == 1 else [f"{name}.{number}" for number in range(num_outputs)]
        self._nodes.append(self._helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def weight(self, tensor: Tensor, name: str) -> str:
        """Add a constant of float32; the same name again, in the same scope, is the same constant."""
        name = "/".join([*self._scope, name])
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        self._constants[name] = self._helper.make_tensor(
            name, FLOAT, values.shape, values.tobytes(), raw=True
        )
        return name

    def number(self, value: float) -> str:
        """Return a constant of float32 without dimensions."""
        return self._shared(FLOAT, [value], [])

    def ints(self, *values: int) -> str:
        """Return a constant of int64, [values]."""
        return self._shared(INT64, values, [len(values)])

    def _shared(self, dtype: int, values: Sequence[float], shape: Sequence[int]) -> str:
        key = (dtype, *values)
        if key not in self._names:
            name = self._names[key] = f"constant_{len(self._names)}"
            self._constants[name] = self._helper.make_tensor(name, dtype, shape, values)
        return self._names[key]

    def slice(self, x: str, begin: int, end: int, *, axis: int) -> str:
        """Return a part of an axis; bounds as Python's, where `END` is the end."""
        return self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(axis))

    def reshape(self, x: str, *shape: int) -> str:
        """Return x in another shape: 0 keeps a dimension, -1 is what remains."""
        return self.op("Reshape", x, self.ints(*shape))

    def split(self, x: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """Return parts of an axis, of given sizes."""
        if len(sizes) == 1:
            return [x]
        return self.ops("Split", x, self.ints(*sizes), num_outputs=len(sizes), axis=axis)

    def size(self, x: str, axis: int) -> str:
        """Return the size of an axis, [1]."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def concat(self, *parts: str, axis: int) -> str:
        """Join values along an axis."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def build(self, name: str) -> "onnx.ModelProto":
        """Return the model."""
        graph = self._helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._constants.values())
        )
        opset = self._helper.make_opsetid("", OPSET)
        return self._helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
