"""How a call ended, as its process says, and what its client is told of that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.function_errors import FunctionFailedError, FunctionNotFoundError
from inferd.reasons import from_reason

if TYPE_CHECKING:
    from inferd.core.function import CallLimits
    from inferd.engine.function.backend import Bounded
    from inferd.errors import InferdError

AT: Final = "spec.call.input"
LONGEST: Final = 1000  # characters of what a function says
LONGEST_TRACE: Final = 16_000

_log = logging.getLogger(__name__)


def ended_error(said: Any, function: Bounded, limits: CallLimits) -> InferdError | None:  # noqa: PLR0911 - a table: one row for each end
    """The error that a call ended with; None where it came to its end."""
    name, why = function.name, str(said.get("why", ""))[:LONGEST]
    match said["end"]:
        case "done":
            return None
        case "input":
            field = f"{AT}{str(said['path'])[:LONGEST]}"
            return InvalidFieldError(f"{field}: {why}", field=field)
        case "refused":
            field = f"{AT}{str(said.get('path', ''))[:LONGEST]}"
            which = f" {field.removeprefix(AT)}" if field != AT else ""
            return InvalidFieldError(f"function {name!r} refuses its input{which}: {why}", field=field)
        case "output":
            where = f" at {str(said['path'])[:LONGEST]}" if said["path"] else ""
            cause = f"what it gave is not what it declares{where}: {why}"
            return FunctionFailedError(f"function {name!r} failed: {cause}", metadata={"cause": cause})
        case "raised":
            _log.error(
                "function %s of version %d failed\n%s", name, function.version, str(said["trace"])[-LONGEST_TRACE:]
            )
            which = f" for input {said['path']}" if said.get("path") else ""  # of several
            return FunctionFailedError(f"function {name!r} failed{which}: {why}", metadata={"cause": why})
        case "asked":
            facts = {str(fact): str(value) for fact, value in dict(said["facts"]).items()}
            return from_reason(str(said["reason"]), f"function {name!r}: {why}", facts | {"function": name})
        case "memory":
            limit = str(function.memory_bytes)
            return LimitExceededError(
                f"function {name!r} took more memory than {limit} bytes, which is its memory_bytes; give it less at"
                " once, or raise functions.memories_bytes of the kernel",
                metadata={"bound": "functions.memory_bytes", "value": f"more than {limit}", "limit": limit},
            )
        case "large":
            which, size_bytes = str(said["path"])[:LONGEST], int(said["size"])
            if said["bound"] == "piece":
                return large(function, size_bytes, limits.piece_bytes, which)
            return LimitExceededError(
                f"function {name!r} gave more than {limits.array_bytes} bytes for input {which}, in all its pieces,"
                " which is what limits.message_bytes leaves for them: with several inputs those of each are told at"
                " once; call it for that one alone, which tells each piece by itself, or give it less",
                metadata=bound("limits.message_bytes", f"{size_bytes} or more", str(limits.array_bytes)),
                field=f"{AT}{which}",
            )
        case _:
            return missing(name, function.version)


def large(function: Bounded, size_bytes: int, most_bytes: int, which: str = "") -> LimitExceededError:
    """That it gave a piece that is too large; `which` is its input, of several."""
    told = f" for input {which}" if which else ""
    return LimitExceededError(
        f"function {function.name!r} gave a piece of {size_bytes} bytes{told}, and functions.piece_bytes is"
        f" {most_bytes}; give it less at once",
        metadata=bound("functions.piece_bytes", str(size_bytes), str(most_bytes)),
    )


def bound(name: str, value: str, limit: str) -> dict[str, str]:
    """What an error says of the bound that was exceeded."""
    return {"bound": name, "value": value, "limit": limit}


def missing(name: str, version: int) -> FunctionNotFoundError:
    """That its package has no such function any more: it was another one when the call was made."""
    return FunctionNotFoundError(
        f"function {name!r} has no version {version} in its package now; list them: inferd functions ls",
        field="spec.call.function",
    )
