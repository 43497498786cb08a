"""What a GGUF file of the Llama family says: sizes, rotation, vocabulary, and which weight is which."""

from collections import Counter
from pathlib import Path

from inferd.plugin import (
    GGUF_BOS_RULES,
    LoadError,
    TokenKind,
    UnsupportedModelError,
    Vocabulary,
    read_gguf_embedding,
    read_gguf_endings,
    read_gguf_sampling,
    read_gguf_splitting,
    read_gguf_strips,
    refuse_ignored,
    refuse_no_model,
)
from inferd_onnx.decoder.model import DecoderModel, check_weights, find_biased
from inferd_onnx.decoder.shape import Rotation, Shape
from inferd_onnx.decoder.sources import Weight
from inferd_weights.gguf import GgufFile

ARCHITECTURES = ("llama", "qwen2", "qwen3", "smollm3")
TOKENIZER = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
ALGORITHMS = {"gpt2": "bpe", "llama": "spm"}
ROTATED_BY_NEIGHBOURS = ("llama", "smollm3")  # whose converter stores the rows of queries and keys in that order
ROPE_FREQS = "rope_freqs.weight"
UNROTATED_EVERY = {"smollm3": 4}  # as llama.cpp has it for the architecture; the file does not say it
GLOBAL = {"token_embd.weight": "embedding", "output_norm.weight": "norm", "output.weight": "head"}
OF_LAYER = {
    "attn_norm.weight": "attention_norm",
    "ffn_norm.weight": "inner_norm",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    **{
        f"{name}.{kind}": what + end
        for name, what in (
            *(("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")),
            *(("ffn_gate", "gate"), ("ffn_up", "up"), ("ffn_down", "down")),
        )
        for kind, end in (("weight", ""), ("bias", "_bias"))
    },
}


def read_gguf_model(path: Path, pre_tokenizer: str = "") -> DecoderModel:
    """Read a file, all but the numbers of its weights.

    Args:
        path: The file.
        pre_tokenizer: How a byte-level vocabulary splits text, whatever the file says; "" for that.

    Raises:
        UnsupportedModelError: It is none that our graph computes.
        LoadError: It is damaged or contradicts itself.
    """
    return _Model(GgufFile(path)).read(pre_tokenizer)


