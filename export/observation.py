"""How large activations become: a float32 graph that is run over texts and watched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.graphs.graph import Array, Graph, Value
from export.precision import Float32, Part, RmsNorm, Rows
from service.embedding.tokenization import TokenIds

Peaks = Mapping[str, npt.NDArray[np.float32]]
"""The largest activation of each channel in front of a product, by the product's name, and the
largest of all that it gives, under the name that output_of() gives. By the name of a norm's gain
the largest number of the residual stream that it reads."""


def output_of(product: str) -> str:
    """Under which name the peaks have what a product gives."""
    return product + ".output"


class Observed(Float32):
    """float32 that is observed: `peaks` has a tensor of the graph for what Peaks has."""

    def __init__(self) -> None:
        self.peaks: dict[str, Value] = {}

    def rms_norm(self, graph: Graph, x: Value, norm: RmsNorm, *, of: Part, gives: Part) -> Value:
        if of == "stream":
            self.peaks[norm.name] = _largest(graph, x, 0, 1, 2)
        return super().rms_norm(graph, x, norm, of=of, gives=gives)

    def product(self, graph: Graph, rows: Rows, name: str, matrix: Array) -> Value:
        self.peaks[name] = _largest(graph, rows.codes, 0, 1)
        product = super().product(graph, rows, name, matrix)
        self.peaks[output_of(name)] = _largest(graph, product, 0, 1, 2)
        return product

    def measure(self, graph_path: Path, texts: Sequence[TokenIds]) -> Peaks:
        """The peaks over all tokens of some texts, each run alone so that there is no padding."""
        session = onnxruntime.InferenceSession(graph_path, providers=["CPUExecutionProvider"])
        largest = None
        for ids in texts:
            feed = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])}
            found = session.run(list(self.peaks.values()), feed)
            largest = found if largest is None else list(map(np.maximum, largest, found))
        return dict(zip(self.peaks, largest or (), strict=True))


def _largest(graph: Graph, x: Value, *axes: int) -> Value:
    return graph.op("ReduceMax", graph.op("Abs", x), graph.integers(*axes), keepdims=0)
