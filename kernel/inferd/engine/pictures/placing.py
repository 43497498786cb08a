"""Where pictures stand in a prompt: what a template writes for one becomes as many tokens as it has vectors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from inferd.engine.text.control import Prompt
from inferd.errors import ChatTemplateError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from inferd.plugin.pictures import Outline
    from inferd.plugin.session import Int32Array


def expand(prompt: Prompt, outlines: Sequence[Outline], *, placeholder: str, added: Collection[str]) -> Prompt:
    """A prompt with the text of each picture in the place of what its template wrote for it.

    Args:
        prompt: As it was rendered.
        outlines: Of the pictures, in order.
        placeholder: What templates write for one.
        added: The tokens that are recognised inside any text.

    Raises:
        ChatTemplateError: The template wrote another number of places than there are pictures.
    """
    text = prompt.text
    if prompt.own is None:
        at = [found.start() for found in re.finditer(re.escape(placeholder), text)]
    else:
        at = [place for place, token in prompt.own if token == placeholder]
    if len(at) != len(outlines):
        raise ChatTemplateError(
            f"the chat template of the model writes {len(at)} places ({placeholder}) for {len(outlines)} pictures: it"
            " leaves some out, or the texts of the conversation have places of their own"
        )
    pieces, own, done, shift = [], [], 0, 0
    others = iter(() if prompt.own is None else prompt.own)
    for place, outline in zip(at, outlines, strict=True):
        for other, token in others:
            if other == place:
                break
            own.append((other + shift, token))
        pieces += [text[done:place], outline.text]
        own += [(place + shift + within, token) for within, token in _find(outline.text, added)]
        done = place + len(placeholder)
        shift += len(outline.text) - len(placeholder)
    own += [(other + shift, token) for other, token in others]
    return Prompt("".join([*pieces, text[done:]]), None if prompt.own is None else tuple(own), prompt.plain)


def _find(text: str, added: Collection[str]) -> Iterator[tuple[int, str]]:
    """The tokens in a text, one behind the other, of those that begin at the same place the longest."""
    present = sorted((token for token in added if token.strip() and token in text), key=len, reverse=True)
    if present:
        for found in re.finditer("|".join(map(re.escape, present)), text):
            yield found.start(), found[0]


def find_places(token_ids: Int32Array, outlines: Sequence[Outline], token_id: int) -> list[Int32Array]:
    """The positions of the tokens of each picture in a prompt.

    Raises:
        ChatTemplateError: There are others than those of the pictures.
    """
    at = np.flatnonzero(token_ids == token_id).astype(np.int32)
    counts = [outline.tokens for outline in outlines]
    if len(at) != sum(counts):
        raise ChatTemplateError(
            f"the prompt has {len(at)} tokens of pictures (token {token_id}) and its {len(counts)} pictures have"
            f" {sum(counts)}: the texts of the conversation, or the chat template of the model, have some of their own"
        )
    return np.split(at, np.cumsum(counts)[:-1])