class _Model:
    """One file; its metadata remember what was read of them, so that nothing is ignored in silence."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._path = file.path
        self._metadata = file.metadata
        self._architecture = file.metadata.text("general.architecture", "")

    def read(self, pre_tokenizer: str) -> DecoderModel:
        refuse_no_model(str(self._path), self._metadata.content)
        if self._architecture not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{self._path}: architecture {self._architecture[:80]!r} is not supported by the backend 'onnx';"
                f" supported are {', '.join(ARCHITECTURES)}"
            )
        weights = self._name_weights()
        shape = self._read_shape(weights)
        check_weights(self._path, shape, weights)
        vocabulary = self._read_vocabulary(pre_tokenizer)
        where, get = str(self._path), self._metadata.content
        embedding = read_gguf_embedding(where, get)
        get(f"{self._architecture}.pooling_type")
        sampling = read_gguf_sampling(where, get)
        neutral = {"rope.dimension_count": (shape.head_width,), "attention.scale": (shape.head_width**-0.5,)}
        given = {key: value.content for key, value in self._metadata.items()}
        refuse_ignored(where, given, used=self._metadata.used, neutral=neutral, fix="take the backend 'cpu'")
        counts = Counter[str]()
        for tensor in self._file.tensors.values():
            counts[tensor.format.name] += tensor.elements
        return DecoderModel(
            path=self._path,
            shape=shape,
            weights=weights,
            parameters=counts.total(),
            weight_format=counts.most_common(1)[0][0],
            vocabulary=vocabulary,
            sampling=sampling,
            embedding=embedding,
        )

    def _name_weights(self) -> dict[str, Weight]:
        found, unknown = {}, []
        for name, tensor in self._file.tensors.items():
            weight = Weight(self._file, tensor)
            block, _, rest = name.removeprefix("blk.").partition(".")
            if name in GLOBAL:
                found[GLOBAL[name]] = weight
            elif name.startswith("blk.") and block.isdecimal() and rest in OF_LAYER:
                found[f"{int(block)}.{OF_LAYER[rest]}"] = weight
            elif name != ROPE_FREQS:
                unknown.append(name)
        if unknown:
            raise UnsupportedModelError(f"{self._path}: the backend 'onnx' has no use for the weight {unknown[0]!r}")
        if "embedding" not in found:
            raise LoadError(f"{self._path}: the weight 'token_embd.weight' is missing")
        return found

    def _size(self, name: str, default: int | None = None) -> int:
        return self._metadata.integer(f"{self._architecture}.{name}", default, minimum=1)

    def _number(self, name: str, default: float) -> float:
        return self._metadata.positive(f"{self._architecture}.{name}", default)

    def _read_shape(self, weights: dict[str, Weight]) -> Shape:
        layers, width, heads = (
            self._size("block_count"),
            self._size("embedding_length"),
            self._size("attention.head_count"),
        )
        head_width = self._size("attention.key_length", width // heads or None)
        if self._size("attention.value_length", head_width) != head_width:
            raise UnsupportedModelError(f"{self._path}: keys and values of different widths are not supported")
        window = self._metadata.content(f"{self._architecture}.attention.sliding_window")
        context = self._size("context_length")
        if window:
            context = min(context, self._size("attention.sliding_window"))
        every = UNROTATED_EVERY.get(self._architecture)
        return Shape(
            architecture=self._architecture,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=self._size("attention.head_count_kv", heads),
            head_width=head_width,
            inner=self._size("feed_forward_length"),
            vocabulary_size=weights["embedding"].sizes[0],
            context_tokens=context,
            window=self._size("attention.sliding_window") if window else 0,
            epsilon=self._number("attention.layer_norm_rms_epsilon", 1e-5),
            rotation=self._read_rotation(head_width),
            unrotated=frozenset(n for n in range(layers) if every and (n + 1) % every == 0),
            biased=find_biased(weights),
            head_norms="0.q_norm" in weights,
        )

    def _read_rotation(self, head_width: int) -> Rotation:
        kind = self._metadata.content(f"{self._architecture}.rope.scaling.type")
        linear = self._number("rope.scale_linear", 1.0)
        factor = self._number("rope.scaling.factor", linear)
        if kind not in (None, "none", "linear"):
            raise UnsupportedModelError(
                f"{self._path}: metadata '{self._architecture}.rope.scaling.type' is {str(kind)[:80]!r}, which the"
                " backend 'onnx' does not support; supported are 'none' and 'linear'"
            )
        freqs = self._file.tensors.get(ROPE_FREQS)
        if freqs is not None and freqs.shape != (head_width // 2,):
            raise LoadError(
                f"{self._path}: weight {ROPE_FREQS!r} has the sizes {freqs.shape}, not {(head_width // 2,)}"
            )
        return Rotation(
            base=self._number("rope.freq_base", 10000.0),
            scale=1.0 if kind == "none" else factor,
            factors=None if freqs is None else self._file.numbers(freqs),
            neighbours=self._architecture in ROTATED_BY_NEIGHBOURS,
        )

    def _read_vocabulary(self, pre_tokenizer: str) -> Vocabulary:
        where, get = str(self._path), self._metadata.content
        model = self._metadata.text(f"{TOKENIZER}model")
        if model not in ALGORITHMS:
            raise UnsupportedModelError(
                f"{where}: metadata '{TOKENIZER}model' is {model[:80]!r}; supported are {', '.join(ALGORITHMS)}"
            )
        bpe = model == "gpt2"
        read = self._metadata
        tokens = read.texts(f"{TOKENIZER}tokens")
        types = f"{TOKENIZER}token_type"
        kinds = read.integers(types) if types in read else [int(TokenKind.NORMAL)] * len(tokens)
        rule = read_gguf_splitting(where, get, pre_tokenizer) if bpe else ""
        adds = get(f"{TOKENIZER}add_bos_token")
        space = get(f"{TOKENIZER}add_space_prefix")
        template = get(TEMPLATE) or get(f"{TEMPLATE}.default")
        before, after = read_gguf_strips(get, tokens, kinds)
        return Vocabulary(
            algorithm="bpe" if bpe else "spm",
            tokens=tokens,
            kinds=kinds,
            merges=read.texts(f"{TOKENIZER}merges") if bpe else (),
            scores=() if bpe else read.numbers(f"{TOKENIZER}scores"),
            pre_tokenizer=rule,
            bos_id=get(f"{TOKENIZER}bos_token_id"),
            eos_ids=read_gguf_endings(where, get, tokens, kinds),
            add_bos=(rule in GGUF_BOS_RULES if bpe else True) if adds is None else bool(adds),
            add_space_prefix=True if space is None else bool(space),
            strips_before=before,
            strips_after=after,
            chat_template=template,
            tool_use_template=get(f"{TEMPLATE}.tool_use"),
        )
