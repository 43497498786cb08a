"""Characters that turn the direction of a text: it is read in another order than it is shown in."""

import re
from typing import Final

TURNING: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Bidi_Control of Unicode: marks, embeddings, overrides and isolates."""
_TURNED: Final = re.compile("\u202e([^\u202c\u2028\u2029\r\n]+)")
_TAGS: Final = re.compile("[\U000e0020-\U000e007e]+")
_TAG: Final = 0xE0000


def shown(text: str) -> str:
    """A text as it is shown where a part of it is turned around by an override; else as it is."""
    return _TURNED.sub(lambda part: part[1][::-1], text)


def tagged(text: str) -> str:
    """What a text says in tags, characters that show nothing and stand for those of ASCII; "" for nothing."""
    return "\n".join("".join(chr(ord(tag) - _TAG) for tag in part) for part in _TAGS.findall(text))
