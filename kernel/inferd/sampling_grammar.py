"""What an output must be, as a task asks for it."""

from dataclasses import dataclass
from enum import Enum


class GrammarKind(Enum):
    """The language of a grammar; the names are those of the fields of `inferd.v1.Grammar`."""

    JSON_SCHEMA = 1
    REGEX = 2
    LARK = 3
    CHOICE = 4


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output must be; `texts` are the choices of CHOICE, `source` is the text of the others."""

    kind: GrammarKind
    source: str = ""
    texts: tuple[str, ...] = ()
