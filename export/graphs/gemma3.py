"""Gemma 3 as a text encoder, such as EmbeddingGemma: attends both ways, norms on both sides."""

from collections.abc import Callable, Iterable, Mapping

import msgspec
import numpy as np

from export.errors import CheckpointError
from export.graphs.blocks import Blocks, gain_of
from export.graphs.graph import MICROSOFT, Array, Value
from export.observation import Peaks, output_of
from export.rescaling import Rescaled, check_true_size, power_of_two, times
from export.smoothing import ScaledWeights, divided_gain, factors, input_peaks, scaled


class Gemma3Config(msgspec.Struct, frozen=True):
    """The fields of config.json that decide what the graph computes."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    query_pre_attn_scalar: float
    sliding_window: int
    rms_norm_eps: float
    rope_theta: float
    rope_local_base_freq: float
    max_position_embeddings: int
    layer_types: list[str]
    use_bidirectional_attention: bool = False
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    rope_scaling: dict[str, object] | None = None
    attn_logit_softcapping: float | None = None

    def __post_init__(self) -> None:
        expected = {
            "use_bidirectional_attention": True,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "rope_scaling": None,
            "attn_logit_softcapping": None,
        }
        for field, value in expected.items():
            if getattr(self, field) != value:
                raise CheckpointError(
                    f"config.json says {field}={getattr(self, field)!r}; "
                    f"the gemma3_text graph is built for {value!r}"
                )
        if len(self.layer_types) != self.num_hidden_layers or set(self.layer_types) - set(_LAYERS):
            raise CheckpointError(
                f"config.json must give each of its {self.num_hidden_layers} layers one of "
                f"{', '.join(_LAYERS)} in layer_types, but has {self.layer_types}"
            )

    @property
    def window(self) -> int:
        """Up to how many tokens all tokens of a text see each other in every layer."""
        return self.reach + 1

    @property
    def reach(self) -> int:
        """How many positions away a token of a sliding layer sees, on either side.

        transformers derives its window of sliding_window // 2 + 1 and keeps what is nearer than it
        (configuration_gemma3.py and modeling_gemma3.py, 4.57.6).
        """
        return self.sliding_window // 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight that the graph needs."""
        hidden, wide = self.hidden_size, self.intermediate_size
        query = self.num_attention_heads * self.head_dim
        key = self.num_key_value_heads * self.head_dim
        layer = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.k_norm": (self.head_dim,),
            "self_attn.o_proj": (hidden, query),
            "post_attention_layernorm": (hidden,),
            "pre_feedforward_layernorm": (hidden,),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
            "post_feedforward_layernorm": (hidden,),
        }
        shapes: dict[str, tuple[int, ...]] = {
            f"layers.{i}.{name}.weight": shape
            for i in range(self.num_hidden_layers)
            for name, shape in layer.items()
        }
        shapes["embed_tokens.weight"] = (self.vocab_size, hidden)
        shapes["norm.weight"] = (hidden,)
        return shapes


_LAYERS = ("sliding_attention", "full_attention")


def build(blocks: Blocks, config: Gemma3Config, layers: Iterable[int]) -> Value:
    """The last hidden states, `layers` being all layers in order.  # (texts, tokens, hidden)"""
    eps = config.rms_norm_eps
    x = blocks.embed("embed_tokens.weight", scale=config.hidden_size**0.5)
    normed = blocks.rms_norm(x, "layers.0.input_layernorm", eps)
    for i in layers:
        layer = f"layers.{i}."
        sliding = config.layer_types[i] == "sliding_attention"
        mixed = _attention(blocks, layer + "self_attn.", normed, config, sliding=sliding)
        mixed = blocks.rms_norm(
            mixed, layer + "post_attention_layernorm", eps, of="layer", gives="stream"
        )
        normed, x = blocks.add_rms_norm(x, mixed, layer + "pre_feedforward_layernorm", eps)
        wide = _feed_forward(blocks, layer + "mlp.", normed)
        wide = blocks.rms_norm(
            wide, layer + "post_feedforward_layernorm", eps, of="layer", gives="stream"
        )
        if i + 1 < config.num_hidden_layers:
            normed, x = blocks.add_rms_norm(x, wide, f"layers.{i + 1}.input_layernorm", eps)
        else:
            normed, _ = blocks.add_rms_norm(x, wide, "norm", eps, gives="hidden")
    return normed


def smoothed(weights: Mapping[str, Array], config: Gemma3Config, peaks: Peaks) -> ScaledWeights:
    """Weights of the same model whose products read channels of similar size.

    A factor can move from a norm's gain into the products behind it, from the outputs of v into
    the inputs of o of all heads that share them, and from the outputs of up into down.
    """
    changes: dict[str, Callable[[Array], Array]] = {}
    key_value_heads, size = config.num_key_value_heads, config.head_dim
    group = config.num_attention_heads // key_value_heads

    def shared(channels: Array) -> Array:
        """The largest of the channels that read the same output of v."""
        peak = channels.reshape(key_value_heads, group, size).max(1)
        return np.asarray(peak.reshape(-1))

    def repeated(channels: Array) -> Array:
        return np.repeat(channels.reshape(key_value_heads, size), group, axis=0).reshape(-1)

    for i in range(config.num_hidden_layers):
        attention, mlp = f"layers.{i}.self_attn.", f"layers.{i}.mlp."
        query, key, value, out = (attention + part + "_proj" for part in "qkvo")
        gate, up, down = (mlp + part + "_proj" for part in ("gate", "up", "down"))

        def divisor(*readers: str) -> Array:
            read = [input_peaks(weights[name + ".weight"]) for name in readers]
            return factors(peaks[readers[0]], np.max(read, axis=0))

        before_attention, before_mlp = divisor(query, key, value), divisor(gate, up)
        of_value = factors(shared(peaks[out]), shared(input_peaks(weights[out + ".weight"])))
        of_up = divisor(down)
        changes |= {
            f"layers.{i}.input_layernorm.weight": divided_gain(before_attention),
            query + ".weight": scaled(inputs=before_attention),
            key + ".weight": scaled(inputs=before_attention),
            value + ".weight": scaled(inputs=before_attention, outputs=1 / of_value),
            out + ".weight": scaled(inputs=repeated(of_value)),
            f"layers.{i}.pre_feedforward_layernorm.weight": divided_gain(before_mlp),
            gate + ".weight": scaled(inputs=before_mlp),
            up + ".weight": scaled(inputs=before_mlp, outputs=1 / of_up),
            down + ".weight": scaled(inputs=of_up),
        }
    return ScaledWeights(weights, changes)


