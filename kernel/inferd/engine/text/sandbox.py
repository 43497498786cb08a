"""Where chat templates run: jinja2's immutable sandbox, as Hugging Face transformers sets it up.

A template comes with the model's file and is not trusted. What it could do for ever, or in too much memory, is bounded
by the cell that it runs in; what is easily seen to be of no use is refused at once.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inferd.engine.text.rendering import MAX_CHARACTERS

if TYPE_CHECKING:
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Context

_MAX_BITS: Final = 1024  # of a product of integers


def make_environment() -> jinja2.Environment:
    """Where templates run: as in transformers, and bounded."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses products and powers that no template has a use for."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("a chat template has no use for powers")
        if isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() + right.bit_length()
            limit = _MAX_BITS
        else:
            size = _repeated(left, right)
            limit = MAX_CHARACTERS
        if size > limit:
            raise SecurityError(f"a product of size {size} is over the limit of {limit}")
        return super().call_binop(context, operator, left, right)


def _repeated(left: Any, right: Any) -> int:
    """Length of a repeated sequence; 0 when neither side is one."""
    for sequence, count in ((left, right), (right, left)):
        if hasattr(sequence, "__len__") and isinstance(count, int):
            return len(sequence) * count
    return 0


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it only shows what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the signature of transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - as above
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
