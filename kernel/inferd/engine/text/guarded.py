"""A tokenizer that takes only those control tokens for tokens that it is told of; others are the text that they are.

Which ones is a matter of places in one text, and `tokenizers` knows names only. So the tokens that count are written
under names that nothing else can contain, and a copy of the tokenizer knows those names instead of the tokens' own.
Splitting at them, and what becomes of the text before and behind them, stays the library's.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer

from inferd.errors import InvalidFieldError, present

if TYPE_CHECKING:
    from inferd.engine.text.control import Prompt


class Guarded:
    """A copy of a tokenizer, for one thread.

    Args:
        inner: What is copied.
    """

    def __init__(self, inner: Tokenizer) -> None:
        self._copy = Tokenizer.from_str(inner.to_str())
        self._copy.encode_special_tokens = True  # as the text that they are
        added = inner.get_added_tokens_decoder()
        self._ids = {token.content: number for number, token in added.items()}
        self._known = {token.content: token for token in added.values()}
        unknown = getattr(inner.model, "unk_token", None)  # what becomes of characters that the vocabulary lacks
        self._special = {number for number, token in added.items() if token.special and token.content != unknown}
        self._secret = secrets.token_hex(16)
        self._names: dict[str, str] = {}  # by token
        self._tokens: dict[int, int] = {}  # the id of a token by that of its name

    def encode(self, prompt: Prompt) -> list[int]:
        """Tokens of a text in which only the template's own control tokens are tokens.

        Raises:
            InvalidFieldError: The tokenizer makes a special token of plain text.
        """
        own = prompt.own or ()
        self._silence(prompt)
        pieces, done = [], 0
        for at, token in own:
            pieces += [prompt.text[done:at], self._name(token)]
            done = at + len(token)
        ids = self._copy.encode("".join([*pieces, prompt.text[done:]]), add_special_tokens=False).ids
        wrong = next((number for number in ids if number in self._special), None)
        if wrong is not None:
            token = repr(self._copy.id_to_token(wrong))
            raise InvalidFieldError(
                f"what the messages say holds {token}, a control token that the model cannot read as plain text; "
                "leave it out, or set parse_control_tokens",
                field="spec.chat.messages",
            )
        return [self._tokens.get(number, number) for number in ids]

    def _silence(self, prompt: Prompt) -> None:
        """Let the copy read as text what the library would take for a token although it is not special."""
        loud = [self._known[token] for token in prompt.plain if not self._known[token].special]
        if loud:
            again = [
                AddedToken(
                    token.content,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=True,
                )
                for token in loud
            ]
            self._copy.add_special_tokens(again)
            self._known |= {token.content: token for token in again}

    def _name(self, token: str) -> str:
        if token not in self._names:
            known = self._known[token]
            name = f"\U0010fffd{self._secret}{len(self._names)}\U0010fffd"
            self._copy.add_tokens([AddedToken(name, lstrip=known.lstrip, rstrip=known.rstrip, normalized=False)])
            self._names[token] = name
            self._tokens[present(self._copy.token_to_id(name))] = self._ids[token]
        return self._names[token]
