"""A vocabulary as one message: columns of lengths and characters, quick to make, however large it is."""

from __future__ import annotations

from array import array
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from inferd.plugin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack_vocabulary(vocabulary: Vocabulary) -> tuple[dict[str, Any], bytes]:
    """What is told of a vocabulary, and the columns."""
    columns = [*_pack_texts(vocabulary.tokens), *_pack_texts(vocabulary.merges)]
    columns += [array("i", vocabulary.kinds).tobytes(), array("d", vocabulary.scores).tobytes(), vocabulary.definition]
    message = {
        "algorithm": vocabulary.algorithm,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "bos_id": vocabulary.bos_id,
        "eos_ids": vocabulary.eos_ids,
        "add_bos": vocabulary.add_bos,
        "add_space_prefix": vocabulary.add_space_prefix,
        "sizes": [len(column) for column in columns],
    }
    return message, b"".join(columns)


def unpack_vocabulary(message: Any, data: bytes) -> Vocabulary:
    """The vocabulary of a message; without its templates."""
    bounds = pairwise(accumulate(message["sizes"], initial=0))
    token_sizes, tokens, merge_sizes, merges, kinds, scores, definition = (data[a:b] for a, b in bounds)
    return Vocabulary(
        algorithm=message["algorithm"],
        tokens=_unpack_texts(token_sizes, tokens),
        kinds=array("i", kinds).tolist(),
        merges=_unpack_texts(merge_sizes, merges),
        scores=array("d", scores).tolist(),
        pre_tokenizer=message["pre_tokenizer"],
        definition=definition,
        bos_id=message["bos_id"],
        eos_ids=tuple(message["eos_ids"]),
        add_bos=message["add_bos"],
        add_space_prefix=message["add_space_prefix"],
    )


def _pack_texts(texts: Sequence[str]) -> tuple[bytes, bytes]:
    """Their lengths in characters, and all of them behind each other."""
    return array("I", map(len, texts)).tobytes(), "".join(texts).encode("utf-8", "surrogatepass")


def _unpack_texts(sizes: bytes, data: bytes) -> list[str]:
    text = data.decode("utf-8", "surrogatepass")
    return [text[a:b] for a, b in pairwise(accumulate(array("I", sizes), initial=0))]
