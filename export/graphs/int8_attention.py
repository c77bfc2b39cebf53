"""Attention in int8, for query heads that share one key and one value.

In float32 its two products take nearly all of its time. In int8 they take a quarter of that, and
all passes over the scores together less than what is saved.
"""

import numpy as np

from export.graphs.graph import MICROSOFT, Graph, Value
from export.graphs.row_codes import (
    UINT8_MAX,
    UINT8_ZERO,
    codes_of_rows,
    largest_of_rows,
    scale_of_rows,
    scale_of_span,
    signed_codes_of_rows,
    zero_point,
)


def int8_attention(
    graph: Graph,
    query_key_value: tuple[Value, Value, Value],
    *,
    heads: int,
    size: int,
    scale: float,
    mask: Value,
    tokens: Value,
) -> Value:
    """What the heads of each token take from the values.  # (texts, tokens, heads * size)

    `mask` is added to the scores, (texts, tokens, heads, tokens). Every row has a scale of its
    own, so that a text's result does not depend on the others of its batch.
    """
    query, key, value = query_key_value
    one = graph.constant("one", 1, np.float32)
    # The heads of a token become rows of their own: all of them meet the same keys.
    query = graph.op("Reshape", query, graph.integers(0, -1, size))
    query_scale, key_scale = scale_of_rows(graph, query), scale_of_rows(graph, key)
    scores = graph.op(
        "MatMulIntegerToFloat",
        codes_of_rows(graph, query, query_scale, UINT8_ZERO, rows_per_token=heads),
        graph.op("Transpose", signed_codes_of_rows(graph, key, key_scale), perm=[0, 2, 1]),
        one,
        graph.op("Transpose", key_scale, perm=[0, 2, 1]),
        zero_point(graph, UINT8_ZERO),
        domain=MICROSOFT,
    )
    score_scale = graph.op("Mul", query_scale, graph.constant("score_scale", scale, np.float32))
    scores = graph.op("Mul", scores, score_scale)  # (texts, tokens * heads, tokens)
    per_head = graph.op("Concat", graph.integers(0, -1, heads), tokens, axis=0)
    hidden = graph.op("Add", graph.op("Reshape", scores, per_head), mask)
    per_row = graph.op("Concat", graph.integers(0, -1), tokens, axis=0)
    weights = graph.op("Reshape", graph.op("Softmax", hidden, axis=-1), per_row)
    # A weight takes the scale of its value. What counts for the step of a row is then how much a
    # token contributes: one that gets most of the attention often has next to nothing to give.
    value_scale = scale_of_rows(graph, value)
    shares = graph.op("Mul", weights, graph.op("Transpose", value_scale, perm=[0, 2, 1]))
    share_scale = scale_of_span(graph, largest_of_rows(graph, shares), UINT8_MAX)
    mixed = graph.op(
        "MatMulIntegerToFloat",
        codes_of_rows(graph, shares, share_scale),
        signed_codes_of_rows(graph, value, value_scale),
        one,
        one,
        domain=MICROSOFT,
    )
    mixed = graph.op("Mul", mixed, share_scale)
    return graph.op("Reshape", mixed, graph.integers(0, -1, heads * size))
