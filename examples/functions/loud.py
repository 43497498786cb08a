"""A package of functions.

pip install examples/functions
inferd functions call shout --input '{"text": "hello"}'
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from inferd.plugin import function, hookimpl


@function(timeout_s=5, memory_bytes=64 << 20)
def shout(text: str, times: int = 1) -> str:
    """Say it loudly."""
    return " ".join([f"{text.upper()}!"] * times)


@function()
def spell(text: str) -> Iterator[str]:
    """Say it letter by letter."""
    yield from text


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """What this package offers."""
    return [shout, spell]
