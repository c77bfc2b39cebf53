"""Random weights for EmbeddingGemma with the outliers and the smoothness of trained ones.

Three things set trained weights apart from plain random ones, and decide what quantisation does:

- A few steady channels of the residual stream are far larger than the others, for every token.
- A few massive tokens, the first of each text among them, are far larger still, in channels of
  their own, and announce themselves in the product of the MLP.
- The network is smooth. The steady channels decide most of each gate, the other channels the
  rest, so that a neuron is nearly linear and an error does not grow through the layers.

Norm weights are stored as Gemma stores them: less one.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.checkpoint_tokenizer import ADDED_TOKENS, BOS, RESERVED_TOKENS

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# What each half of a layer makes of the root mean square of the regular channels.
ATTENTION_GROWTH, MLP_GROWTH = 1.04, 1.125

# The size of the outlying channels, where a regular one is 1: in the token table, and behind the
# layers that write them. Then the massive ones as the last of those layers writes them, whatever
# the regular ones are there: as in the real model, more than float16 holds (65,504).
STEADY_IN_TABLE, STEADY = 8.0, 60.0
MASSIVE_IN_TABLE, MASSIVE = 10.0, 1_500.0
MASSIVE_AT_LAST = 1e5
STEADY_LAYERS = 3

# The same behind the norms in front of attention and MLP, and behind the last norm.
NORMED_STEADY, NORMED_MASSIVE = 10.0, 30.0
POOLED_STEADY, POOLED_MASSIVE = 4.0, 2.0

# Of the other weights, those that read or write an outlying channel.
OUTLIER_WEIGHT = 0.03

# The product of gate and up that announces a massive token. One scale for a whole int8 tensor then
# costs a cosine of 0.09 (0.2 at 3,000; 0.01 to 0.02 in the real model), one scale a token 0.003.
MASSIVE_PRODUCT = 2_500.0

# The standard deviation of a gate over neurons, by the steady channels, and over tokens.
GATE_BIAS, GATE_SIGNAL = 3.0, 0.5

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a checkpoint, most of them under their names in config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    dense_size: int  # between 2_Dense and 3_Dense


# google/embeddinggemma-300m.
FULL = Shape(
    vocab_size=262_144,
    hidden_size=768,
    intermediate_size=1_152,
    num_hidden_layers=24,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=256,
    dense_size=3_072,
)

# Seven layers: the sixth attends to everything, as every sixth does.
TINY = Shape(
    vocab_size=2_048,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=7,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=32,
    dense_size=128,
)


@dataclass(frozen=True, slots=True)
class _Outliers:
    steady: IntArray  # channels
    massive: IntArray  # channels
    tokens: IntArray  # ids of the massive tokens

    @property
    def channels(self) -> IntArray:
        return np.concatenate([self.steady, self.massive])


@dataclass(frozen=True, slots=True)
class _Stream:
    """The residual stream of an ordinary token at one place: the size of its channels."""

    regular: float
    steady: float


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    shape: Shape
    outliers: _Outliers
    generator: np.random.Generator

    @property
    def before(self) -> _Stream:
        return _stream(self.index)

    @property
    def between(self) -> _Stream:
        """Behind attention, in front of the MLP."""
        return _Stream(self.before.regular * ATTENTION_GROWTH, self.before.steady)

    @property
    def after(self) -> _Stream:
        return _stream(self.index + 1)

    @property
    def massive_layers(self) -> tuple[int, ...]:
        """Those that write the massive channels: 2, 12 and 22 of 24."""
        count = self.shape.num_hidden_layers
        return min(2, count // 4), count // 2, count - 2

    @property
    def normed_steady(self) -> float:
        return min(NORMED_STEADY, self.between.steady / self.between.regular)

    @property
    def normed_massive(self) -> float | None:
        """None while only the token table has written the massive channels."""
        return NORMED_MASSIVE if self.index > self.massive_layers[0] else None

    @property
    def writers(self) -> slice:
        """The neurons that write the steady channels: on for every token but massive ones."""
        return slice(max(2, self.shape.intermediate_size // 128))

    @property
    def announcer(self) -> int | None:
        """The neuron that writes the massive channels, if this layer does."""
        return self.writers.stop if self.index in self.massive_layers else None


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The tensors of model.safetensors, by the names that sentence-transformers saves, sorted."""
    hidden = shape.hidden_size
    query = shape.num_attention_heads * shape.head_dim
    key_value = shape.num_key_value_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, shape.intermediate_size),
        "mlp.gate_proj": (shape.intermediate_size, hidden),
        "mlp.up_proj": (shape.intermediate_size, hidden),
        "post_attention_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "self_attn.k_norm": (shape.head_dim,),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, query),
        "self_attn.q_norm": (shape.head_dim,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.v_proj": (key_value, hidden),
    }
    layers = {
        f"layers.{index}.{name}.weight": size
        for index in range(shape.num_hidden_layers)
        for name, size in layer.items()
    }
    table = {"embed_tokens.weight": (shape.vocab_size, hidden), "norm.weight": (hidden,)}
    return dict(sorted((table | layers).items()))