def rescaled(weights: Mapping[str, Array], config: Gemma3Config, peaks: Peaks) -> Rescaled:
    """The same model with layers and a residual stream far below what float16 holds.

    What a norm reads may have any size, if the eps of that norm goes with its square: so powers of
    two move from norms into the products behind them, from v into o, and from up into down, and
    all that is added to the stream is multiplied with one.

    Raises:
        ParityError: a gate, which must have its true size in front of its GELU, is too large.
    """
    reads_stream, adds_to_stream = (
        [f"layers.{i}.{norm}_layernorm" for i in range(config.num_hidden_layers) for norm in norms]
        for norms in (("input", "pre_feedforward"), ("post_attention", "post_feedforward"))
    )
    reads_stream.append("norm")
    of_stream = min(
        *(power_of_two(peaks[gain_of(norm)]) for norm in reads_stream),
        *(power_of_two(np.abs(1 + weights[f"{norm}.weight"])) for norm in adds_to_stream),
    )
    changes: dict[str, Callable[[Array], Array]] = {}
    eps_factors = dict.fromkeys(reads_stream, of_stream**2)
    for i in range(config.num_hidden_layers):
        layer = f"layers.{i}."
        attention, mlp = layer + "self_attn.", layer + "mlp."
        query, key, value, out = (attention + part + "_proj" for part in "qkvo")
        gate, up, down = (mlp + part + "_proj" for part in ("gate", "up", "down"))
        check_true_size(peaks, gate)
        before_attention, before_mlp = power_of_two(peaks[query]), power_of_two(peaks[gate])
        of_query, of_key, of_value, of_out, of_down = (
            power_of_two(peaks[output_of(name)]) for name in (query, key, value, out, down)
        )
        of_up = min(power_of_two(peaks[output_of(up)]), power_of_two(peaks[down]))
        changes |= {
            layer + "input_layernorm.weight": divided_gain(np.asarray(1 / before_attention)),
            query + ".weight": times(of_query / before_attention),
            key + ".weight": times(of_key / before_attention),
            value + ".weight": times(of_value / before_attention),
            out + ".weight": times(of_out / of_value),
            layer + "pre_feedforward_layernorm.weight": divided_gain(np.asarray(1 / before_mlp)),
            gate + ".weight": times(1 / before_mlp),
            up + ".weight": times(of_up / before_mlp),
            down + ".weight": times(of_down / of_up),
        }
        eps_factors |= {
            attention + "q_norm": of_query**2,
            attention + "k_norm": of_key**2,
            layer + "post_attention_layernorm": of_out**2,
            layer + "post_feedforward_layernorm": of_down**2,
        }
    return Rescaled(ScaledWeights(weights, changes), eps_factors, of_stream)


def _attention(
    blocks: Blocks, name: str, x: Value, config: Gemma3Config, *, sliding: bool
) -> Value:
    """The output projection, up to the scale of each row: an RMS norm follows."""
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    rows = blocks.rows(x)
    # Three products, since taking one apart again costs more than quantising for each.
    query, key, value = (blocks.product(rows, f"{name}{part}_proj") for part in "qkv")
    # The norms of query and key cancel the scale of a row.
    query, key = (
        _rotated_heads(blocks, part, name + norm, count, config, sliding=sliding)
        for part, norm, count in ((query, "q_norm", heads), (key, "k_norm", key_value_heads))
    )
    mixed = blocks.attention(
        query,
        key,
        blocks.restore(value, rows),
        heads=heads,
        key_value_heads=key_value_heads,
        size=config.head_dim,
        scale=config.query_pre_attn_scalar**-0.5,
        reach=config.reach if sliding else None,
    )
    return blocks.product(blocks.rows(mixed), name + "o_proj")


def _rotated_heads(
    blocks: Blocks, x: Value, norm: str, heads: int, config: Gemma3Config, *, sliding: bool
) -> Value:
    graph, size = blocks.graph, config.head_dim
    if heads > 1:
        x = graph.op("Reshape", x, graph.integers(0, 0, heads, size))
    x = blocks.rms_norm(x, norm, config.rms_norm_eps, of="layer", gives="layer")
    if heads > 1:
        x = graph.op("Reshape", x, graph.integers(0, 0, heads * size))
    theta = config.rope_local_base_freq if sliding else config.rope_theta
    return blocks.rotary(x, theta, size, config.max_position_embeddings)


def _feed_forward(blocks: Blocks, name: str, x: Value) -> Value:
    """The down projection, up to the scale of each row: an RMS norm follows."""
    graph, rows = blocks.graph, blocks.rows(x)
    # The gate meets a nonlinearity; the scale of `up` stays in the rows of the next product.
    gate = blocks.linear(rows, name + "gate_proj")
    up = blocks.product(rows, name + "up_proj")
    wide = graph.op("Mul", graph.op("FastGelu", gate, domain=MICROSOFT), up)
    return blocks.product(blocks.rows(wide), name + "down_proj")
