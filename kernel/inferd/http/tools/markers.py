"""Which markers of a format are control tokens of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.http.tools.writings import MARKER, WRITINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.http.tools.formats.table import Format


def silent_markers(form: Format, control_tokens: Mapping[int, str]) -> dict[int, str]:
    """Those of a model's control tokens, by id, that are markers of its format: they give no text."""
    texts = {sign for signs in form.signs for sign in signs}.union(form.more)
    if form.thinking:
        texts.update((form.thinking.begin, form.thinking.end, *(form.thinking.other or ())))
    known = {found for text in texts for found in MARKER.findall(text)} | set(form.more)
    if form.name in WRITINGS:
        known |= WRITINGS[form.name].markers()
    return {token_id: text for token_id, text in control_tokens.items() if text in known}
