"""How the texts of a language model are written: what a client has to know that reads calls of tools in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.engine.text.tokenizer import Tokenizer
    from inferd.plugin.vocabulary import Vocabulary

MOST_TOLD: Final = 8192  # control tokens: vocabularies hold back thousands of them


@dataclass(frozen=True, slots=True)
class Writing:
    """It.

    Attributes:
        chat_template: Jinja text; "" for none.
        tool_use_template: That of conversations with tools, where it is another one.
        control_tokens: Tokens that add nothing to a text, and how prompts have them, by id.
    """

    chat_template: str
    tool_use_template: str
    control_tokens: Mapping[int, str]

    @classmethod
    def of(cls, vocabulary: Vocabulary, tokenizer: Tokenizer) -> Self:
        """That of a vocabulary."""
        silent = (token_id for token_id, piece in enumerate(tokenizer.pieces) if not piece)
        named = ((token_id, tokenizer.name(token_id)) for token_id in silent)
        told = [(token_id, name) for token_id, name in named if name][:MOST_TOLD]
        return cls(vocabulary.chat_template or "", vocabulary.tool_use_template or "", dict(told))
