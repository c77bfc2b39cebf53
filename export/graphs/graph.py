"""An ONNX graph under construction: nodes in memory, weights streamed to a file beside it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.errors import ParityError

MICROSOFT = "com.microsoft"
# Opset 24 is the first whose Attention takes the number of real tokens instead of a mask.
OPSETS = {"": 24, MICROSOFT: 1}
IR_VERSION = 11

# ONNX Runtime maps a weight into memory instead of reading it when it starts at a page.
_PAGE = 4096
_INLINE_BYTES = 1024

Array = npt.NDArray[Any]
Value = str
"""The name of a tensor in the graph."""


class Graph:
    """Maps input_ids and attention_mask (int64 [texts, tokens], padded on the right) to embeddings.

    A `counted` one takes what has to cross to a GPU in as few bytes: input_ids as int32, and
    token_counts (int64 [texts]) in place of the mask.

    Every method that adds nodes returns the new value, so that an architecture reads like a
    forward pass. Weights go to `weights_file` as they are named and are never held in memory.
    """

    def __init__(
        self, weights_file: IO[bytes], weights_name: str, *, counted: bool = False
    ) -> None:
        self.counted = counted
        self.input_ids: Value = "input_ids"
        self.attention_mask: Value = "attention_mask"
        self.token_counts: Value = "token_counts"
        self._file = weights_file
        self._weights_name = weights_name
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[Value, TensorProto] = {}
        self._shared: dict[str, Value] = {}
        self._count = 0

    def another(self) -> "Graph":
        """A new graph with the same inputs, over the same file of weights."""
        graph = Graph(self._file, self._weights_name, counted=self.counted)
        graph._tensors = self._tensors
        return graph

    def op(self, kind: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """The output of one operator."""
        return self.op_with_outputs(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def op_with_outputs(
        self,
        kind: str,
        *inputs: Value | None,
        outputs: int,
        unwanted: Collection[int] = (),
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        """All outputs of one operator; those at `unwanted` places are not computed."""
        self._count += 1
        names = [f"{kind}_{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
        given = [name or "" for name in inputs]
        kept = ["" if i in unwanted else name for i, name in enumerate(names)]
        self._nodes.append(
            helper.make_node(kind, given, kept, name=names[0], domain=domain, **attributes)
        )
        return kept

    def shared(self, name: str, make: Callable[[], Value]) -> Value:
        """A value that is made once for all who ask for this name."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def branch(
        self, condition: Value, then: Callable[[], Value], otherwise: Callable[[], Value]
    ) -> Value:
        """The float32 output of one of two parts; what both share must have been made before."""
        outside, shared = self._nodes, dict(self._shared)
        branches = {}
        for name, part in (("then_branch", then), ("else_branch", otherwise)):
            self._nodes = []
            output = helper.make_tensor_value_info(part(), TensorProto.FLOAT, None)
            branches[name] = helper.make_graph(self._nodes, name, [], [output])
            self._shared = dict(shared)
        self._nodes = outside
        return self.op("If", condition, **branches)

    def constant(
        self, name: str, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None
    ) -> Value:
        """A tensor of the graph; written on first use of its name.

        Raises:
            ParityError: its type cannot hold one of its numbers.
        """
        if name in self._tensors:
            return name
        data = _converted(name, array, dtype)
        if data.nbytes < _INLINE_BYTES:
            tensor = TensorProto(
                name=name,
                dims=data.shape,
                data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
                raw_data=data.tobytes(),
            )
            self._tensors[name] = tensor
            return name
        return self.stream(name, data.shape, data.dtype, [data])

    def stream(
        self, name: str, shape: Sequence[int], dtype: npt.DTypeLike, parts: Iterable[Array]
    ) -> Value:
        """A large tensor whose parts, in order along its first axis, are written one by one.

        They are written on first use of its name.

        Raises:
            ParityError: its type cannot hold one of its numbers.
        """
        if name in self._tensors:
            return name
        tensor = TensorProto(
            name=name,
            dims=shape,
            data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
            data_location=TensorProto.EXTERNAL,
        )
        self._file.write(b"\0" * (-self._file.tell() % _PAGE))
        start = self._file.tell()
        for part in parts:
            # As bytes, since bfloat16 is none of Python's own types.
            converted = np.ascontiguousarray(_converted(name, part, dtype))
            self._file.write(converted.view(np.uint8).data)
        place = {
            "location": self._weights_name,
            "offset": start,
            "length": self._file.tell() - start,
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._tensors[name] = tensor
        return name

    def integers(self, *values: int) -> Value:
        """A one-dimensional int64 tensor."""
        return self.constant("integers_" + "_".join(map(str, values)), values, np.int64)

    def save(
        self,
        output: Value,
        output_name: str,
        dimensions: int,
        path: Path,
        observed: Iterable[Value] = (),
    ) -> None:
        """Write the graph, with `output` (float32 [texts, dimensions]) under its public name.

        `observed` are further outputs under their own names (float32 [channels]).
        """
        for node in self._nodes:
            node.output[:] = [output_name if name == output else name for name in node.output]
        used = _names_read(self._nodes)
        graph = helper.make_graph(
            self._nodes,
            "text_encoder",
            self._inputs(),
            [
                helper.make_tensor_value_info(
                    output_name, TensorProto.FLOAT, ["texts", dimensions]
                ),
                *(
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                    for name in observed
                ),
            ],
            [tensor for name, tensor in self._tensors.items() if name in used],
        )
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(*opset) for opset in OPSETS.items()],
            producer_name="export",
        )
        path.write_bytes(model.SerializeToString())

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        texts_tokens = ["texts", "tokens"]
        if self.counted:
            return [
                helper.make_tensor_value_info(self.input_ids, TensorProto.INT32, texts_tokens),
                helper.make_tensor_value_info(self.token_counts, TensorProto.INT64, ["texts"]),
            ]
        return [
            helper.make_tensor_value_info(name, TensorProto.INT64, texts_tokens)
            for name in (self.input_ids, self.attention_mask)
        ]


def _converted(name: str, array: npt.ArrayLike, dtype: npt.DTypeLike | None) -> Array:
    given = np.asarray(array)
    if dtype is None or given.dtype == dtype:
        return given
    with np.errstate(over="ignore"):
        converted = given.astype(dtype)
    if given.dtype.kind == "f" and not np.isfinite(converted).all():
        raise ParityError(
            f"{name} has numbers up to {np.abs(given).max():.3g}, which {converted.dtype} cannot "
            "hold"
        )
    return converted


def _names_read(nodes: Iterable[onnx.NodeProto]) -> set[Value]:
    """The values that these nodes read, and those in their branches."""
    names: set[Value] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= _names_read(attribute.g.node)
    return names
