"""Builds the fused graph of a known architecture straight from its checkpoint."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from export.checkpoint import Checkpoint
from export.corpus import read_corpus
from export.errors import CheckpointError
from export.graphs import bert, gemma3
from export.graphs.blocks import Blocks
from export.graphs.graph import Array, Graph, Value
from export.precision import ARITHMETIC, Arithmetic
from export.progress import Progress
from export.smoothing import Observed, Peaks
from service.embedding.manifest import Precision
from service.embedding.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class _Architecture:
    config: type[Any]
    build: Callable[[Blocks, Any, Iterable[int]], Value]
    smoothed: Callable[[Mapping[str, Array], Any, Peaks], Mapping[str, Array]] | None = None


_ARCHITECTURES = {
    "gemma3_text": _Architecture(gemma3.Gemma3Config, gemma3.build, gemma3.smoothed),
    "bert": _Architecture(bert.BertConfig, bert.build),
}


def is_fused(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is of a known architecture with modules that its graph can hold."""
    return (
        checkpoint.architecture in _ARCHITECTURES
        and checkpoint.modules[:2] == ("Transformer", "Pooling")
        and set(checkpoint.modules[2:]) <= {"Dense", "Normalize"}
        and all(dense.is_linear for dense in checkpoint.dense)
        and checkpoint.pooling.mode == "mean"
    )


def write_fused(
    checkpoint: Checkpoint,
    precision: Precision,
    graph_path: Path,
    output: str,
    tokenizer: Tokenizer,
    progress: Progress,
) -> None:
    """Write the graph, and its weights beside it (`.data`).

    Raises:
        CheckpointError: config.json or a tensor is not what the architecture needs.
    """
    architecture = _ARCHITECTURES[checkpoint.architecture]
    try:
        config = msgspec.convert(checkpoint.config, architecture.config, strict=False)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{checkpoint.folder}/config.json is not of a {checkpoint.architecture}: {error}"
        ) from error
    checkpoint.weights.require(config.shapes() | _dense_shapes(checkpoint, config.hidden_size))
    weights: Mapping[str, Array] = checkpoint.weights

    def write(path: Path, arithmetic: Arithmetic, description: str) -> None:
        weights_path = path.with_name(path.name + ".data")
        with weights_path.open("wb") as weights_file:
            graph = Graph(weights_file, weights_path.name)
            blocks = Blocks(graph, arithmetic, weights)
            layers = progress(range(config.num_hidden_layers), description)
            pooled = blocks.mean_pool(architecture.build(blocks, config, layers))
            if checkpoint.dense:
                pooled = blocks.dense(pooled, [dense.weight for dense in checkpoint.dense])
            observed = arithmetic.peaks if isinstance(arithmetic, Observed) else {}
            graph.save(
                blocks.normalise(pooled), output, checkpoint.dimensions, path, observed.values()
            )

    if precision == "int8" and architecture.smoothed:
        with tempfile.TemporaryDirectory(dir=graph_path.parent) as folder:
            observed = Observed()
            write(Path(folder, "observed.onnx"), observed, "observing")
            texts = tokenizer.tokenize(read_corpus().calibration, truncate=True)
            peaks = observed.measure(Path(folder, "observed.onnx"), [text.ids for text in texts])
        weights = architecture.smoothed(weights, config, peaks)
    write(graph_path, ARITHMETIC[precision], f"{precision} layers")


def _dense_shapes(checkpoint: Checkpoint, inputs: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for dense in checkpoint.dense:
        shapes[dense.weight] = (dense.outputs, inputs)
        inputs = dense.outputs
    return shapes
