"""The vocabulary of a model, as a backend reads it from the model's file. The engine builds the tokenizer from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

Algorithm = Literal["bpe", "spm", "json"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


class TokenKind(IntEnum):
    """Kinds of tokens, numbered as in GGUF's `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens and how text becomes tokens.

    Attributes:
        algorithm: "bpe" (byte-level, GPT-2 style: `merges`), "spm" (SentencePiece: `scores`), or "json" (`definition`).
        tokens: Text of each token, by id, in the spelling of the algorithm: one for each logit, those that are not used
            of the kind UNUSED. Empty for "json".
        kinds: Kind of each token, by id. Empty for "json".
        merges: "left right" pairs, best first; "bpe" only.
        scores: Score of each token, by id; "spm" only.
        pre_tokenizer: Name of the splitting rule as in GGUF's `tokenizer.ggml.pre`, for example "smollm"; "bpe" only.
        definition: A complete `tokenizer.json`, with any decoder of the `tokenizers` package but CTC; "json" only.
        bos_id: Token at the beginning of a text, or None.
        eos_ids: Tokens that end generation. At least one for a model that is to end by itself.
        add_bos: Whether plain text gets `bos_id` in front.
        add_space_prefix: Whether "spm" text gets a space in front.
        strips_before: Tokens that take the white space before them along when they are found in a text; not for "json".
        strips_after: Those that take that behind them; not for "json".
        chat_template: Jinja text, or None when the model has none.
        tool_use_template: Jinja text for conversations with tools; None when the model has none of its own for them.
    """

    algorithm: Algorithm
    tokens: Sequence[str] = ()
    kinds: Sequence[int] = ()
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    pre_tokenizer: str = ""
    definition: bytes = b""
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    add_bos: bool = False
    add_space_prefix: bool = True
    strips_before: frozenset[int] = frozenset()
    strips_after: frozenset[int] = frozenset()
    chat_template: str | None = None
    tool_use_template: str | None = None
