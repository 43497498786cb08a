"""How much a model is to think, in the words of its chat template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
"""What OpenAI's `reasoning_effort` can be, least first."""

_SWITCHES: Final = ("enable_thinking", "thinking", "enable_reasoning")
_BUDGETS: Final = ("thinking_budget", "reasoning_budget", "thinking_token_budget")
_OWN_WORDS: Final = re.compile(r"reasoning_effort[^%}]*?==?\s*['\"](\w+)['\"]")


def template_variables(
    template: str,
    *,
    effort: str | None = None,
    thinking: bool | None = None,
    budget_tokens: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The variables of a chat template that say how much the model is to think.

    A template is told what it knows: one that has a switch and no degrees is switched on for any effort but "none".

    Args:
        template: The chat template.
        effort: One of `EFFORTS`, or a word of the template's own.
        thinking: Whether it is to think at all.
        budget_tokens: Most tokens that it is to think.
        given: Variables that the client names itself; they come first.
    """
    found: dict[str, Any] = {}
    if thinking is None and (effort is not None or budget_tokens is not None):
        thinking = effort != "none" and budget_tokens != 0
    if thinking is not None:
        found.update({name: thinking for name in _SWITCHES if _knows(template, name)})
    if effort is not None and thinking and _knows(template, "reasoning_effort"):
        found["reasoning_effort"] = _nearest(effort, template)
    if budget_tokens is not None:
        found.update({name: budget_tokens for name in _BUDGETS if _knows(template, name)})
    return {**found, **(given or {})}


def _knows(template: str, name: str) -> bool:
    """Whether a template has a variable of that name."""
    return bool(re.search(rf"(?<![\w.'\"\[]){name}(?![\w'\"])", template))


def _nearest(effort: str, template: str) -> str:
    """The word of the template for an effort: the same, or the nearest of those that it compares with."""
    words = {word.lower(): word for word in _OWN_WORDS.findall(template)}
    if effort in words or effort not in EFFORTS:
        return str(words.get(effort, effort))
    known = [word for word in EFFORTS if word in words]
    if not known:
        return {"minimal": "low", "xhigh": "high"}.get(effort, effort)
    rank = EFFORTS.index(effort)
    return str(words[min(known, key=lambda word: abs(EFFORTS.index(word) - rank))])
