"""Computes a graph for CUDA in numpy, number by number as a GPU keeps them.

A value of 16 bits is rounded to them after every operator. Products read 16 bits and are summed in
float32, and so are norms and attention, whose weights are rounded in between, as in the kernels of
cuBLAS, CUTLASS and FlashAttention. In which order they sum is not imitated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = Any  # of numpy, of any type, bfloat16 among them
Attributes = dict[str, Any]


def evaluate(graph_path: Path, tokens: list[np.ndarray]) -> tuple[Array, float]:
    """The embeddings of a padded batch, and the largest number that any layer came to."""
    model = onnx.load(graph_path)
    counts = np.array([len(ids) for ids in tokens], np.int64)
    input_ids = np.zeros((len(tokens), counts.max()), np.int32)
    for row, ids in zip(input_ids, tokens, strict=True):
        row[: len(ids)] = ids
    values: dict[str, Array] = {"": np.array(0), "input_ids": input_ids, "token_counts": counts}
    values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    largest = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] for name in node.input]
            results = OPERATORS[node.op_type](attributes, *inputs)
            if not isinstance(results, tuple):
                results = (results,)
            for name, result in zip(filter(None, node.output), results, strict=True):
                values[name] = result
                if result.dtype.kind in "fV":
                    largest = max(largest, float(np.abs(result.astype(np.float64)).max()))
    return values[model.graph.output[0].name], largest


def _exact(x: Array) -> Array:
    return x.astype(np.float32)


def _in_type_of_first(operator: Callable[..., Array]) -> Callable[..., Array]:
    def run(attributes: Attributes, first: Array, *others: Array) -> Array:
        if first.dtype.kind in "iub":
            return operator(first, *others)
        return operator(_exact(first), *map(_exact, others)).astype(first.dtype)

    return run


def _rms_norm(attributes: Attributes, x: Array, gain: Array) -> Array:
    exact = _exact(x)
    mean = np.mean(exact * exact, axis=-1, keepdims=True)
    return (exact / np.sqrt(mean + attributes["epsilon"]) * _exact(gain)).astype(gain.dtype)


def _add_rms_norm(attributes: Attributes, x: Array, skip: Array, gain: Array) -> tuple[Array, ...]:
    total = _exact(x) + _exact(skip)
    return _rms_norm(attributes, total, gain), total.astype(x.dtype)


def _rotary(attributes: Attributes, x: Array, start: Array, cos: Array, sin: Array) -> Array:
    texts, tokens, width = x.shape
    heads = x.reshape(texts, tokens, -1, 2 * cos.shape[1])
    first, second = np.split(heads, 2, axis=-1)
    cos, sin = cos[None, :tokens, None], sin[None, :tokens, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1).reshape(
        texts, tokens, width
    )


def _attention(
    attributes: Attributes, q: Array, k: Array, v: Array, mask: Array, *others: Array
) -> Array:
    heads, shared = attributes["q_num_heads"], attributes["kv_num_heads"]
    texts, tokens, _ = q.shape

    def split(x: Array, count: int) -> Array:
        return _exact(x).reshape(texts, tokens, count, -1).transpose(0, 2, 1, 3)

    query, key, value = split(q, heads), split(k, shared), split(v, shared)
    key, value = (np.repeat(x, heads // shared, axis=1) for x in (key, value))
    scores = query @ key.transpose(0, 1, 3, 2) * np.float32(attributes["scale"])
    scores = scores + _exact(mask)
    counts = others[-1]
    real = np.arange(tokens) < counts[:, None]
    scores = np.where(real[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = _exact(weights.astype(q.dtype)) @ value / weights.sum(-1, keepdims=True)
    return mixed.transpose(0, 2, 1, 3).reshape(texts, tokens, -1).astype(q.dtype)


def _gelu(x: Array) -> Array:
    cubic = np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(cubic))


def _slice(attributes: Attributes, x: Array, start: Array, end: Array, axes: Array) -> Array:
    assert list(axes) == [0]
    return x[int(start[0]) : int(end[0])]


def _unsqueeze(attributes: Attributes, x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(axes.tolist()))


def _reshape(attributes: Attributes, x: Array, shape: Array) -> Array:
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


OPERATORS: dict[str, Callable[..., Array]] = {
    "Abs": lambda _, x: np.abs(x),
    "Add": _in_type_of_first(np.add),
    "Attention": _attention,
    "Cast": lambda a, x: x.astype(helper.tensor_dtype_to_np_dtype(a["to"])),
    "Div": _in_type_of_first(np.divide),
    "FastGelu": _in_type_of_first(_gelu),
    "Gather": lambda _, table, indices: table[indices],
    "Less": lambda _, a, b: a < b,
    "LessOrEqual": lambda _, a, b: a <= b,
    "LpNormalization": lambda _, x: x / np.linalg.norm(x, axis=-1, keepdims=True),
    "MatMul": _in_type_of_first(np.matmul),
    "Mul": _in_type_of_first(np.multiply),
    "ReduceSum": lambda _, x, axes: x.sum(tuple(axes.tolist())),
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Shape": lambda a, x: np.array(x.shape[a["start"] : a["end"]]),
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipSimplifiedLayerNormalization": _add_rms_norm,
    "Slice": _slice,
    "Sub": _in_type_of_first(np.subtract),
    "Unsqueeze": _unsqueeze,
    "Where": lambda _, which, a, b: np.where(which, a, b),
}
