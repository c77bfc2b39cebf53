"""Finds where the token table of a written graph lies in its weights."""

from pathlib import Path

import onnx

from service.embedding.manifest import TokenTable


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
        # Scales of rows are taken by input_ids, too, one number each.
        if tensor.name in read and place and tensor.dims[1] > 1:
            return TokenTable(offset=int(place["offset"]), bytes=int(place["length"]))
    return None
