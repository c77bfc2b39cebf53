"""How a weight matrix is stored and multiplied at each precision.

What the layers compute between taking from the residual stream and adding to it is of the
precision's own type. The stream is float32, but for float16: its rounding there is no more than
that of the layers (benchmarks/README.md). Behind the last norm all is float32.

A quantised product works on rows of codes. A token's codes are its activations divided by a scale
of its own, so that a text's embedding does not depend on the other texts of its batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from export.graphs.graph import MICROSOFT, Array, Graph, Value
from export.graphs.row_codes import (
    INT8_MAX,
    UINT8_MAX,
    UINT8_ZERO,
)
from service.embedding.manifest import Precision

_BLOCK = 32  # MatMulNBits: weights and activations that share one scale
_TABLE_CHUNK_ROWS = 16_384  # bounds the memory that quantising a token table takes


# What a value belongs to: the residual stream, what a layer computes, or the last hidden states.
Part = Literal["stream", "layer", "hidden"]

# The largest scaled row of a token table in float16, whose largest number is 65,504: the larger,
# the further its small numbers are from those that float16 keeps less exactly.
_TABLE_PEAK_LOG2 = 14


@dataclass(frozen=True, slots=True)
class Rows:
    """Activations ready to be multiplied, one row a token.

    `scale` is what a row of their product lacks, None if nothing. Codes that count from a row's
    smallest value `low` give products of true size.
    """

    codes: Value
    scale: Value | None = None
    low: Value | None = None


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """The gain of a norm, its name in the graph, and what is added to the mean of the squares."""

    name: str
    gain: Array
    eps: float


class Arithmetic(Protocol):
    """What a precision must say; the graphs of the architectures are written in these words."""

    keeps_scale: bool
    """Whether a product has its true size at once, so that `restore` adds nothing."""

    quantises_attention: bool
    """Whether tokens attend in int8, too, where that is faster."""

    layer_type: np.dtype[Any]
    """The type of what a layer computes."""

    def rms_norm(self, graph: Graph, x: Value, norm: RmsNorm, *, of: Part, gives: Part) -> Value:
        """x / rms(x) * gain, computed in float32."""

    def add_rms_norm(
        self, graph: Graph, x: Value, skip: Value, norm: RmsNorm, *, gives: Part
    ) -> tuple[Value, Value]:
        """The norm of x + skip, both of the residual stream, and x + skip."""

    def rows(self, graph: Graph, x: Value) -> Rows:
        """Activations of either sign."""

    def one_sided_rows(self, graph: Graph, x: Value) -> Rows:
        """Activations bounded from below near zero, such as those behind a GELU."""

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        """rows @ matrix.T up to the scale of each row, for a weight stored [outputs, inputs]."""

    def restore(self, graph: Graph, product: Value, rows: Rows) -> Value:
        """A product of these rows, or some columns of it, at its true size."""

    def table(self, graph: Graph, name: str, table: Array, scale: float) -> Value:
        """The rows of a token table that input_ids name, multiplied by `scale`."""


class _Float32Layers:
    """What layers that compute in float32 have in common, whatever their products are made of."""

    layer_type: np.dtype[Any] = np.dtype(np.float32)

    def rms_norm(self, graph: Graph, x: Value, norm: RmsNorm, *, of: Part, gives: Part) -> Value:
        return _rms_norm(graph, x, norm, np.float32)

    def add_rms_norm(
        self, graph: Graph, x: Value, skip: Value, norm: RmsNorm, *, gives: Part
    ) -> tuple[Value, Value]:
        # Two operators, since SkipSimplifiedLayerNormalization takes twice their time on a CPU.
        total = graph.op("Add", x, skip)
        return self.rms_norm(graph, total, norm, of="stream", gives=gives), total


class Float32(_Float32Layers):
    """IEEE single precision, as the checkpoint is."""

    keeps_scale = True
    quantises_attention = False

    def rows(self, graph: Graph, x: Value) -> Rows:
        return Rows(x)

    one_sided_rows = rows

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        return graph.op("MatMul", rows.codes, graph.constant(name, matrix.T))

    def restore(self, graph: Graph, product: Value, rows: Rows) -> Value:
        return product

    def table(self, graph: Graph, name: str, table: Array, scale: float) -> Value:
        parts = (chunk * np.float32(scale) for chunk in _chunks(table))
        weights = graph.stream(name, table.shape, np.float32, parts)
        return graph.op("Gather", weights, graph.input_ids)


class Int8(_Float32Layers):
    """int8 weights with a scale per output, uint8 activations with a scale per token."""

    keeps_scale = False
    quantises_attention = True

    def rows(self, graph: Graph, x: Value) -> Rows:
        peak = graph.op("ReduceMax", graph.op("Abs", x), graph.integers(-1), keepdims=1)
        peak = graph.op("Max", peak, graph.constant("smallest", 1e-20, np.float32))
        codes = graph.op(
            "QuantizeLinear", graph.op("Div", x, peak), self._step(graph), self._zero(graph)
        )
        return Rows(codes, peak)

    def one_sided_rows(self, graph: Graph, x: Value) -> Rows:
        low = graph.op("ReduceMin", x, graph.integers(-1), keepdims=1)
        high = graph.op("ReduceMax", x, graph.integers(-1), keepdims=1)
        span = graph.op(
            "Max", graph.op("Sub", high, low), graph.constant("smallest", 1e-20, np.float32)
        )
        unit = graph.op("Div", graph.op("Sub", x, low), span)
        codes = graph.op(
            "QuantizeLinear",
            unit,
            graph.constant("step_one_sided", 1 / UINT8_MAX, np.float32),
            graph.constant("zero_one_sided", 0, np.uint8),
        )
        return Rows(codes, span, low)

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        codes, scale = quantise_rows(matrix)
        one_sided = rows.low is not None
        y = graph.op(
            "MatMulIntegerToFloat",
            rows.codes,
            graph.constant(name, codes.T),
            graph.constant("step_one_sided", 1 / UINT8_MAX, np.float32)
            if one_sided
            else self._step(graph),
            graph.constant(name + ".scale", scale),
            graph.constant("zero_one_sided", 0, np.uint8) if one_sided else self._zero(graph),
            domain=MICROSOFT,
        )
        if rows.low is None or rows.scale is None:
            return y
        sums = (codes.astype(np.float32) * scale[:, None]).sum(1)
        offset = graph.op("Mul", rows.low, graph.constant(name + ".sums", sums, np.float32))
        return graph.op("Add", graph.op("Mul", y, rows.scale), offset)

    def restore(self, graph: Graph, product: Value, rows: Rows) -> Value:
        if rows.scale is None or rows.low is not None:
            return product
        return graph.op("Mul", product, rows.scale)

    def table(self, graph: Graph, name: str, table: Array, scale: float) -> Value:
        return _int8_table(graph, name, table, scale)

    def _step(self, graph: Graph) -> Value:
        return graph.constant("step", 1 / INT8_MAX, np.float32)

    def _zero(self, graph: Graph) -> Value:
        return graph.constant("zero", UINT8_ZERO, np.uint8)


class Int8Block(Float32):
    """int8 weights and activations with a scale per 32 neighbours: slower and more faithful."""

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        outputs, inputs = matrix.shape
        if inputs % _BLOCK:
            padding = -inputs % _BLOCK
            matrix = np.pad(matrix, ((0, 0), (0, padding)))
        codes, scale = quantise_rows(matrix.reshape(-1, _BLOCK))
        shifted = (codes.astype(np.int16) + UINT8_ZERO).astype(np.uint8)
        return graph.op(
            "MatMulNBits",
            rows.codes,
            graph.constant(name, shifted.reshape(outputs, -1, _BLOCK)),
            graph.constant(name + ".scale", scale.reshape(outputs, -1)),
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=_BLOCK,
            accuracy_level=4,  # int8 arithmetic
        )

    def table(self, graph: Graph, name: str, table: Array, scale: float) -> Value:
        return _int8_table(graph, name, table, scale)


class Half(Float32):
    """16 bits a number in weights and layers, products summed in float32; for GPUs."""

    def __init__(self, layer_type: npt.DTypeLike) -> None:
        self.layer_type = np.dtype(layer_type)
        self._stream_type = np.dtype(np.float16 if layer_type == np.float16 else np.float32)

    def rms_norm(self, graph: Graph, x: Value, norm: RmsNorm, *, of: Part, gives: Part) -> Value:
        if self.layer_type == np.float16:
            return _rms_norm(graph, x, norm, np.float32 if gives == "hidden" else np.float16)
        # No kernel of CUDA takes one of float32 and bfloat16, and gives the other.
        if of == gives == "layer":
            return _rms_norm(graph, x, norm, self.layer_type)
        exact = x if of == "stream" else _cast(graph, x, np.float32)
        normed = _rms_norm(graph, exact, norm, np.float32)
        return _cast(graph, normed, self.layer_type) if gives == "layer" else normed

    def add_rms_norm(
        self, graph: Graph, x: Value, skip: Value, norm: RmsNorm, *, gives: Part
    ) -> tuple[Value, Value]:
        if gives != "layer":
            return super().add_rms_norm(graph, x, skip, norm, gives=gives)
        normed, _, _, total = graph.op_with_outputs(
            "SkipSimplifiedLayerNormalization",
            *(x, skip, graph.constant(norm.name, norm.gain, self._stream_type)),
            outputs=4,
            unwanted=(1, 2),
            domain=MICROSOFT,
            epsilon=norm.eps,
        )
        same = self._stream_type == self.layer_type
        return normed if same else _cast(graph, normed, self.layer_type), total

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        return graph.op("MatMul", rows.codes, graph.constant(name, matrix.T, self.layer_type))

    def table(self, graph: Graph, name: str, table: Array, scale: float) -> Value:
        factor = self._table_factor(table)
        parts = (chunk * np.float32(factor) for chunk in _chunks(table))
        weights = graph.stream(name, table.shape, self.layer_type, parts)
        rows = _cast(graph, graph.op("Gather", weights, graph.input_ids), np.float32)
        scaled = graph.op("Mul", rows, graph.constant(name + ".scale", scale / factor, np.float32))
        return scaled if self._stream_type == np.float32 else _cast(graph, scaled, np.float16)

    def _table_factor(self, table: Array) -> float:
        """A power of two, so that it can be taken back without a trace."""
        if self.layer_type != np.float16:
            return 1.0
        peak = max(float(np.abs(chunk).max()) for chunk in _chunks(table))
        return float(2.0 ** (_TABLE_PEAK_LOG2 - np.ceil(np.log2(peak)))) if peak else 1.0


ARITHMETIC: dict[Precision, Arithmetic] = {
    "fp32": Float32(),
    "int8": Int8(),
    "int8-block": Int8Block(),
    "fp16": Half(np.float16),
    "bf16": Half(ml_dtypes.bfloat16),
}


def quantise_rows(
    matrix: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 codes of each row, and the scale that a row's codes are multiplied with."""
    peak = np.abs(matrix).max(1)
    peak[peak == 0] = 1
    scale = peak / np.float32(INT8_MAX)
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


