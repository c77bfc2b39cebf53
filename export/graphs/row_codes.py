"""Rows of activations as integers with a scale each, the units that int8 products are made of."""

import numpy as np
from onnx import TensorProto

from export.graphs.graph import Graph, Value

INT8_MAX = 127
UINT8_MAX = 255
UINT8_ZERO = 128
"""The code of 0 among unsigned codes of numbers of either sign."""

_WHOLE_ROW = 1 << 20  # QuantizeLinear: a block that no row is longer than
_SMALLEST = 1e-20  # keeps a row of zeros from being divided by zero


def scale_of_rows(graph: Graph, x: Value) -> Value:
    """What one step of 8 bits is worth in each row, for both signs.  # (texts, rows, 1)"""
    return scale_of_span(graph, largest_of_rows(graph, graph.op("Abs", x)), INT8_MAX)


def scale_of_span(graph: Graph, span: Value, steps: int) -> Value:
    """What one of so many steps over a span is worth; never 0."""
    step = graph.op("Mul", span, graph.constant(f"one_of_{steps}", 1 / steps, np.float32))
    return graph.op("Max", step, graph.constant("smallest", _SMALLEST, np.float32))


def largest_of_rows(graph: Graph, x: Value) -> Value:
    """The largest number of each row.  # (texts, rows, 1)"""
    return graph.op("ReduceMax", x, graph.integers(-1), keepdims=1)


def codes_of_rows(
    graph: Graph, x: Value, scale: Value, zero: int = 0, *, rows_per_token: int = 1
) -> Value:
    """uint8 codes, of which `zero` stands for 0."""
    # A row is one block. To divide it by its scale first would be one pass more.
    if zero:
        zeros = zeros_of_rows(graph, zero, rows_per_token)
        return graph.op("QuantizeLinear", x, scale, zeros, axis=-1, block_size=_WHOLE_ROW)
    return _codes_around_zero(graph, x, scale, TensorProto.UINT8)


def signed_codes_of_rows(graph: Graph, x: Value, scale: Value) -> Value:
    """int8 codes, of which 0 stands for 0."""
    return _codes_around_zero(graph, x, scale, TensorProto.INT8)


def zeros_of_rows(graph: Graph, zero: int, rows_per_token: int = 1) -> Value:
    """The code of 0 for each row.  # (texts, tokens * rows_per_token, 1)"""

    def make() -> Value:
        texts_tokens = graph.op("Shape", graph.input_ids)
        rows = graph.op("Mul", texts_tokens, graph.integers(1, rows_per_token))
        shape = graph.op("Concat", rows, graph.integers(1), axis=0)
        return graph.op("Expand", zero_point(graph, zero), shape)

    return graph.shared(f"zeros_{zero}_{rows_per_token}", make)


def zero_point(graph: Graph, zero: int) -> Value:
    """The uint8 code of 0, for a product of codes."""
    return graph.constant(f"zero_point_{zero}", zero, np.uint8)


def _codes_around_zero(graph: Graph, x: Value, scale: Value, output_dtype: int) -> Value:
    return graph.op(
        "QuantizeLinear", x, scale, axis=-1, block_size=_WHOLE_ROW, output_dtype=output_dtype
    )
