"""Builds the fused graph of a known architecture straight from its checkpoint."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from export.checkpoint import Checkpoint
from export.corpus import read_corpus
from export.errors import CheckpointError
from export.graphs import bert, gemma3
from export.graphs.blocks import Blocks
from export.graphs.graph import Array, Graph, Value
from export.observation import Observed, Peaks
from export.precision import ARITHMETIC, Arithmetic
from export.progress import Progress
from export.rescaling import Rescaled
from export.smoothing import ScaledWeights
from service.embedding.manifest import Precision
from service.embedding.tokenization import Tokenizer

Target = Literal["cpu", "cuda"]
"""What a graph is written for: the processor, or CUDA's execution provider."""


@dataclass(frozen=True, slots=True)
class _Architecture:
    """`smoothed` and `rescaled` change weights but not the model, for int8 and for float16.

    Up to `window` tokens all tokens of a text see each other in every layer.
    """

    config: type[Any]
    build: Callable[[Blocks, Any, Iterable[int]], Value]
    smoothed: Callable[[Mapping[str, Array], Any, Peaks], ScaledWeights] | None = None
    rescaled: Callable[[Mapping[str, Array], Any, Peaks], Rescaled] | None = None
    window: Callable[[Any], int] | None = None


_ARCHITECTURES = {
    "gemma3_text": _Architecture(
        gemma3.Gemma3Config,
        gemma3.build,
        gemma3.smoothed,
        gemma3.rescaled,
        attrgetter("window"),
    ),
    "bert": _Architecture(bert.BertConfig, bert.build),
}

# From the fastest to the most faithful. Of CUDA's all that pass are kept, the most faithful first:
# they are as fast as each other, and often there is no GPU here to tell which do.
_LADDERS: dict[Target, dict[str, tuple[Precision, ...]]] = {
    "cpu": {
        "gemma3_text": ("int8", "int8-block", "fp32"),
        "bert": ("int8", "int8-block", "fp32"),
    },
    "cuda": {"gemma3_text": ("fp16", "bf16"), "bert": ("fp32",)},
}


def fused_ladder(architecture: str, target: Target) -> tuple[Precision, ...]:
    """The precisions that a known architecture can be written in for a target."""
    return _LADDERS[target][architecture]


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
    target: Target,
    graph_path: Path,
    output: str,
    tokenizer: Tokenizer,
    progress: Progress,
) -> int | None:
    """Write the graph, and its weights beside it (`.data`).

    For CUDA, where layers see no further than a window, that is a graph for texts that fit into it,
    which needs no mask, and another over the same weights for longer ones (long_path_of). Returns
    how many tokens fit, None where there is one graph for all.

    Raises:
        CheckpointError: config.json or a tensor is not what the architecture needs.
        ParityError: the precision cannot hold the weights or what the layers compute.
    """
    architecture = _ARCHITECTURES[checkpoint.architecture]
    try:
        config = msgspec.convert(checkpoint.config, architecture.config, strict=False)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{checkpoint.folder}/config.json is not of a {checkpoint.architecture}: {error}"
        ) from error
    checkpoint.weights.require(config.shapes() | _dense_shapes(checkpoint, config.hidden_size))

    longest = checkpoint.max_tokens

    def build(blocks: Blocks, description: str) -> Value:
        layers = progress(range(config.num_hidden_layers), description)
        pooled = blocks.mean_pool(architecture.build(blocks, config, layers))
        if checkpoint.dense:
            pooled = blocks.dense(pooled, [dense.weight for dense in checkpoint.dense])
        return blocks.normalise(pooled)

    def observe() -> Peaks:
        with tempfile.TemporaryDirectory(dir=graph_path.parent) as folder:
            path, observed = Path(folder, "observed.onnx"), Observed()
            with weights_path_of(path).open("wb") as weights_file:
                graph = Graph(weights_file, weights_path_of(path).name)
                blocks = Blocks(graph, observed, checkpoint.weights, longest)
                embeddings = build(blocks, "observing")
                peaks = observed.peaks.values()
                graph.save(embeddings, output, checkpoint.dimensions, path, peaks)
            texts = tokenizer.tokenize(read_corpus().calibration, truncate=True)
            return observed.measure(path, [text.ids for text in texts])

    rescaled = Rescaled(checkpoint.weights)
    if precision == "int8" and architecture.smoothed:
        rescaled = Rescaled(architecture.smoothed(checkpoint.weights, config, observe()))
    if precision == "fp16" and architecture.rescaled:
        rescaled = architecture.rescaled(checkpoint.weights, config, observe())
    window = architecture.window(config) if architecture.window and target == "cuda" else None
    arithmetic: Arithmetic = ARITHMETIC[precision]

    def blocks_for(graph: Graph, *, windowed: bool) -> Blocks:
        return Blocks(
            graph,
            arithmetic,
            rescaled.weights,
            longest,
            windowed,
            rescaled.eps_factors,
            rescaled.stream_factor,
        )

    with weights_path_of(graph_path).open("wb") as weights_file:
        graph = Graph(weights_file, weights_path_of(graph_path).name, counted=target == "cuda")
        blocks = blocks_for(graph, windowed=window is None)
        embeddings = build(blocks, f"{precision} layers")
        graph.save(embeddings, output, checkpoint.dimensions, graph_path)
        if window is None:
            return None
        longer = graph.another()
        blocks = blocks_for(longer, windowed=True)
        embeddings = build(blocks, f"{precision} layers, long")
        longer.save(embeddings, output, checkpoint.dimensions, long_path_of(graph_path))
    return window


def weights_path_of(graph_path: Path) -> Path:
    """Where the weights of a graph are."""
    return graph_path.with_name(graph_path.name + ".data")


def long_path_of(graph_path: Path) -> Path:
    """Where the graph for longer texts over the same weights is."""
    return graph_path.with_stem(graph_path.stem + "-long")


def _dense_shapes(checkpoint: Checkpoint, inputs: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for dense in checkpoint.dense:
        shapes[dense.weight] = (dense.outputs, inputs)
        inputs = dense.outputs
    return shapes
