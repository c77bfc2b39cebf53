"""Exports an encoder that has no graph of its own here, through optimum's ONNX exporter."""

import importlib.util
import tempfile
from pathlib import Path

import onnx
from onnx import helper

from export.checkpoint import Checkpoint
from export.errors import CheckpointError

_OPSET = 18  # the highest that the exporter traces every supported architecture with


def write_traced(checkpoint: Checkpoint, graph_path: Path, output: str) -> None:
    """Write the traced float32 graph, and its weights beside it (`.data`).

    Raises:
        CheckpointError: the exporter is not installed, or cannot export this checkpoint.
    """
    if importlib.util.find_spec("optimum") is None:
        raise CheckpointError(
            f"{checkpoint.id} is of the architecture {checkpoint.architecture}, which is exported "
            "by optimum; install it with: uv sync --extra export"
        )
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as folder:
        try:
            main_export(
                str(checkpoint.folder),
                output=folder,
                task="sentence-similarity",
                library_name="sentence_transformers",
                opset=_OPSET,
                device="cpu",
                do_validation=False,
                local_files_only=True,
            )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f"optimum cannot export {checkpoint.id} ({checkpoint.architecture}): {error}"
            ) from error
        model = onnx.load(Path(folder) / "model.onnx")
    _normalise_output(model, output)
    onnx.save(
        model,
        graph_path,
        save_as_external_data=True,
        location=graph_path.name + ".data",
        size_threshold=1024,
    )


def _normalise_output(model: onnx.ModelProto, output: str) -> None:
    """Make `output` the only output, at unit length whatever the checkpoint's last module is."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["unnormalised" if name == output else name for name in node.output]
    graph.node.append(helper.make_node("LpNormalization", ["unnormalised"], [output], axis=-1, p=2))
    kept = [value for value in graph.output if value.name == output]
    del graph.output[:]
    graph.output.extend(kept)
