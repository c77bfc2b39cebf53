from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from export.graphs.blocks import Blocks
from export.graphs.graph import Array, Graph
from export.precision import Float32, Int8

TEXTS, TOKENS, HEADS, SIZE = 2, 100, 3, 32
LENGTHS = (100, 70)


def attended(
    folder: Path, arithmetic: Float32 | Int8, query: Array, key: Array, value: Array, reach: int
) -> Array:
    """(real tokens, heads * size), of all texts one after the other."""
    with (folder / "g.data").open("wb") as file:
        graph = Graph(file, "g.data")
        blocks = Blocks(graph, arithmetic, {}, 2_048)
        mixed = blocks.attention(
            *(graph.constant(name, x) for name, x in (("q", query), ("k", key), ("v", value))),
            heads=HEADS,
            key_value_heads=1,
            size=SIZE,
            scale=SIZE**-0.5,
            reach=reach,
        )
        flat = graph.op("Reshape", mixed, graph.integers(-1, HEADS * SIZE))
        graph.save(flat, "y", HEADS * SIZE, folder / "g.onnx")
    session = onnxruntime.InferenceSession(folder / "g.onnx", providers=["CPUExecutionProvider"])
    real = (np.arange(TOKENS) < np.array(LENGTHS)[:, None]).astype(np.int64)
    feed = {"input_ids": np.ones_like(real), "attention_mask": real}
    found: Array = session.run(["y"], feed)[0]
    return np.asarray(found[real.reshape(-1) == 1])


def expected(query: Array, key: Array, value: Array, reach: int) -> Array:
    results = []
    for text, length in enumerate(LENGTHS):
        q = query[text, :length].reshape(length, HEADS, SIZE)
        scores = np.einsum("qhd,kd->qhk", q, key[text, :length]) / np.sqrt(SIZE)
        apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        scores[np.broadcast_to((apart > reach)[:, None], scores.shape)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("qhk,kd->qhd", weights, value[text, :length])
        results.append(mixed.reshape(length, HEADS * SIZE))
    return np.concatenate(results)


def of_rows(found: Array, exact: Array) -> Array:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    return np.asarray((found * exact).sum(1) / lengths)


@pytest.fixture
def query_key_value() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    query, key, value = (
        rng.standard_normal((TEXTS, TOKENS, width)).astype(np.float32)
        for width in (HEADS * SIZE, SIZE, SIZE)
    )
    return query, key, value


@pytest.mark.parametrize("reach", [20, 256])
@pytest.mark.parametrize(("arithmetic", "cosine"), [(Float32(), 0.999999), (Int8(), 0.999)])
def test_tokens_attend_to_the_real_tokens_within_reach(
    tmp_path: Path,
    query_key_value: tuple[Array, Array, Array],
    arithmetic: Float32 | Int8,
    cosine: float,
    reach: int,
) -> None:
    found = attended(tmp_path, arithmetic, *query_key_value, reach)
    assert of_rows(found, expected(*query_key_value, reach)).min() >= cosine


def test_a_token_with_most_of_the_attention_and_nothing_to_give_drowns_no_others(
    tmp_path: Path, query_key_value: tuple[Array, Array, Array]
) -> None:
    """As the first token often is: 99 % of a row's weight, and a value near zero."""
    query, key, value = query_key_value
    key[:, 0] = query.reshape(TEXTS, TOKENS * HEADS, SIZE).mean(1)
    query[:] = np.tile(key[:, :1], (1, TOKENS, HEADS)) + 0.1 * query
    key[:, 0] *= 9 * np.sqrt(SIZE) / np.square(key[:, :1]).sum(-1)
    value[:, 0] *= 1e-3
    exact = expected(query, key, value, 256)
    assert of_rows(attended(tmp_path, Int8(), query, key, value, 256), exact).min() >= 0.999


def test_rows_of_zeros_are_no_numbers_out_of_range(
    tmp_path: Path, query_key_value: tuple[Array, Array, Array]
) -> None:
    query, key, value = query_key_value
    for x in (query, key, value):
        x[:, 7] = 0
    found = attended(tmp_path, Int8(), query, key, value, 256)
    assert of_rows(found, expected(query, key, value, 256)).min() >= 0.999
