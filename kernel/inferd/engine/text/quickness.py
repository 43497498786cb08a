"""How long a text may be that a worker encodes itself: nothing could end that, so it has to be known to be quick.

What a file brings is done in a cell, with a bound of time and memory, wherever one character may become many, or one
piece of the vocabulary is so long that looking for pieces takes the square of a text's length.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tokenizers import models

from inferd.engine.text.growth import growth, steps_of
from inferd.engine.text.splitting import RULES, is_linear

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from inferd.plugin.vocabulary import Vocabulary

LINEAR_BYTES: Final = 16 << 10
"""Where all that is done is known to take time in proportion: about 10 ms."""

SLOW_BYTES: Final = 512
"""Where time grows with the square of the length, by a rule of ours: about 5 ms at most."""

_LONGEST_WORD: Final = 1000  # characters of a word that WordPiece looks for in all its parts
_LONGEST_PIECE: Final = 64  # characters of a piece that Unigram looks for at each place of a text
_USUAL_PIECE: Final = 16  # characters, as SentencePiece bounds them unless it is told otherwise
_USUAL_WORK: Final = 16  # steps times growth of a text: beyond it, texts have to be shorter


def quick_bytes(vocabulary: Vocabulary, inner: Tokenizer) -> int:
    """Texts up to here are encoded in some hundredths of a second, whatever they are.

    0 where a file brings patterns of its own: the time of one may double with each character. Fewer than elsewhere
    where its steps make texts longer, or where it has long pieces.

    Args:
        vocabulary: Of the model.
        inner: What was made of it.
    """
    match vocabulary.algorithm:
        case "bpe":
            rule = RULES.get(vocabulary.pre_tokenizer)
            return LINEAR_BYTES if rule is not None and rule.linear else SLOW_BYTES
        case "json":
            return _quick_bytes(inner)
        case _:
            return LINEAR_BYTES


def _quick_bytes(inner: Tokenizer) -> int:
    """Of a tokenizer that a file defines."""
    written = [step.__getstate__() for step in (inner.normalizer, inner.pre_tokenizer) if step is not None]
    steps = list(steps_of([json.loads(step) for step in written]))
    patterns = [step["Regex"] for step in steps if isinstance(step.get("Regex"), str)]
    if not all(map(is_linear, patterns)) or getattr(inner.model, "max_input_chars_per_word", 0) > _LONGEST_WORD:
        return 0
    longest = 0
    if isinstance(inner.model, models.Unigram):
        longest = max(map(len, inner.get_vocab(with_added_tokens=False)), default=0)
    if longest > _LONGEST_PIECE:
        return 0
    kinds = sum("type" in step for step in steps)
    work = growth(steps) * max(1, kinds) * max(1.0, longest / _USUAL_PIECE)
    return min(LINEAR_BYTES, int(LINEAR_BYTES * _USUAL_WORK / work))
