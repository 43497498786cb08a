"""How long a text may be that a worker encodes itself: nothing could end that, so it has to be known to be quick."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.text.splitting import RULES, is_linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

    from inferd.plugin.vocabulary import Vocabulary

LINEAR_BYTES: Final = 16 << 10
"""Where all that is done is known to take time in proportion: about 10 ms."""

SLOW_BYTES: Final = 512
"""Where time grows with the square of the length, by a rule of ours: about 5 ms at most."""

_LONGEST_WORD: Final = 1000  # characters of a word that WordPiece looks for in all its parts


def quick_bytes(vocabulary: Vocabulary, inner: Tokenizer) -> int:
    """Texts up to here are encoded in some hundredths of a second, whatever they are.

    0 where a file brings patterns of its own: the time of one may double with each character.

    Args:
        vocabulary: Of the model.
        inner: What was made of it.
    """
    match vocabulary.algorithm:
        case "bpe":
            rule = RULES.get(vocabulary.pre_tokenizer)
            return LINEAR_BYTES if rule is not None and rule.linear else SLOW_BYTES
        case "json":
            return LINEAR_BYTES if _is_linear(inner) else 0
        case _:
            return LINEAR_BYTES


def _is_linear(inner: Tokenizer) -> bool:
    steps = [step.__getstate__() for step in (inner.normalizer, inner.pre_tokenizer) if step is not None]
    patterns = _patterns([json.loads(step) for step in steps])
    return all(map(is_linear, patterns)) and getattr(inner.model, "max_input_chars_per_word", 0) <= _LONGEST_WORD


def _patterns(value: Any) -> Iterator[str]:
    """The patterns in parts of a tokenizer, as its file has them."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        yield from _patterns(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _patterns(item)
