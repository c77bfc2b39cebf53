from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.token_table import find_token_table
from service.embedding.manifest import Precision
from tests.export.conftest import FUSED_BUNDLES, BundleOf


@pytest.mark.parametrize(("model", "precision"), FUSED_BUNDLES)
def test_the_token_table_lies_where_the_manifest_says(
    bundle_of: BundleOf, model: str, precision: Precision
) -> None:
    bundle = bundle_of(model, precision)
    (variant,) = bundle.manifest.variants
    place = variant.token_table
    assert place is not None
    weights = (bundle.folder / variant.weights.name).read_bytes()
    graph = onnx.load(bundle.folder / variant.graph.name).graph
    expected = max(graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    assert "embed" in expected.name
    assert weights[place.offset :][: place.bytes] == numpy_helper.to_array(expected).tobytes()


def test_a_graph_that_takes_no_rows_by_input_ids_has_no_token_table(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    node = onnx.helper.make_node("Identity", ["input_ids"], ["same"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["texts", "tokens"])
        for name in ("input_ids", "same")
    ]
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), path)
    assert find_token_table(path) is None
