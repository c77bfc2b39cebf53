from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.graphs.graph import Graph, Value
from export.precision import ARITHMETIC, quantise_rows
from service.embedding.manifest import Precision
from tests.export.conftest import FUSED_PRECISIONS

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@settings(derandomize=True)
@given(MATRICES)
def test_a_quantised_row_is_off_by_at_most_half_a_step(matrix: np.ndarray) -> None:
    codes, scale = quantise_rows(matrix)
    off = np.abs(codes * scale[:, None].astype(np.float64) - matrix)
    assert (off <= scale[:, None] * 0.501).all()


@pytest.mark.parametrize("precision", FUSED_PRECISIONS)
@pytest.mark.parametrize("one_sided", [False, True])
def test_a_linear_layer_is_the_product_within_its_precision(
    tmp_path: Path, precision: Precision, one_sided: bool
) -> None:
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((48, 64)).astype(np.float32)
    x = rng.standard_normal((3, 5, 64)).astype(np.float32)
    x[1] *= 1000  # a scale of its own
    x[2] = 0
    if one_sided:
        x = np.maximum(x, -0.17)
    found = _run(tmp_path, precision, matrix, x, one_sided=one_sided)
    expected = x @ matrix.T
    tolerance = 1e-5 if precision == "fp32" else 0.02
    for token, exact in zip(found.reshape(-1, 48), expected.reshape(-1, 48), strict=True):
        assert np.abs(token - exact).max() <= tolerance * max(np.abs(exact).max(), 1e-6)


def _run(
    folder: Path, precision: Precision, matrix: np.ndarray, x: np.ndarray, *, one_sided: bool
) -> np.ndarray:
    """x through a linear layer; x enters the graph as a constant."""
    arithmetic = ARITHMETIC[precision]
    with (folder / "g.data").open("wb") as file:
        graph = Graph(file, "g.data")
        given_x = graph.constant("x", x)
        to_rows = arithmetic.one_sided_rows if one_sided else arithmetic.rows
        rows = to_rows(graph, given_x)
        y: Value = arithmetic.restore(
            graph, arithmetic.product(graph, rows, "matrix", matrix), rows
        )
        flat = graph.op("Reshape", y, graph.integers(-1, matrix.shape[0]))
        graph.save(flat, "y", matrix.shape[0], folder / "g.onnx")
    session = onnxruntime.InferenceSession(folder / "g.onnx", providers=["CPUExecutionProvider"])
    ids = np.ones(x.shape[:2], np.int64)
    return np.asarray(session.run(["y"], {"input_ids": ids, "attention_mask": ids})[0])
