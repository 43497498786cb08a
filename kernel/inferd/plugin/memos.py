"""What a function keeps from one call to the next, for the tenant of the call: small values by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from inferd.plugin.asking import told


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """What is kept by a name.

    Attributes:
        version: Rises with each value that takes its place; 0 where nothing is kept.
        value: It; None where nothing is.
        own: Whether this very call has written it: it runs again, as its worker or the kernel died.
    """

    version: int
    value: Any = None
    own: bool = False


def recall(name: str) -> Memo:
    """What the functions of this package keep by a name for the tenant of the call.

    Raises:
        AskError: It cannot be read.
    """
    given = told({"do": "recall", "name": name})
    return Memo(version=given["version"], value=json.loads(given["kept"]), own=given["own"])


def remember(name: str, value: Any, *, after: int) -> int:
    """Keep a value, as JSON can have it, in the place of version `after`; 0 where nothing was kept. Its version.

    Raises:
        AskError: It is too large, another call has written it since (REQUEST_CONFLICT), or it cannot be kept.
    """
    kept = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return int(told({"do": "remember", "name": name, "kept": kept, "after": after})["version"])


def forget(name: str) -> bool:
    """Keep something no longer; whether there was something."""
    return bool(told({"do": "forget", "name": name})["version"])


def memo_names() -> list[str]:
    """The names of all that the functions of this package keep for the tenant of the call."""
    return list(told({"do": "memos"})["names"])
