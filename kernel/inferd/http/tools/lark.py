"""Grammars in the syntax of Lark, as llguidance takes them (https://github.com/guidance-ai/llguidance)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""As the kernel has it for grammars of JSON schemas: at most one space, so that no model writes them for ever."""


class Lark:
    """A grammar that is being put together.

    Args:
        silent: Markers that are control tokens of the model, which give no text, and their ids. All others are text.
    """

    def __init__(self, silent: Mapping[str, int]) -> None:
        self._silent = silent
        self._splitter = re.compile("|".join(map(re.escape, sorted(silent, key=len, reverse=True)))) if silent else None
        self._rules: list[str] = []

    def rule(self, body: str, *, options: str = "") -> str:
        """A new rule; its name."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def whole(self, start: str) -> str:
        """The grammar."""
        return "\n".join([f"start: {start}", *self._rules])

    def text(self, text: str) -> str:
        """Exactly this text, with the control tokens in it."""
        parts, at = [], 0
        for found in self._splitter.finditer(text) if self._splitter else ():
            if found.start() > at:
                parts.append(json.dumps(text[at : found.start()]))
            parts.append(f"<[{self._silent[found.group()]}]>")
            at = found.end()
        if at < len(text) or not parts:
            parts.append(json.dumps(text[at:]))
        return " ".join(parts)

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON that is valid against a schema."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': _SPACING})}")

    def until(self, end: str) -> str:
        """Any text, and the end of it, which is the first such text."""
        marker = next((name for name in self._silent if end.startswith(name)), None)
        if marker is not None:
            return f"{self.rule('/(?s:.*)/')} {self.text(end)}"
        return self.rule(f"/(?s:.*){escaped(end)}/", options="[lazy]")

    def without(self, text: str) -> str:
        """Any text that this one is not a part of."""
        marker = next((name for name in self._silent if text.startswith(name)), None)
        name = f"T{len(self._rules)}"
        found = "" if marker else f" & ~/(?s:.*){escaped(text)}(?s:.*)/"
        self._rules.append(f"{name}: /(?s:.*)/{found}")
        return name

    def some(self, parts: Sequence[str]) -> str:
        """One of these."""
        return self.rule(" | ".join(parts))


def escaped(text: str) -> str:
    """A text as a regular expression between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\n", "\\n").replace("\\\\n", "\\n")
