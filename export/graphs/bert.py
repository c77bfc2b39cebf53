"""BERT as a text encoder, such as all-MiniLM-L6-v2: learned positions, norms after each block."""

from collections.abc import Iterable

import msgspec

from export.errors import CheckpointError
from export.graphs.blocks import Blocks
from export.graphs.graph import MICROSOFT, Value

# The fused operators that add a bias and apply the activation of this name.
_ACTIVATIONS = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}


class BertConfig(msgspec.Struct, frozen=True):
    """The fields of config.json that decide what the graph computes."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float
    hidden_act: str
    type_vocab_size: int = 2
    position_embedding_type: str = "absolute"

    def __post_init__(self) -> None:
        if self.hidden_act not in _ACTIVATIONS or self.position_embedding_type != "absolute":
            raise CheckpointError(
                "the bert graph is built for absolute positions and one of "
                f"{', '.join(_ACTIVATIONS)}; config.json says {self.position_embedding_type} "
                f"and {self.hidden_act}"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight that the graph needs."""
        hidden, wide = self.hidden_size, self.intermediate_size
        linear = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (wide, hidden),
            "output.dense": (hidden, wide),
        }
        norms = ("attention.output.LayerNorm", "output.LayerNorm")
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, hidden),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, hidden),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for i in range(self.num_hidden_layers):
            layer = f"encoder.layer.{i}."
            for name, shape in linear.items():
                shapes[f"{layer}{name}.weight"] = shape
                shapes[f"{layer}{name}.bias"] = shape[:1]
            for name in norms:
                shapes[f"{layer}{name}.weight"] = shapes[f"{layer}{name}.bias"] = (hidden,)
        return shapes


def build(blocks: Blocks, config: BertConfig, layers: Iterable[int]) -> Value:
    """The last hidden states, `layers` being all layers in order.  # (texts, tokens, hidden)"""
    x = _embeddings(blocks, config)
    for i in layers:
        layer = f"encoder.layer.{i}."
        x = _attention(blocks, layer + "attention.", x, config)
        x = _feed_forward(blocks, layer, x, config)
    return x


def _embeddings(blocks: Blocks, config: BertConfig) -> Value:
    """The norm of token + position + segment 0."""
    weights, name = blocks.weights, "embeddings."
    positions = (
        weights[name + "position_embeddings.weight"]
        + weights[name + "token_type_embeddings.weight"][0]
    )
    places = blocks.first_rows(blocks.graph.constant(name + "positions", positions))
    tokens = blocks.embed(name + "word_embeddings.weight")
    return blocks.add_layer_norm(tokens, places, name + "LayerNorm", config.layer_norm_eps)


def _attention(blocks: Blocks, name: str, x: Value, config: BertConfig) -> Value:
    graph, heads = blocks.graph, config.num_attention_heads
    parts = [name + "self." + part for part in ("query", "key", "value")]
    query_key_value = graph.op("Add", blocks.linear(blocks.rows(x), *parts), blocks.bias(*parts))
    mixed = blocks.attention(
        *blocks.split(query_key_value, [config.hidden_size] * 3),
        heads=heads,
        key_value_heads=heads,
        size=config.hidden_size // heads,
        scale=(config.hidden_size // heads) ** -0.5,
    )
    projected = blocks.linear(blocks.rows(mixed), name + "output.dense")
    return blocks.add_layer_norm(
        projected,
        x,
        name + "output.LayerNorm",
        config.layer_norm_eps,
        blocks.bias(name + "output.dense"),
    )


def _feed_forward(blocks: Blocks, layer: str, x: Value, config: BertConfig) -> Value:
    wide = blocks.graph.op(
        _ACTIVATIONS[config.hidden_act],
        blocks.linear(blocks.rows(x), layer + "intermediate.dense"),
        blocks.bias(layer + "intermediate.dense"),
        domain=MICROSOFT,
    )
    rows = blocks.arithmetic.one_sided_rows(blocks.graph, wide)
    return blocks.add_layer_norm(
        blocks.linear(rows, layer + "output.dense"),
        x,
        layer + "output.LayerNorm",
        config.layer_norm_eps,
        blocks.bias(layer + "output.dense"),
    )
