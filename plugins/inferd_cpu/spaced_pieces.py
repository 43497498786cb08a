"""Merges of characters, not of bytes, as a definition of the `tokenizers` package: what files of Gemma 4 have.

U+2581 stands for a space, and a character that is no token is those of its bytes.
"""

import json
from collections.abc import Sequence
from typing import Final

from inferd.plugin import TokenKind, Vocabulary, read_gguf_endings
from inferd_cpu.unigram import SPACE, UNUSED, add_tokens, place_ends
from inferd_weights.metadata import Metadata

_PREFIX: Final = "tokenizer.ggml."


def read_spaced_pieces(metadata: Metadata, tokens: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    """The vocabulary; a text begins with a token where the file says so.

    Raises:
        LoadError: A key has the wrong type, or a merge is not two tokens that give a third.
    """
    pieces = [UNUSED.format(n) if kinds[n] == TokenKind.UNUSED else token for n, token in enumerate(tokens)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in metadata.texts(f"{_PREFIX}merges"))]
    wrong = next((pair for pair in merges if not {*pair, "".join(pair)} <= ids.keys()), None)
    if wrong is not None:
        raise metadata.error(f"{_PREFIX}merges", f"has {wrong}, which are not two tokens that give a third")
    ends = {}
    if metadata.flag(f"{_PREFIX}add_bos_token", True):
        ends["bos"] = metadata.integer(f"{_PREFIX}bos_token_id", maximum=len(tokens) - 1)
    unknown = next((pieces[number] for number, kind in enumerate(kinds) if kind == TokenKind.UNKNOWN), None)
    definition = {
        "version": "1.0",
        "added_tokens": add_tokens(pieces, kinds),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "post_processor": place_ends(ends, pieces) if ends else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": merges,
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }
    return Vocabulary(
        algorithm="json",
        definition=json.dumps(definition).encode(),
        bos_id=ends.get("bos"),
        eos_ids=read_gguf_endings(str(metadata.path), metadata.content, tokens, kinds),
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
    )
