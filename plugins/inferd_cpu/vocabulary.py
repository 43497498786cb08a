"""The vocabulary of a GGUF file: its `tokenizer.*` keys as the engine's `Vocabulary`."""

from collections.abc import Sequence

from inferd.plugin import GGUF_BOS_RULES, Vocabulary, read_gguf_endings, read_gguf_splitting, read_gguf_strips
from inferd_cpu.spaced_pieces import read_spaced_pieces
from inferd_cpu.unigram import read_unigram
from inferd_cpu.word_pieces import read_word_pieces
from inferd_weights.metadata import Metadata

_PREFIX = "tokenizer.ggml."
MODELS = ("gpt2", "llama", "bert", "t5", "gemma4")
_TEMPLATE = "tokenizer.chat_template"  # others have their names behind it, see gguf's `add_chat_template`
_MAX_KIND = 6  # BYTE


def read_vocabulary(metadata: Metadata, pre_tokenizer: str = "") -> Vocabulary:
    """Read the vocabulary: "gpt2" becomes "bpe", "llama" becomes "spm", others a definition.

    Args:
        metadata: Of the file.
        pre_tokenizer: How a byte-level vocabulary splits text, whatever the file says; "" for that.

    Raises:
        LoadError: Another tokenizer model, or keys that are missing, of the wrong type or of the wrong length.
    """
    model = metadata.text(f"{_PREFIX}model")
    if model not in MODELS:
        supported = ", ".join(map(repr, MODELS))
        raise metadata.error(f"{_PREFIX}model", f"is {model!r}, which is not supported; supported: {supported}")
    tokens = metadata.texts(f"{_PREFIX}tokens")
    if not tokens:
        raise metadata.error(f"{_PREFIX}tokens", "has no tokens")
    if model == "bert":
        return read_word_pieces(metadata, tokens, _read_kinds(metadata, len(tokens)))
    if metadata.flag(f"{_PREFIX}add_eos_token", False):  # what ends a text; the other stands between two
        metadata.used.add(f"{_PREFIX}add_sep_token")
    if model == "gemma4":
        return read_spaced_pieces(metadata, tokens, _read_kinds(metadata, len(tokens)))
    bpe = model == "gpt2"
    given = metadata.text(f"{_PREFIX}pre", "")
    rule = read_gguf_splitting(str(metadata.path), lambda _: given, pre_tokenizer) if bpe else ""
    kinds = _read_kinds(metadata, len(tokens))
    scores = [] if bpe else metadata.numbers(f"{_PREFIX}scores")
    if scores and len(scores) != len(tokens):
        raise metadata.error(f"{_PREFIX}scores", f"has {len(scores)} numbers for {len(tokens)} tokens")
    if model == "t5":
        return read_unigram(metadata, tokens, kinds, scores)
    before, after = read_gguf_strips(metadata.content, tokens, kinds)
    return Vocabulary(
        algorithm="bpe" if bpe else "spm",
        tokens=tokens,
        kinds=kinds,
        merges=metadata.texts(f"{_PREFIX}merges") if bpe else (),
        scores=scores,
        pre_tokenizer=rule,
        bos_id=_read_id(metadata, "bos_token_id", len(tokens)),
        eos_ids=read_gguf_endings(str(metadata.path), metadata.content, tokens, kinds),
        add_bos=metadata.flag(f"{_PREFIX}add_bos_token", rule in GGUF_BOS_RULES if bpe else True),
        add_space_prefix=metadata.flag(f"{_PREFIX}add_space_prefix", True),
        strips_before=before,
        strips_after=after,
        chat_template=_read_template(metadata, _TEMPLATE, f"{_TEMPLATE}.default"),
        tool_use_template=_read_template(metadata, f"{_TEMPLATE}.tool_use"),
    )


def _read_template(metadata: Metadata, *keys: str) -> str | None:
    """The template under the first of these keys that the file has."""
    return next((metadata.text(key) for key in keys if key in metadata), None)


def _read_kinds(metadata: Metadata, count: int) -> Sequence[int]:
    key = f"{_PREFIX}token_type"
    if key not in metadata:
        return [1] * count  # NORMAL
    kinds = metadata.integers(key)
    if len(kinds) != count:
        raise metadata.error(key, f"has {len(kinds)} kinds for {count} tokens")
    wrong = next((kind for kind in kinds if not 0 <= kind <= _MAX_KIND), None)
    if wrong is not None:
        raise metadata.error(key, f"has a kind {wrong}; kinds are 0 to {_MAX_KIND}")
    return kinds


def _read_id(metadata: Metadata, name: str, count: int) -> int | None:
    key = f"{_PREFIX}{name}"
    return metadata.integer(key, maximum=count - 1) if key in metadata else None
