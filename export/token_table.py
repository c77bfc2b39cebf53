"""Finds where the token table of a written graph lies in its weights, for sessions to share it."""

from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import onnx
from onnx import helper

from service.embedding.manifest import TokenTable

_DTYPES = get_args(get_type_hints(TokenTable)["dtype"])


def find_token_table(graph_path: Path) -> TokenTable | None:
    """The table whose rows the graph takes by input_ids, where it lies beside the graph."""
    graph = onnx.load(graph_path, load_external_data=False).graph
    read = {
        node.input[0]
        for node in graph.node
        if node.op_type == "Gather" and node.input[1] == "input_ids"
    }
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        # Scales of rows are taken by input_ids, too, one number each.
        if tensor.name in read and place and dtype in _DTYPES and tensor.dims[1] > 1:
            found = {
                "name": tensor.name,
                "dtype": dtype,
                "rows": tensor.dims[0],
                "columns": tensor.dims[1],
                "offset": int(place["offset"]),
            }
            return msgspec.convert(found, TokenTable)
    return None
