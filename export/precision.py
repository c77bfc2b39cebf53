"""How a weight matrix is stored and multiplied at each precision.

A quantised product works on rows of codes. A token's codes are its activations divided by a scale
of its own, so that a text's embedding does not depend on the other texts of its batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from export.graphs.graph import MICROSOFT, Array, Graph, Value
from export.graphs.row_codes import (
    INT8_MAX,
    UINT8_MAX,
    UINT8_ZERO,
)
from service.embedding.manifest import Precision

_BLOCK = 32  # MatMulNBits: weights and activations that share one scale
_TABLE_CHUNK_ROWS = 16_384  # bounds the memory that quantising a token table takes


@dataclass(frozen=True, slots=True)
class Rows:
    """Activations ready to be multiplied, one row a token.

    `scale` is what a row of their product lacks, None if nothing. Codes that count from a row's
    smallest value `low` give products of true size.
    """

    codes: Value
    scale: Value | None = None
    low: Value | None = None


class Arithmetic(Protocol):
    """What a precision must say; the graphs of the architectures are written in these words."""

    keeps_scale: bool
    """Whether a product has its true size at once, so that `restore` adds nothing."""

    quantises_attention: bool
    """Whether tokens attend in int8, too, where that is faster."""

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


class Float32:
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


class Int8:
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


ARITHMETIC: dict[Precision, Arithmetic] = {
    "fp32": Float32(),
    "int8": Int8(),
    "int8-block": Int8Block(),
}


def quantise_rows(
    matrix: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 codes of each row, and the scale that a row's codes are multiplied with."""
    peak = np.abs(matrix).max(1)
    peak[peak == 0] = 1
    scale = peak / np.float32(INT8_MAX)
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


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
    return graph.op("Mul", graph.op("Cast", rows, to=1), row_scales)


def _chunks(table: Array) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(table), _TABLE_CHUNK_ROWS):
        yield np.asarray(table[start : start + _TABLE_CHUNK_ROWS], np.float32)
