"""The shape of a network: its family, with the sizes that its file gives, and what each of its layers consists of."""

from dataclasses import dataclass

from inferd_cpu.family import Activation, Family, Gating
from inferd_cpu.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Keys and values as one row for all heads (MLA, arXiv:2405.04434).

    Attributes:
        query_rank: Numbers that queries are made of; 0 where they are made of the hidden state.
        rank: Numbers that are kept for keys and values, beside the rotated ones.
        key_width: Numbers of a head's key that are made of them.
        value_width: Numbers of a head's value.
    """

    query_rank: int
    rank: int
    key_width: int
    value_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNet:
    """A layer that keeps a matrix for each head of a sequence (gated delta nets, arXiv:2412.06464).

    Attributes:
        key_heads: Heads of queries and of keys; each serves `value_heads / key_heads` value heads.
        value_heads: Heads of values.
        key_width: Numbers of a query and of a key.
        value_width: Numbers of a value.
        taps: Tokens that the convolution before it sees.
    """

    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    taps: int

    @property
    def keys_width(self) -> int:
        """Numbers of the keys of all heads."""
        return self.key_heads * self.key_width

    @property
    def values_width(self) -> int:
        """Numbers of the values of all heads."""
        return self.value_heads * self.value_width

    @property
    def convolved_width(self) -> int:
        """Numbers of the queries, keys and values of all heads, which are convolved."""
        return 2 * self.keys_width + self.values_width

    @property
    def matrix_floats(self) -> int:
        """Numbers in the matrices of all heads."""
        return self.value_heads * self.key_width * self.value_width

    @property
    def state_floats(self) -> int:
        """Numbers that are kept of a sequence: the matrices, the last tokens that are convolved, and their count."""
        return self.matrix_floats + (self.taps - 1) * self.convolved_width + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How rows find their experts.

    Attributes:
        count: Experts of a layer.
        used: Of them, for each row.
        feed_width: Numbers inside one.
        shared_width: Numbers inside those that every row goes to, together; 0 for none.
        gating: How logits become weights.
        normalised: Weights of the chosen ones are made to sum to 1.
        scale: Weights are multiplied with it.
        groups: Experts are in so many groups.
        groups_used: Of them, experts are chosen from.
        shared_gated: The shared ones have a gate of their own.
    """

    count: int
    used: int
    feed_width: int
    shared_width: int
    gating: Gating
    normalised: bool
    scale: float
    groups: int
    groups_used: int
    shared_gated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One decoder block.

    Attributes:
        heads: Query heads.
        kv_heads: Key and value heads; each serves `heads / kv_heads` query heads; 0 where it does not attend.
        key_width: Numbers in a query and in a key of one head, as they are kept.
        value_width: Numbers in a value of one head, as it is kept.
        feed_width: Numbers inside the feed-forward part, where it has no experts.
        window: A token sees so many tokens, itself among them; 0 for all. Where it is recurrent it is made of the
            token before it and itself.
        rope: The number of the rotation in `Architecture.ropes`; -1 for none.
        routed: Its feed-forward part has experts.
        recurrent: It keeps a state of the sequence, and nothing of its tokens.
        shares: The layer whose keys and values it reads; -1 for its own.
        sparsity: Gates are counted from so many standard deviations above their mean, and below that are 0; None: they
            are taken as they are.
    """

    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    feed_width: int
    window: int = 0
    rope: int = 0
    routed: bool = False
    recurrent: bool = False
    shares: int = -1
    sparsity: float | None = None

    @property
    def own_heads(self) -> int:
        """Key and value heads that it makes itself."""
        return 0 if self.shares >= 0 else self.kv_heads

    @property
    def attends(self) -> bool:
        """Whether it has keys and values."""
        return self.kv_heads > 0

    @property
    def convolves(self) -> bool:
        """Whether it is a short convolution."""
        return not self.attends and not self.recurrent

    @property
    def qk_width(self) -> int:
        """Numbers in the queries and keys of all heads."""
        return (self.heads + self.own_heads) * self.key_width

    @property
    def qkv_width(self) -> int:
        """Numbers in the queries, keys and values of all heads."""
        return self.qk_width + self.own_heads * self.value_width

    @property
    def mixed_width(self) -> int:
        """Numbers that attention gives, over all heads."""
        return self.heads * self.value_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a decoder.

    Attributes:
        name: As in the file.
        family: What it is made of.
        layers: Its blocks.
        width: Numbers in a hidden state.
        context_tokens: Tokens that the model was trained for.
        original_tokens: Tokens that it was trained for at first, before it was stretched.
        epsilon: Added to the mean square in norms.
        ropes: The rotations of its layers: that of layers without a window first.
        attention_scale: Scores are multiplied with it.
        attention_cap: Scores s become cap * tanh(s / cap); 0 for no cap.
        slope_bias: What the slopes of scores follow from; 0 for none.
        clamp: Queries, keys and values are kept within plus and minus this; 0 for no bounds.
        temperature_scale: Queries grow by so much for each e-fold of their position, counted in
        temperature_tokens: tokens (arXiv:2501.19399); 0 for not at all.
        activation: Of the feed-forward part.
        parallel: Attention and feed-forward part start from the same.
        embedding_scale: Embeddings are multiplied with it.
        residual_scale: What each part adds is multiplied with it.
        logit_scale: Logits are multiplied with it.
        logit_cap: Logits become cap * tanh(logit / cap); 0 for no cap.
        routing: Of layers with experts.
        latent: Of keys and values that are kept as one row.
        delta: Of recurrent layers.
        farther: Blocks behind the last layer that predict tokens farther ahead; they are not used.
        layer_inputs: Numbers of a token for each layer; 0 for none.
        streams: Hidden states of a token; 1 where it has no others beside that which layers compute.
        stream: The one of them that layers compute.
        convolution: Tokens that a short convolution sees; 0 where there is none.
    """

    name: str
    family: Family
    layers: tuple[LayerShape, ...]
    width: int
    context_tokens: int
    epsilon: float
    ropes: tuple[Rope, ...]
    attention_scale: float
    original_tokens: int = 0
    attention_cap: float = 0.0
    slope_bias: float = 0.0
    clamp: float = 0.0
    temperature_scale: float = 0.0
    temperature_tokens: int = 0
    activation: Activation = "silu"
    parallel: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0
    routing: Routing | None = None
    latent: Latent | None = None
    delta: DeltaNet | None = None
    layer_inputs: int = 0
    streams: int = 1
    stream: int = 0
    convolution: int = 0
    farther: int = 0

    def kept_widths(self, layer: int) -> tuple[int, int]:
        """Numbers that are kept for each token in a layer: of keys, and of values."""
        shape = self.layers[layer]
        if shape.recurrent or shape.shares >= 0:
            return 0, 0
        if shape.convolves:
            return self.width, 0
        return shape.kv_heads * shape.key_width, 0 if self.latent else shape.kv_heads * shape.value_width

    @property
    def kv_token_bytes(self) -> int:
        """Bytes that are kept for one token, over all layers, in fp32."""
        return 4 * sum(sum(self.kept_widths(layer)) for layer in range(len(self.layers)))

    @property
    def window_token_bytes(self) -> int:
        """Of them, those of layers with a window."""
        return 4 * sum(sum(self.kept_widths(i)) for i, layer in enumerate(self.layers) if layer.window)

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept of a sequence, whatever its length, over all recurrent layers."""
        return 4 * self.delta.state_floats * sum(layer.recurrent for layer in self.layers) if self.delta else 0

    @property
    def window(self) -> int:
        """Tokens that a token sees in layers with a window; 0 where there are none."""
        return max(layer.window for layer in self.layers)
