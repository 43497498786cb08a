"""What rules of moderation find in a text, for functions that look at some themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


def find_by_rules(
    text: str,
    words: Sequence[str],
    patterns: Sequence[str] = (),
    *,
    whole_words: bool = False,
    spaces: Literal["runs", "each", "none"] = "runs",
) -> list[tuple[int, int, int]]:
    """Where words and patterns stand in a text, however they are written there, as rules of moderation find them.

    Args:
        text: What is searched.
        words: Words and phrases.
        patterns: RE2.
        whole_words: Words are found only with no letter or digit next to them.
        spaces: Whether runs of white space are one space, each counts, or words are found across them.

    Returns:
        The first character, the one behind the last, and which of words and then patterns it was, in their order.

    Raises:
        ValueError: A word or a pattern is none that can be.
    """
    from inferd.core.moderation import ModerationAction, ModerationSpaces  # noqa: PLC0415 - its tables are large, and few packages search
    from inferd.errors import InferdError  # noqa: PLC0415 - as above
    from inferd.moderation.checks import check_rule  # noqa: PLC0415 - as above
    from inferd.moderation.rules import Rule  # noqa: PLC0415 - as above
    from inferd.moderation.screen import Ruling, search  # noqa: PLC0415 - as above

    how: dict[str, Any] = {
        "spaces": ModerationSpaces[spaces.upper()],
        "action": ModerationAction.FLAG,
    }  # all is searched for
    rules = [
        *(Rule(name=f"w{n}", words=(word,), whole_words=whole_words, **how) for n, word in enumerate(words)),
        *(Rule(name=f"p{n}", patterns=(pattern,), **how) for n, pattern in enumerate(patterns)),
    ]
    if not rules:
        return []
    try:
        for rule in rules:
            check_rule(rule)
        found = search(Ruling(rules), text)
    except InferdError as error:
        raise ValueError(error.message) from None
    return sorted((each.start, each.end, each.rule) for each in found)
