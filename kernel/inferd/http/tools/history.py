"""Ids of calls in conversations, as the templates of some families want them."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NINE: Final = re.compile(r"[A-Za-z0-9]{9}")
_KIMI: Final = re.compile(r"functions\..+:\d+", re.DOTALL)


def with_fitting_ids(messages: Sequence[Mapping[str, Any]], form: str) -> list[dict[str, Any]]:
    """The messages with ids that the template of a format takes, where others came from elsewhere.

    Mistral's templates refuse all but nine letters and digits; Kimi K2 reads the name of a tool out of the id, and
    counts all calls of a conversation. An id and what refers to it become the same.

    Args:
        messages: Of a conversation, as chats have them.
        form: Name of the format.
    """
    if form in ("mistral", "mistral_v3"):
        return _renamed(messages, lambda call_id, _, __: call_id if _NINE.fullmatch(call_id) else _nine(call_id))
    if form == "kimi_k2":
        return _renamed(
            messages, lambda call_id, name, n: call_id if _KIMI.fullmatch(call_id) else f"functions.{name}:{n}"
        )
    return [dict(message) for message in messages]


def _renamed(messages: Sequence[Mapping[str, Any]], rename: Any) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    count, renamed = 0, []
    for message in messages:
        told = dict(message)
        if calls := message.get("tool_calls"):
            told["tool_calls"] = []
            for call in calls:
                call_id = str(call.get("id") or "")
                names[call_id] = rename(call_id, call.get("function", {}).get("name", ""), count)
                told["tool_calls"].append({**call, "id": names[call_id]})
                count += 1
        if (answered := message.get("tool_call_id")) is not None:
            told["tool_call_id"] = names.get(answered, answered)
        renamed.append(told)
    return renamed


def _nine(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:9]
