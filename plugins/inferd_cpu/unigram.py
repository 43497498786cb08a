"""SentencePiece's Unigram tokenizer (arXiv:1804.10959) as a definition of the `tokenizers` package.

A text is normalised by the file's own table, its words are split where the product of the pieces' probabilities is
largest, and U+2581 stands for a space. Files call the model "t5"; those of XLM-RoBERTa have it, too. As elsewhere each
stretch between added tokens is a text of its own; a U+2581 that a text begins or ends with counts as a space.
"""

import base64
import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np

from inferd.plugin import TokenKind, Vocabulary, read_gguf_endings, read_gguf_strips
from inferd_weights.metadata import Kind, Metadata

_PREFIX: Final = "tokenizer.ggml."
SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
UNUSED: Final = "\ue000{}"  # no text has that: pieces that are not used are not found
_MAX_TABLE_BYTES: Final = 1 << 24
_ADDED: Final = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)


def read_unigram(
    metadata: Metadata, tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]
) -> Vocabulary:
    """The vocabulary; a text gets the tokens of its beginning and end that the file asks for.

    Raises:
        LoadError: A key has the wrong type, or a token that is needed is not there.
    """
    unknown = _find_unknown(metadata, kinds)
    pieces = [UNUSED.format(n) if kinds[n] == TokenKind.UNUSED else token for n, token in enumerate(tokens)]
    ends = {
        name: metadata.integer(f"{_PREFIX}{name}_token_id", maximum=len(tokens) - 1)
        for name, default in (("bos", False), ("eos", True))
        if metadata.flag(f"{_PREFIX}add_{name}_token", default)
    }
    definition = {
        "version": "1.0",
        "added_tokens": add_tokens(pieces, kinds, before=read_gguf_strips(metadata.content, tokens, kinds)[0]),
        "normalizer": {"type": "Sequence", "normalizers": _read_normalizers(metadata)},
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "always" if metadata.flag(f"{_PREFIX}add_space_prefix", True) else "never",
            "split": not any(SPACE in piece[1:] for piece in pieces),
        },
        "post_processor": place_ends(ends, pieces) if ends else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[piece, float(score)] for piece, score in zip(pieces, scores, strict=True)],
            "byte_fallback": TokenKind.BYTE in kinds,
        },
    }
    return Vocabulary(
        algorithm="json",
        definition=json.dumps(definition).encode(),
        bos_id=ends.get("bos"),
        eos_ids=read_gguf_endings(str(metadata.path), metadata.content, tokens, kinds),
    )


def add_tokens(
    pieces: Sequence[str], kinds: Sequence[int], *, before: AbstractSet[int] = frozenset()
) -> list[dict[str, Any]]:
    """Tokens that are found in a text before it is split; `before`: those that take white space along."""
    return [
        {
            "id": number,
            "content": piece,
            **dict.fromkeys(("single_word", "rstrip", "normalized"), False),
            "lstrip": number in before,
            "special": kinds[number] != TokenKind.USER_DEFINED,
        }
        for number, piece in enumerate(pieces)
        if kinds[number] in _ADDED
    ]


def _find_unknown(metadata: Metadata, kinds: Sequence[int]) -> int:
    key = f"{_PREFIX}unknown_token_id"
    if key in metadata:
        return metadata.integer(key, maximum=len(kinds) - 1)
    found = next((number for number, kind in enumerate(kinds) if kind == TokenKind.UNKNOWN), None)
    if found is None:
        raise metadata.error(key, "is missing, and no token is of the kind UNKNOWN")
    return found


def _read_normalizers(metadata: Metadata) -> list[dict[str, Any]]:
    """The file's table, and what is done with spaces."""
    steps: list[dict[str, Any]] = []
    key = f"{_PREFIX}precompiled_charsmap"
    value = metadata.get(key)
    if value is not None:
        metadata.used.add(key)
        if value.kind is not Kind.ARRAY or value.item not in (Kind.U8, Kind.I8):
            raise metadata.error(key, f"is {value.type_name}; it must be an array of bytes")
        if len(value.content) > _MAX_TABLE_BYTES:
            raise metadata.error(key, f"has {len(value.content)} bytes; it may have {_MAX_TABLE_BYTES}")
        table = np.asarray(value.content).view(np.uint8).tobytes()
        if table:
            steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()})
    if metadata.flag(f"{_PREFIX}remove_extra_whitespaces", False):
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return steps


def place_ends(ends: dict[str, int], pieces: Sequence[str]) -> dict[str, Any]:
    """Puts tokens around a text."""
    around = {
        name: [{"SpecialToken": {"id": pieces[ends[name]], "type_id": 0}}] if name in ends else []
        for name in ("bos", "eos")
    }
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": [*around["bos"], *text, *around["eos"]],
        "pair": [*around["bos"], *text, *around["eos"] * 2, {"Sequence": {"id": "B", "type_id": 0}}, *around["eos"]],
        "special_tokens": {
            pieces[number]: {"id": pieces[number], "ids": [number], "tokens": [pieces[number]]}
            for number in ends.values()
        },
    }
