"""What the architectures share: token tables, linear layers, norms, rotary tables, pooling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from export.graphs.graph import MICROSOFT, Array, Graph, Value
from export.graphs.int8_attention import int8_attention
from export.graphs.row_codes import UINT8_ZERO, zeros_of_rows
from export.precision import Arithmetic, Part, RmsNorm, Rows
from service.embedding.onnx_model import LENGTH_BORDER

# What an eps becomes behind a product that lacks its scale: such a row is smaller than its true
# size by a factor of up to a thousand, and the norm divides by its root mean square.
UNSCALED_EPS = 1e-12

# Added to a score it leaves a weight of zero, and twice of it is still a number.
_HIDDEN = -1e30
# The same in 16 bits.
_HIDDEN_IN_HALF = -30_000

_FLOAT = 1  # onnx.TensorProto.FLOAT
_BOOL = 9  # onnx.TensorProto.BOOL


def gain_of(norm: str) -> str:
    """Under which name a graph has the gain of a norm."""
    return norm + ".gain"


@dataclass(frozen=True, slots=True)
class Blocks:
    """The vocabulary of an architecture over one checkpoint at one precision.

    No text is longer than `max_tokens`, padding included. Where they are not `windowed`, all fit
    into every window of attention. `eps_factors` and `stream_factor` are those of `Rescaled`.
    """

    graph: Graph
    arithmetic: Arithmetic
    weights: Mapping[str, Array]
    max_tokens: int
    windowed: bool = True
    eps_factors: Mapping[str, float] = field(default_factory=dict)
    stream_factor: float = 1.0

    def embed(self, name: str, *, scale: float = 1.0) -> Value:
        """The token vectors.  # (texts, tokens, hidden)"""
        scale *= self.stream_factor
        return self.arithmetic.table(self.graph, name, self.weights[name], scale)

    def rows(self, x: Value) -> Rows:
        """Activations as the precision multiplies them; one for all products that take them."""
        return self.arithmetic.rows(self.graph, x)

    def product(self, rows: Rows, *names: str) -> Value:
        """The products with several weights side by side, up to the scale of each row."""
        matrix = np.concatenate([self.weights[name + ".weight"] for name in names])
        return self.arithmetic.product(self.graph, rows, "+".join(names), matrix)

    def restore(self, product: Value, rows: Rows) -> Value:
        """A product of these rows at its true size."""
        return self.arithmetic.restore(self.graph, product, rows)

    def linear(self, rows: Rows, *names: str) -> Value:
        """Linear layers side by side at their true size, without their bias."""
        return self.restore(self.product(rows, *names), rows)

    def bias(self, *names: str) -> Value:
        """The bias of linear layers side by side."""
        return self.graph.constant(
            "+".join(names) + ".bias",
            np.concatenate([self.weights[name + ".bias"] for name in names]),
        )

    def split(self, x: Value, sizes: Sequence[int]) -> list[Value]:
        """Parts of the last axis."""
        return self.graph.op_with_outputs(
            "Split", x, self.graph.integers(*sizes), outputs=len(sizes), axis=-1
        )

    def rms_norm(
        self, x: Value, name: str, eps: float, *, of: Part = "stream", gives: Part = "layer"
    ) -> Value:
        """RMSNorm with Gemma's gains; what is `of` a layer may lack the scale of its rows."""
        if of == "layer" and not self.arithmetic.keeps_scale:
            eps = UNSCALED_EPS
        eps *= self.eps_factors.get(name, 1.0)
        gain = self._gain(name)
        if gives == "stream":
            gain = gain * np.float32(self.stream_factor)
        norm = RmsNorm(gain_of(name), gain, eps)
        return self.arithmetic.rms_norm(self.graph, x, norm, of=of, gives=gives)

    def add_rms_norm(
        self, x: Value, skip: Value, name: str, eps: float, *, gives: Part = "layer"
    ) -> tuple[Value, Value]:
        """The RMSNorm of x + skip, and x + skip."""
        eps *= self.eps_factors.get(name, 1.0)
        norm = RmsNorm(gain_of(name), self._gain(name), eps)
        return self.arithmetic.add_rms_norm(self.graph, x, skip, norm, gives=gives)

    def _gain(self, name: str) -> Array:
        return 1 + self.weights[name + ".weight"]  # Gemma stores it less one

    def add_layer_norm(
        self, x: Value, skip: Value, name: str, eps: float, bias: Value | None = None
    ) -> Value:
        """The LayerNorm of x + skip + bias."""
        return self.graph.op(
            "SkipLayerNormalization",
            x,
            skip,
            self.weight(name + ".weight"),
            self.weight(name + ".bias"),
            bias,
            domain=MICROSOFT,
            epsilon=eps,
        )

    def rotary(self, x: Value, theta: float, head_size: int, max_tokens: int) -> Value:
        """Rotary position embedding of each head, from position 0 on."""
        inverse = theta ** (-np.arange(0, head_size, 2) / head_size)
        angles = np.arange(max_tokens)[:, None] * inverse  # (tokens, head_size / 2)
        return self.graph.op(
            "RotaryEmbedding",
            x,
            self.graph.integers(0),
            self.graph.constant(
                f"rotary.{theta:g}.cos", np.cos(angles), self.arithmetic.layer_type
            ),
            self.graph.constant(
                f"rotary.{theta:g}.sin", np.sin(angles), self.arithmetic.layer_type
            ),
            domain=MICROSOFT,
        )

    def attention(
        self,
        query: Value,
        key: Value,
        value: Value,
        *,
        heads: int,
        key_value_heads: int,
        size: int,
        scale: float,
        reach: int | None = None,
    ) -> Value:
        """Every token attends to the real tokens of its text, at most `reach` positions away."""
        graph = self.graph
        token_counts = self._token_counts()
        if not self.windowed:
            reach = None

        def exact(window: Value | None) -> Value:
            return graph.op(
                "Attention",
                *(query, key, value, window, None, None, token_counts),
                q_num_heads=heads,
                kv_num_heads=key_value_heads,
                scale=scale,
            )

        window = None if reach is None else self._window(reach)
        if window and graph.counted:
            window = self._additive(window, reach)
        if key_value_heads > 1 or not self.arithmetic.quantises_attention:
            return exact(window)
        # Quantising pays from about as many tokens on as the service keeps apart from shorter
        # texts, so that how a text is computed depends on nothing but its own length.
        long = graph.shared(
            "long", lambda: graph.op("Greater", self._length(), self._scalar(LENGTH_BORDER))
        )
        mask, tokens = self._mask(reach), self._length()
        zeros_of_rows(graph, UINT8_ZERO, heads)  # outside of the branch, for all layers
        sees_all = reach is None or reach >= LENGTH_BORDER
        return graph.branch(
            long,
            lambda: int8_attention(
                graph,
                (query, key, value),
                heads=heads,
                size=size,
                scale=scale,
                mask=mask,
                tokens=tokens,
            ),
            lambda: exact(None if sees_all else window),
        )

    def _window(self, reach: int) -> Value:
        """Allows the tokens at most `reach` positions away.  # (tokens, tokens)"""
        graph = self.graph

        def make() -> Value:
            steps = self._positions()
            apart = graph.op(
                "Sub",
                graph.op("Unsqueeze", steps, graph.integers(0)),
                graph.op("Unsqueeze", steps, graph.integers(1)),
            )
            return graph.op("LessOrEqual", graph.op("Abs", apart), self._scalar(reach))

        return graph.shared(f"window_{reach}", make)

    def _additive(self, window: Value, reach: int | None) -> Value:
        """A window as CUDA's kernels read it; of the other kind each layer would make its own."""
        graph, dtype = self.graph, self.arithmetic.layer_type
        nothing = graph.constant("nothing", 0, dtype)
        hidden = graph.constant("hidden", _HIDDEN_IN_HALF, dtype)
        return graph.shared(
            f"additive_window_{reach}", lambda: graph.op("Where", window, nothing, hidden)
        )

    def _mask(self, reach: int | None) -> Value:
        """What to add to the scores of a token.  # (texts, tokens, 1, tokens)

        Without a reach it is the same for all tokens of a text: (texts, 1, 1, tokens).
        """
        graph = self.graph

        def hiding(allowed: Value, *new_axes: int) -> Value:
            nothing = graph.constant("zero_float", 0, np.float32)
            hidden = graph.constant("hidden", _HIDDEN, np.float32)
            mask = graph.op("Where", allowed, nothing, hidden)
            return graph.op("Unsqueeze", mask, graph.integers(*new_axes))

        padding = graph.shared("padding", lambda: hiding(self._real(), 1, 2))
        if reach is None:
            return padding
        return graph.shared(
            f"mask_{reach}", lambda: graph.op("Add", hiding(self._window(reach), 0, 2), padding)
        )

    def _real(self) -> Value:
        """Which tokens are not padding.  # (texts, tokens)"""
        graph = self.graph

        def make() -> Value:
            if not graph.counted:
                return graph.op("Cast", graph.attention_mask, to=_BOOL)
            positions = graph.op("Unsqueeze", self._positions(), graph.integers(0))
            counts = graph.op("Unsqueeze", graph.token_counts, graph.integers(1))
            return graph.op("Less", positions, counts)

        return graph.shared("real", make)

    def _positions(self) -> Value:
        """0, 1, 2 and so on.  # (tokens,)"""
        # Cut from all that there are, since a Range of CUDA's leaves its length to the processor.
        graph = self.graph
        every = graph.constant("positions", np.arange(self.max_tokens), np.int64)
        return graph.shared("first_positions", lambda: self.first_rows(every))

    def first_rows(self, table: Value) -> Value:
        """As many rows of a table of positions as there are tokens."""
        return self.graph.op(
            "Slice", table, self.graph.integers(0), self._length(), self.graph.integers(0)
        )

    def mean_pool(self, hidden: Value) -> Value:
        """The mean over the real tokens of each text.  # (texts, hidden)

        Padding is selected away: whatever stands there, even what is not a number, has no part.
        """
        graph = self.graph
        real = graph.op("Unsqueeze", self._real(), graph.integers(2))
        kept = graph.op("Where", real, hidden, graph.constant("zero_float", 0, np.float32))
        total = graph.op("ReduceSum", kept, graph.integers(1), keepdims=0)
        counts = graph.op("Cast", self._token_counts(), to=_FLOAT)
        return graph.op("Div", total, graph.op("Unsqueeze", counts, graph.integers(1)))

    def dense(self, x: Value, names: Sequence[str]) -> Value:
        """Linear layers with nothing between them, as the one product that they are."""
        product = self.weights[names[0]].astype(np.float64)
        for name in names[1:]:
            product = self.weights[name].astype(np.float64) @ product
        matrix = self.graph.constant("+".join(names), product.T, np.float32)
        return self.graph.op("MatMul", x, matrix)

    def normalise(self, x: Value) -> Value:
        """Vectors of unit length."""
        return self.graph.op("LpNormalization", x, axis=-1, p=2)

    def weight(self, name: str) -> Value:
        """A vector of the checkpoint as it is."""
        return self.graph.constant(name, self.weights[name], np.float32)

    def _length(self) -> Value:
        graph = self.graph
        return graph.shared("length", lambda: graph.op("Shape", graph.input_ids, start=1, end=2))

    def _token_counts(self) -> Value:
        graph = self.graph
        if graph.counted:
            return graph.token_counts
        return graph.shared(
            "token_counts",
            lambda: graph.op("ReduceSum", graph.attention_mask, graph.integers(1), keepdims=0),
        )

    def _scalar(self, value: int) -> Value:
        return self.graph.constant(f"scalar_{value}", value, np.int64)
