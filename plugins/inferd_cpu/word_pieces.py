"""The tokenizer of BERT files (WordPiece, arXiv:1810.04805) as a definition of the `tokenizers` package.

The converter puts U+2581 in front of a piece that begins a word, and leaves one that goes on as it is, where BERT's own
list has the first as it is and the second behind "##". What stands in brackets is as in that list.
"""

import json
from collections.abc import Sequence
from typing import Final

from inferd.plugin import Vocabulary
from inferd_weights.metadata import Metadata

_PREFIX: Final = "tokenizer.ggml."
_BEGIN: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_CONTROL: Final = 3
_LONGEST_WORD: Final = 100  # characters; longer ones are unknown, as in BERT


def read_word_pieces(metadata: Metadata, tokens: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    """The vocabulary; a text gets the tokens of its beginning and end, which a template would write itself.

    Raises:
        LoadError: A key has the wrong type, a token that is needed is not there, or two are the same.
    """
    pieces = [_write(token, control=kind == _CONTROL) for token, kind in zip(tokens, kinds, strict=True)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise metadata.error(f"{_PREFIX}tokens", f"has {len(pieces)} tokens, of which {len(vocabulary)} differ")

    def find(keys: Sequence[str], name: str) -> int:
        key = next((key for key in keys if f"{_PREFIX}{key}" in metadata), None)
        if key is not None:
            return metadata.integer(f"{_PREFIX}{key}", maximum=len(tokens) - 1)
        if name not in vocabulary:
            raise metadata.error(f"{_PREFIX}{keys[0]}", f"is missing, and no token is {name!r}")
        return vocabulary[name]

    first = find(("cls_token_id", "bos_token_id"), "[CLS]")
    last = find(("seperator_token_id", "eos_token_id"), "[SEP]")  # spelt so by ggml
    unknown = find(("unknown_token_id",), "[UNK]")
    for key in ("add_bos_token", "add_sep_token", "add_eos_token"):
        if not metadata.flag(f"{_PREFIX}{key}", True):
            raise metadata.error(f"{_PREFIX}{key}", "is false, which is not supported with this tokenizer")
    lowercase = metadata.flag(f"{_PREFIX}normalizer.lowercase", True)
    accents = f"{_PREFIX}normalizer.strip_accents"
    ends = [pieces[first], pieces[last]]
    definition = {
        "version": "1.0",
        "added_tokens": [
            _add(number, piece)
            for number, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
            if kind == _CONTROL or number in (first, last, unknown)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": metadata.flag(accents) if accents in metadata else None,  # None: as lowercase says
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_place(ends[0]), {"Sequence": {"id": "A", "type_id": 0}}, _place(ends[1])],
            "pair": [
                *(_place(ends[0]), {"Sequence": {"id": "A", "type_id": 0}}, _place(ends[1])),
                *({"Sequence": {"id": "B", "type_id": 0}}, _place(ends[1])),
            ],
            "special_tokens": {
                piece: {"id": piece, "ids": [number], "tokens": [piece]}
                for piece, number in zip(ends, (first, last), strict=True)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": pieces[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": _LONGEST_WORD,
            "vocab": vocabulary,
        },
    }
    return Vocabulary(algorithm="json", definition=json.dumps(definition).encode(), bos_id=first, eos_ids=(last,))


def _write(token: str, *, control: bool) -> str:
    """A token as in BERT's own list."""
    if control or (token.startswith("[") and token.endswith("]")):
        return token
    return token.removeprefix(_BEGIN) if token.startswith(_BEGIN) else f"##{token}"


def _add(number: int, piece: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": piece, **flags, "special": True}


def _place(piece: str) -> dict[str, object]:
    return {"SpecialToken": {"id": piece, "type_id": 0}}
