"""What a block of a decoder can consist of: the words in which an architecture is described.

What a file says of itself (sizes, scales, windows, how positions are scaled) is read from it; a `Family` holds what
only the name of the architecture says. The defaults are those of Llama (arXiv:2302.13971). Both engines compute from
this description, so a new architecture of known parts is an entry of `families.py` and a test against its reference.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2", "clamped"]
"""What becomes of a gate, or of what goes up where there is no gate.

gelu is that with the error function; relu2 the square of what is above 0 (arXiv:2109.08668); clamped is
x * sigmoid(1.702 x) of gates up to 7, times 1 more than the ups, which are kept from -7 to 7.
"""

HeadNorms = Literal["", "head", "heads", "row"]
"""Of queries and keys. head: each head with the same weights; heads: with weights of its own; row: all heads as one."""

Delta = Literal["", "grouped", "tiled"]
"""Of gated delta nets: value heads that share a key head are neighbours, or as many apart as there are key heads."""

Gating = Literal["softmax", "sigmoid", "chosen", "mixer"]
"""How logits of experts become weights.

chosen: softmax over those that were chosen; mixer: of each that is chosen its softmax among those that are nearly as
good and were not chosen before it (SparseMixer, arXiv:2409.12136).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Which experts a row goes to, and with which weight (arXiv:1701.06538, 2401.06066).

    Attributes:
        gating: Unless the file says it.
        normalised: The weights of the chosen experts are made to sum to 1, unless the file says it.
        shared: There are experts that every row goes to: "" for none, "plain", "gated" by a sigmoid of the row, or
            "may" where the file says whether there are.
        optional: The file may have no experts at all.
        choice_bias: A bias may be added to the weights for the choice alone (arXiv:2408.15664).
        beside: They stand beside a dense feed-forward part, each with norms of its own.
    """

    gating: Gating = "softmax"
    normalised: bool = False
    shared: Literal["", "plain", "gated", "may"] = ""
    optional: bool = False
    choice_bias: bool = False
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What tells one architecture from another.

    Attributes:
        interleaved: The rows of queries and keys are stored so that rotary pairs are neighbours (2i, 2i + 1); else a
            pair is (i, i + half).
        norm: "rms" (arXiv:1910.07467) or "layer" (arXiv:1607.06450).
        head_norms: Of queries and keys, before they are rotated.
        head_norms_optional: A file may have none.
        head_norms_after: They come after the rotation.
        attention_norm: Name of the norm before attention, "" for none.
        first_unnormed: The first layer may have no norm before attention.
        attention_norm_own: Name of that one where a file has it; the other is then that of the feed-forward part.
        attention_post_norm: Of the one after it, before the sum.
        feed_norm: Of the one before the feed-forward part; with `parallel` "" means that of attention.
        feed_post_norm: Of the one after it.
        final_norm: Of the one before the head, "" for none.
        parallel: Attention and feed-forward part both start from what the block was given; None: the file says it.
        activation: Of the feed-forward part.
        gated: It has gates.
        value_norm: Values have a norm without weights.
        unscaled: Scores are not scaled, unless the file says it.
        shared_keys: The last layers may read the keys and values of earlier ones of their kind.
        layer_inputs: Each token has numbers for each layer, which may be none.
        streams: There are several hidden states of a token, of which layers compute one (AltUp, arXiv:2301.13310), and
            a short way around attention (LAuReL, arXiv:2411.07501).
        sinks: Each head has a score that belongs to no key (arXiv:2309.17453).
        convolutions: Layers without key heads are short convolutions.
        delta: All but every so manieth layer keep a matrix for each head instead of keys and values (gated delta nets,
            arXiv:2412.06464).
        output_gated: What attention gives is multiplied with the sigmoid of gates; those of a head are behind its
            queries.
        encodes: Tokens see those behind them, too, and no text is generated (BERT, arXiv:1810.04805). Of a window one
            half is behind them.
        sum_norms: Norms after attention and feed-forward part are of the sum, not of what is added.
        embedded: Embeddings have that of the first type of token added, where a file has types, and a norm.
        embedding_normed: Embeddings have a norm.
        positions: Each position has an embedding, which is added.
        latent: Keys and values are kept as one short row for all heads (MLA, arXiv:2405.04434).
        window_pattern: Every so manieth layer sees all tokens, the others a window, where the file has one; 1: all
            layers see the window.
        window_first: The first of so many sees all, not the last.
        window_rope: How layers with a window rotate: "same", or "plain" for a base of their own and no scaling.
        full_rope: Layers without a window rotate, where others have one.
        slopes: Scores fall with the distance, in each head by a slope of its own (ALiBi, arXiv:2108.12409), as far as
            the file says it.
        unrotated: Every so manieth layer does not rotate; 0 for none, 1 for all.
        divided: The file must say what frequencies are divided by.
        sections: Rotated pairs may belong to time, height and width, which are the same for all tokens of a text.
        yarn_truncates: The borders of YaRN's ramp are whole numbers.
        embedding_root: Embeddings are multiplied with the root of the width.
        logits_divided: The file's scale of logits divides.
        older_scales: A file that says no scales is older than their keys, and has those of MiniCPM's first models.
        rotates_if_said: Layers do not rotate where the file says that the rotation was not trained.
        wide_scale: With so many layers, queries are scaled by the width over the heads, not by that of a head.
        experts: Where there are some.
    """

    interleaved: bool = False
    norm: Literal["rms", "layer"] = "rms"
    head_norms: HeadNorms = ""
    head_norms_optional: bool = False
    head_norms_after: bool = False
    attention_norm: str = "attn_norm"
    first_unnormed: bool = False
    attention_norm_own: str = ""
    attention_post_norm: str = ""
    feed_norm: str = "ffn_norm"
    feed_post_norm: str = ""
    final_norm: str = "output_norm"
    parallel: bool | None = False
    activation: Activation = "silu"
    gated: bool = True
    value_norm: bool = False
    unscaled: bool = False
    shared_keys: bool = False
    layer_inputs: bool = False
    streams: bool = False
    sinks: bool = False
    convolutions: bool = False
    delta: Delta = ""
    output_gated: bool = False
    encodes: bool = False
    sum_norms: bool = False
    embedded: bool = False
    embedding_normed: bool = False
    positions: bool = False
    latent: bool = False
    window_pattern: int = 1
    window_first: bool = False
    window_rope: Literal["same", "plain"] = "same"
    full_rope: bool = True
    slopes: bool = False
    unrotated: int = 0
    divided: bool = False
    sections: bool = False
    yarn_truncates: bool = True
    embedding_root: bool = False
    logits_divided: bool = False
    older_scales: bool = False
    rotates_if_said: bool = False
    wide_scale: int = 0
    experts: Experts | None = None
