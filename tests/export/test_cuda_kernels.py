"""Whether CUDA has a kernel for every node, as far as that can be known without a GPU.

cuda_kernels.json has the kernels of the operators that are used, and says where it is from.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from export.__main__ import main as export
from export.graphs.graph import OPSETS

TABLE = json.loads((Path(__file__).parent / "cuda_kernels.json").read_text())
CONTROL_FLOW = {"If", "Loop", "Scan"}


@pytest.fixture(scope="module")
def graphs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    models = tmp_path_factory.mktemp("models")
    for name, source in (("gemma", str(tiny_checkpoint)), ("bert", "starter")):
        arguments = [source, "--name", name, "--models-dir", str(models), "--no-parity"]
        assert export([*arguments, "--target", "cuda"]) == 0
    return sorted(models.rglob("*.onnx"))


def test_there_is_a_graph_for_each_precision_and_length(graphs: list[Path]) -> None:
    assert [path.name for path in graphs] == [
        "fp32-cuda.onnx",
        "bf16-cuda-long.onnx",
        "bf16-cuda.onnx",
        "fp16-cuda-long.onnx",
        "fp16-cuda.onnx",
    ]


def test_every_node_has_a_kernel(graphs: list[Path]) -> None:
    for path in graphs:
        missing = {
            (node.domain, node.op_type, str(types))
            for node, types in typed_nodes(path)
            if not has_kernel(node, types)
        }
        assert not missing, path.name


def test_a_type_that_no_kernel_takes_is_noticed(graphs: list[Path]) -> None:
    (gelu, types) = next(
        (node, types) for node, types in typed_nodes(graphs[-1]) if node.op_type == "FastGelu"
    )
    assert has_kernel(gelu, types)
    assert not has_kernel(gelu, ["int64"] * len(types))


def test_no_graph_branches_and_short_texts_need_no_mask(graphs: list[Path]) -> None:
    """A CUDA graph cannot branch, and only without a mask FlashAttention is chosen."""
    for path in graphs:
        nodes = onnx.load(path, load_external_data=False).graph.node
        assert not CONTROL_FLOW & {node.op_type for node in nodes}
        masked = [bool(node.input[3]) for node in nodes if node.op_type == "Attention"]
        assert masked
        if "long" in path.name:  # of seven layers the sixth sees all
            assert masked == [True] * 5 + [False] + [True]
        else:
            assert not any(masked)


def test_both_graphs_of_a_variant_read_one_file_of_weights(graphs: list[Path]) -> None:
    for precision in ("fp16", "bf16"):
        short, long = (
            {
                tensor.name: {entry.key: entry.value for entry in tensor.external_data}
                for tensor in onnx.load(path, load_external_data=False).graph.initializer
                if tensor.external_data
            }
            for path in (path for path in reversed(graphs) if path.name.startswith(precision))
        )
        assert set(short) <= set(long)
        assert all(long[name] == place for name, place in short.items())


def test_ids_cross_as_int32_and_lengths_in_place_of_a_mask(graphs: list[Path]) -> None:
    for path in graphs:
        given = onnx.load(path, load_external_data=False).graph.input
        assert {value.name: value.type.tensor_type.elem_type for value in given} == {
            "input_ids": TensorProto.INT32,
            "token_counts": TensorProto.INT64,
        }


def test_layers_are_16_bits_and_the_residual_stream_is_float32_or_float16(
    graphs: list[Path],
) -> None:
    for path in graphs[1:]:
        half = {"fp16": "float16", "bf16": "bfloat16"}[path.name[:4]]
        stream = {"fp16": "float16", "bf16": "float"}[path.name[:4]]
        for node, types in typed_nodes(path):
            weights = [name for name in node.input if "_proj" in name]
            if node.op_type == "MatMul":
                assert set(types) == {half if weights else "float"}
            if node.op_type == "Add":  # nothing else is added than to the stream
                assert set(types) == {stream}
            if node.op_type in ("ReduceSum", "LpNormalization"):
                assert types[0] == "float"


def typed_nodes(path: Path) -> list[tuple[onnx.NodeProto, list[str | None]]]:
    """Each node with the types of its inputs, None for one that is left out."""
    graph = onnx.load(path, load_external_data=False).graph
    types: dict[str, str | None] = {"": None}
    types |= {tensor.name: type_name(tensor.data_type) for tensor in graph.initializer}
    types |= {value.name: type_name(value.type.tensor_type.elem_type) for value in graph.input}
    found = []
    for node in graph.node:
        given = [types[name] for name in node.input]
        types |= dict.fromkeys(filter(None, node.output), output_type(node, given))
        found.append((node, given))
    return found


def output_type(node: onnx.NodeProto, given: list[str | None]) -> str | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Cast":
            return type_name(attributes["to"])
        case "Shape":
            return "int64"
        case "Less" | "LessOrEqual":
            return "bool"
        case "Where" | "SimplifiedLayerNormalization":
            return given[1]
        case _:
            return given[0]


def type_name(number: int) -> str:
    dtype = helper.tensor_dtype_to_np_dtype(number)
    return "float" if dtype == np.float32 else dtype.name


SCHEMAS: dict[tuple[str, str], Any] = {
    (schema.domain, schema.name): schema
    for schema in sorted(get_all_operator_schema(), key=lambda schema: schema.since_version)
    if schema.since_version <= OPSETS.get(schema.domain, 0)
}


def has_kernel(node: onnx.NodeProto, types: list[str | None]) -> bool:
    schema = SCHEMAS[node.domain, node.op_type]
    formal = [(value.name, value.typeStr) for value in schema.inputs]
    for kernel in TABLE["kernels"]:
        first, last = kernel["since"]
        if (
            (kernel["domain"], kernel["operator"]) == (node.domain, node.op_type)
            and first <= schema.since_version <= (last or schema.since_version)
            and all(
                given is None or given in kernel["types"].get(key, [given])
                for names, given in zip(formal, types, strict=False)
                for key in names
            )
        ):
            return True
    return False
