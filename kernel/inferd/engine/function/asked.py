"""What calls ask of models: read, bounded, and what their clients are told where that cannot be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.engine.function.ends import bound
from inferd.errors import LimitExceededError
from inferd.function_errors import FunctionFailedError

if TYPE_CHECKING:
    from inferd.engine.function.backend import Bounded


def read_asked(function: Bounded, written: bytes) -> list[bytes]:
    """What the process of a call asks at once, each as JSON by itself.

    Raises:
        FunctionFailedError: It is no list of objects: the function has written to the channel of its process itself.
    """
    try:
        asked = json.loads(written)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, list) or not asked or not all(isinstance(each, dict) for each in asked):
        cause = "what it asked is no list of questions"
        raise FunctionFailedError(f"function {function.name!r} failed: {cause}", metadata={"cause": cause})
    return [json.dumps(each).encode() for each in asked]


def read_fraction(function: Bounded, told: object) -> float:
    """How far a call says that it is, from 0 to 1.

    Raises:
        FunctionFailedError: It is no such number: the function has written to the channel of its process itself.
    """
    if isinstance(told, int | float) and 0 <= told <= 1:
        return float(told)
    cause = "what it said of how far it is is no number from 0 to 1"
    raise FunctionFailedError(f"function {function.name!r} failed: {cause}", metadata={"cause": cause})


def too_often(function: Bounded, value: int, most: int, *, each: bool) -> LimitExceededError:
    """That a call asks models more often than it may."""
    which = "functions.asks of the kernel" if each or most != function.asks else "asks of its @function"
    return LimitExceededError(
        f"function {function.name!r} asks models {value} times, and may do so {most} times in one call; raise"
        f" {which}, or give it less to do",
        metadata=bound("functions.asks" if each or most != function.asks else "asks", str(value), str(most)),
    )


def unanswered(function: Bounded, seconds: float) -> LimitExceededError:
    """That the kernel says nothing of what a call has asked."""
    return LimitExceededError(
        f"function {function.name!r} has asked a model and heard nothing for {seconds:g} s",
        metadata=bound("functions.ask_timeout_s", f"more than {seconds:g}", f"{seconds:g}"),
    )


def answered_too_much(function: Bounded, size_bytes: int, most: int) -> LimitExceededError:
    """That what came of all that a call asked at once is too large."""
    return LimitExceededError(
        f"what function {function.name!r} was answered at once has {size_bytes} bytes or more, and functions.ask_bytes"
        f" is {most}; have it ask less at once, or raise that setting of the kernel",
        metadata=bound("functions.ask_bytes", str(size_bytes), str(most)),
    )