def _rms_norm(graph: Graph, x: Value, norm: RmsNorm, given: npt.DTypeLike) -> Value:
    """Of the type `given`."""
    return graph.op(
        "SimplifiedLayerNormalization",
        *(x, graph.constant(norm.name, norm.gain, given)),
        axis=-1,
        epsilon=norm.eps,
        stash_type=TensorProto.FLOAT,
    )


def _cast(graph: Graph, x: Value, dtype: npt.DTypeLike) -> Value:
    return graph.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _int8_table(graph: Graph, name: str, table: Array, scale: float) -> Value:
    scales = np.empty((len(table), 1), np.float32)

    def codes() -> Iterator[Array]:
        done = 0
        for chunk in _chunks(table):
            rows, row_scales = quantise_rows(chunk)
            scales[done : done + len(chunk), 0] = row_scales * np.float32(scale)
            done += len(chunk)
            yield rows

    weights = graph.stream(name, table.shape, np.int8, codes())
    rows = graph.op("Gather", weights, graph.input_ids)
    row_scales = graph.op("Gather", graph.constant(name + ".scale", scales), graph.input_ids)
    return graph.op("Mul", _cast(graph, rows, np.float32), row_scales)


def _chunks(table: Array) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(table), _TABLE_CHUNK_ROWS):
        yield np.asarray(table[start : start + _TABLE_CHUNK_ROWS], np.float32)
