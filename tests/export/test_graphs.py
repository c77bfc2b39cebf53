"""The fused graphs against vectors that sentence-transformers made of the same checkpoints."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.parity import BATCH_INVARIANT_COSINE, GATES, cosine, embed
from service.embedding.manifest import Precision
from service.embedding.onnx_model import Embeddings
from tests.export.conftest import FUSED_BUNDLES, BundleOf

GOLDEN = Path(__file__).parent.parent / "golden"
MODELS = {"tiny": "tiny_gemma.npz", "starter": "starter.npz"}


def golden(model: str) -> tuple[list[str], Embeddings]:
    with np.load(GOLDEN / MODELS[model]) as content:
        return [str(text) for text in content["texts"]], content["embeddings"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch_texts", [1, 7])
def test_float32_equals_sentence_transformers(
    bundle_of: BundleOf, model: str, batch_texts: int
) -> None:
    texts, expected = golden(model)
    bundle = bundle_of(model, "fp32")
    found = embed(bundle.model, bundle.tokenizer, texts, batch_texts)
    assert cosine(found, expected).min() >= 0.999999


@pytest.mark.parametrize("precision", ["int8", pytest.param("int8-block", marks=pytest.mark.slow)])
def test_quantised_starter_stays_within_its_gate(bundle_of: BundleOf, precision: Precision) -> None:
    texts, expected = golden("starter")
    bundle = bundle_of("starter", precision)
    found = cosine(embed(bundle.model, bundle.tokenizer, texts, 7), expected)
    assert found.min() >= GATES[precision].cosine_min
    assert found.mean() >= GATES[precision].cosine_mean


@pytest.mark.parametrize(("model", "precision"), FUSED_BUNDLES)
def test_an_embedding_does_not_depend_on_its_batch(
    bundle_of: BundleOf, model: str, precision: Precision
) -> None:
    bundle = bundle_of(model, precision)
    limit = min(bundle.tokenizer.max_tokens, 600)
    lengths = st.lists(st.integers(1, limit), min_size=2, max_size=5)

    @settings(max_examples=15, derandomize=True)
    @given(lengths, st.integers(0, 2**31))
    def check(lengths: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        batch = [rng.integers(300, 2000, length) for length in lengths]
        together = bundle.model.run(batch)
        alone = np.concatenate([bundle.model.run([tokens]) for tokens in batch])
        assert cosine(together, alone).min() >= BATCH_INVARIANT_COSINE

    check()


@pytest.mark.parametrize(("model", "precision"), FUSED_BUNDLES)
def test_embeddings_have_unit_length(bundle_of: BundleOf, model: str, precision: Precision) -> None:
    bundle = bundle_of(model, precision)
    found = embed(bundle.model, bundle.tokenizer, ["", "one", "one two three"], 3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_keys_and_values_are_not_repeated_for_each_query_head(bundle_of: BundleOf) -> None:
    graph = onnx.load(bundle_of("tiny", "fp32").folder / "fp32.onnx", load_external_data=False)
    attributes = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.graph.node
        if node.op_type == "Attention"
    ]
    assert attributes
    assert all(a["q_num_heads"] == 3 and a["kv_num_heads"] == 1 for a in attributes)
    assert not {"Tile", "Expand"} & {node.op_type for node in graph.graph.node}


def test_a_sliding_layer_sees_256_tokens_to_either_side(bundle_of: BundleOf) -> None:
    """sliding_window 512 in config.json is a window of 257, which counts the token itself."""
    graph = onnx.load(bundle_of("tiny", "fp32").folder / "fp32.onnx", load_external_data=False)
    compared = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.graph.initializer
        for node in graph.graph.node
        if node.op_type == "LessOrEqual" and tensor.name in node.input
    }
    assert [int(value) for value in compared.values()] == [256]
