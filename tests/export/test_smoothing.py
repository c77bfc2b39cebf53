from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.checkpoint import open_checkpoint
from export.corpus import read_corpus
from export.graphs import gemma3
from export.graphs.blocks import Blocks
from export.graphs.graph import Graph
from export.observation import Observed, Peaks
from export.parity import cosine, embed
from export.precision import Float32, Int8
from export.smoothing import factors
from service.embedding.onnx_model import Embeddings
from tests.export.conftest import BundleOf

POSITIVE = hnp.arrays(np.float32, 16, elements=st.floats(0, 1e6, width=32))


@settings(derandomize=True)
@given(POSITIVE, POSITIVE)
def test_factors_can_be_divided_by(peaks: np.ndarray, weight_peaks: np.ndarray) -> None:
    found = factors(peaks, weight_peaks)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def build(folder: Path, checkpoint: Path, peaks: Peaks | None, *, int8: bool) -> Path:
    opened = open_checkpoint(str(checkpoint))
    config = msgspec.convert(opened.config, gemma3.Gemma3Config, strict=False)
    weights = gemma3.smoothed(opened.weights, config, peaks) if peaks else opened.weights
    with (folder / "graph.data").open("wb") as file:
        graph = Graph(file, "graph.data")
        blocks = Blocks(graph, Int8() if int8 else Float32(), weights, opened.max_tokens)
        hidden = gemma3.build(blocks, config, range(config.num_hidden_layers))
        pooled = blocks.normalise(blocks.mean_pool(hidden))
        graph.save(pooled, "embedding", config.hidden_size, folder / "graph.onnx")
    return folder / "graph.onnx"


def run(graph: Path, texts: list[np.ndarray]) -> Embeddings:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feeds = [{"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])} for ids in texts]
    return np.concatenate([session.run(["embedding"], feed)[0] for feed in feeds])


@pytest.fixture(scope="module")
def texts(bundle_of: BundleOf) -> list[np.ndarray]:
    sentences = [sentence.text for sentence in read_corpus().sentences]
    tokenizer = bundle_of("tiny", "fp32").tokenizer
    return [text.ids for text in tokenizer.tokenize(sentences, truncate=True)]


@pytest.fixture(scope="module")
def peaks(
    tiny_checkpoint: Path, texts: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Peaks:
    folder = tmp_path_factory.mktemp("observed")
    opened = open_checkpoint(str(tiny_checkpoint))
    config = msgspec.convert(opened.config, gemma3.Gemma3Config, strict=False)
    observed = Observed()
    with (folder / "graph.data").open("wb") as file:
        graph = Graph(file, "graph.data")
        blocks = Blocks(graph, observed, opened.weights, opened.max_tokens)
        hidden = gemma3.build(blocks, config, range(config.num_hidden_layers))
        pooled = blocks.normalise(blocks.mean_pool(hidden))
        graph.save(pooled, "x", 64, folder / "graph.onnx", observed.peaks.values())
    return observed.measure(folder / "graph.onnx", texts[:8])


def test_smoothing_changes_no_embedding(
    tiny_checkpoint: Path, texts: list[np.ndarray], peaks: Peaks, tmp_path: Path
) -> None:
    found = {}
    for name, used in (("plain", None), ("smoothed", peaks)):
        (tmp_path / name).mkdir()
        found[name] = run(build(tmp_path / name, tiny_checkpoint, used, int8=False), texts)
    assert cosine(found["plain"], found["smoothed"]).min() >= 0.999999


def test_smoothing_brings_int8_nearer_to_float32(
    tiny_checkpoint: Path, texts: list[np.ndarray], peaks: Peaks, tmp_path: Path
) -> None:
    """The checkpoint has channels with activations hundreds of times those of the others."""
    worst = {}
    for name in ("exact", "plain", "smoothed"):
        (tmp_path / name).mkdir()
    exact = run(build(tmp_path / "exact", tiny_checkpoint, None, int8=False), texts)
    for name, used in (("plain", None), ("smoothed", peaks)):
        graph = build(tmp_path / name, tiny_checkpoint, used, int8=True)
        worst[name] = cosine(run(graph, texts), exact).min()
    assert 1 - worst["smoothed"] < (1 - worst["plain"]) / 1.5


def test_int8_of_the_tiny_model_is_near_float32(bundle_of: BundleOf) -> None:
    sentences = [sentence.text for sentence in read_corpus().sentences]
    exact, quantised = (
        embed(bundle.model, bundle.tokenizer, sentences, 8)
        for bundle in (bundle_of("tiny", "fp32"), bundle_of("tiny", "int8"))
    )
    assert cosine(exact, quantised).mean() >= 0.99