def dense_shapes(shape: Shape) -> dict[str, tuple[int, int]]:
    """The weights of the two Dense modules, by their folders."""
    return {
        "2_Dense": (shape.dense_size, shape.hidden_size),
        "3_Dense": (shape.hidden_size, shape.dense_size),
    }


def parameters(shape: Shape) -> int:
    """How many numbers a checkpoint holds."""
    sizes = [*tensor_shapes(shape).values(), *dense_shapes(shape).values()]
    return sum(math.prod(size) for size in sizes)


def tensor(shape: Shape, seed: int, name: str) -> Iterator[FloatArray]:
    """One tensor, named by `tensor_shapes` or `dense_shapes`, in consecutive blocks of rows.

    It depends on nothing but its arguments, not even on which tensors were made before.
    """
    generator = _generator(seed, name)
    outliers = _outliers(shape, seed)
    if name == "embed_tokens.weight":
        yield from _token_table(shape, outliers, generator)
    elif name == "norm.weight":
        last = _stream(shape.num_hidden_layers)
        yield _pre_norm(shape, outliers, generator, last, POOLED_STEADY, POOLED_MASSIVE)
    elif name in dense_shapes(shape):
        reads_stream = name == "2_Dense"
        yield _linear(generator, dense_shapes(shape)[name], outliers if reads_stream else None)
    else:
        _, index, *_, kind, _ = name.split(".")
        layer = _Layer(int(index), shape, outliers, generator)
        yield _layer_tensor(layer, kind, tensor_shapes(shape)[name])


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def _outliers(shape: Shape, seed: int) -> _Outliers:
    """Five channels of 768; the first token of a text, a blank line, and one token of 200."""
    generator = _generator(seed, "outliers")
    channels = generator.permutation(shape.hidden_size)
    steady, massive = max(1, shape.hidden_size // 256), max(1, shape.hidden_size // 384)
    rare = generator.integers(len(RESERVED_TOKENS), shape.vocab_size, shape.vocab_size // 200)
    known = [ADDED_TOKENS.index(BOS), ADDED_TOKENS.index("\n\n")]
    return _Outliers(
        steady=channels[:steady],
        massive=channels[steady : steady + massive],
        tokens=np.unique([*known, *rare]),
    )


def _stream(layer: int) -> _Stream:
    regular = (ATTENTION_GROWTH * MLP_GROWTH) ** layer
    written = min(1.0, layer / STEADY_LAYERS)
    return _Stream(regular, regular * (STEADY_IN_TABLE + (STEADY - STEADY_IN_TABLE) * written))


def _layer_tensor(layer: _Layer, kind: str, size: tuple[int, ...]) -> FloatArray:
    match kind:
        case "input_layernorm":
            return _layer_pre_norm(layer, layer.before)
        case "pre_feedforward_layernorm":
            return _layer_pre_norm(layer, layer.between)
        case "post_attention_layernorm":
            return _attention_post_norm(layer)
        case "post_feedforward_layernorm":
            return _mlp_post_norm(layer)
        case "q_norm" | "k_norm":
            return _less_one(_spread(layer.generator, size, 0.1))
        case "q_proj" | "k_proj" | "v_proj":
            return _linear(layer.generator, size, layer.outliers)
        case "gate_proj" | "up_proj":
            return _mlp_in(layer, size, gate=kind == "gate_proj")
        case "down_proj":
            return _mlp_out(layer, size)
        case _:
            return _linear(layer.generator, size)


def _token_table(
    shape: Shape, outliers: _Outliers, generator: np.random.Generator
) -> Iterator[FloatArray]:
    """Gemma multiplies the table by sqrt(hidden): its rows are that much smaller."""
    unit = 1 / math.sqrt(shape.hidden_size)
    for start in range(0, shape.vocab_size, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, shape.vocab_size)
        rows = _linear(generator, (stop - start, shape.hidden_size))
        rows[:, outliers.channels] *= 0.1
        rows[:, outliers.steady] += STEADY_IN_TABLE * unit
        tokens = outliers.tokens[(outliers.tokens >= start) & (outliers.tokens < stop)]
        # Some are larger than the first token of a text, and set the scale of a whole batch.
        sizes = MASSIVE_IN_TABLE * unit * generator.uniform(0.8, 1.2, (len(tokens), 1))
        rows[np.ix_(tokens - start, outliers.massive)] = sizes
        yield rows


def _linear(
    generator: np.random.Generator, size: tuple[int, ...], reads: _Outliers | None = None
) -> FloatArray:
    """A matrix that keeps the root mean square of what it reads, all but blind to outliers."""
    weight = generator.standard_normal(size, dtype=np.float32)
    weight *= np.float32(1 / math.sqrt(size[-1]))
    if reads is not None:
        weight[:, reads.channels] *= OUTLIER_WEIGHT
    return weight


def _spread(
    generator: np.random.Generator, size: tuple[int, ...], deviation: float
) -> npt.NDArray[np.float64]:
    """Positive factors whose root mean square is 1."""
    # In float64: numpy's float32 exp differs between processors in the last bit.
    return np.exp(deviation * generator.standard_normal(size) - deviation**2)


def _less_one(weight: npt.NDArray[np.float64]) -> FloatArray:
    return (weight - 1).astype(np.float32)


def _layer_pre_norm(layer: _Layer, stream: _Stream) -> FloatArray:
    return _pre_norm(
        layer.shape, layer.outliers, layer.generator, stream, NORMED_STEADY, layer.normed_massive
    )


def _pre_norm(
    shape: Shape,
    outliers: _Outliers,
    generator: np.random.Generator,
    stream: _Stream,
    steady: float,
    massive: float | None,
) -> FloatArray:
    """Makes regular channels about 1 and outlying ones what is asked for: still outliers."""
    ratio = stream.steady / stream.regular
    # The steady channels are most of the root mean square by which RMSNorm divides.
    gain = math.sqrt(1 + len(outliers.steady) * ratio**2 / shape.hidden_size)
    weight = gain * _spread(generator, (shape.hidden_size,), 0.2)
    weight[outliers.steady] = gain * min(1, steady / ratio)
    weight[outliers.massive] = gain if massive is None else massive / _alone(shape, outliers)
    return _less_one(weight)


def _alone(shape: Shape, outliers: _Outliers) -> float:
    """The massive channels of a token in which all others are negligible, behind RMSNorm."""
    return math.sqrt(shape.hidden_size / len(outliers.massive))


def _attention_post_norm(layer: _Layer) -> FloatArray:
    adds = layer.before.regular * math.sqrt(ATTENTION_GROWTH**2 - 1)
    weight = adds * _spread(layer.generator, (layer.shape.hidden_size,), 0.3)
    weight[layer.outliers.massive] *= 0.1
    return _less_one(weight)


def _mlp_post_norm(layer: _Layer) -> FloatArray:
    adds = layer.between.regular * math.sqrt(MLP_GROWTH**2 - 1)
    weight = adds * _spread(layer.generator, (layer.shape.hidden_size,), 0.3)
    weight[layer.outliers.steady] = layer.after.steady - layer.before.steady
    weight[layer.outliers.massive] *= 0.1
    if layer.announcer is not None:
        is_last = layer.index == layer.massive_layers[-1]
        massive = MASSIVE_AT_LAST if is_last else MASSIVE * layer.after.regular
        weight[layer.outliers.massive] = massive / _alone(layer.shape, layer.outliers)
    return _less_one(weight)


def _mlp_in(layer: _Layer, size: tuple[int, ...], *, gate: bool) -> FloatArray:
    weight = _linear(layer.generator, size, layer.outliers)
    steady, massive = layer.outliers.steady, layer.outliers.massive
    # A gate is this when all steady channels add up.
    bias = GATE_BIAS / (layer.normed_steady * len(steady))
    if gate:
        weight *= GATE_SIGNAL
        draws = layer.generator.standard_normal((size[0], len(steady)), dtype=np.float32)
        weight[:, steady] = draws * np.float32(bias * math.sqrt(len(steady)))
    weight[layer.writers] *= 0.3
    weight[layer.writers, steady[:, None]] = bias
    if layer.announcer is not None:
        massive_in = layer.normed_massive or MASSIVE_IN_TABLE / layer.between.regular
        weight[layer.announcer] *= 0.1
        weight[layer.announcer, massive] = math.sqrt(MASSIVE_PRODUCT) / massive_in / len(massive)
        # Shut for ordinary tokens, whose steady channels outweigh the trace of massive ones.
        weight[layer.announcer, steady] = -bias if gate else 0
    return weight


def _mlp_out(layer: _Layer, size: tuple[int, ...]) -> FloatArray:
    weight = _linear(layer.generator, size)
    steady, massive = layer.outliers.steady, layer.outliers.massive
    weight[steady] *= 0.01
    # A trace of another neuron would be multiplied by a post norm of thousands.
    weight[massive] *= 1e-6
    weight[:, layer.writers] *= 0.1
    # As large as a regular channel, of which each neuron's gate and signal make so much.
    regular = math.sqrt((GATE_BIAS**2 + GATE_SIGNAL**2) / 2)
    weight[steady, layer.writers] = regular / (GATE_BIAS**2 * layer.writers.stop)
    if layer.announcer is not None:
        weight[:, layer.announcer] *= 0.1
        weight[massive, layer.announcer] = 10 / math.sqrt(size[1])
    return weight
