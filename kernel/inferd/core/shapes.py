"""JSON with references in its texts: what calls of functions are given."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from inferd.core.expressions import Reference, Template, read_json, references_in, write_json
from inferd.errors import InvalidFieldError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.core.expressions import Value

MOST_DEPTH = 64


class Shape:
    """A JSON value. In it a text that is nothing but a reference is what that names; others are texts.

    Attributes:
        node: It, its texts as templates where they have references.
    """

    def __init__(self, node: Any) -> None:
        self.node = node

    @classmethod
    def read(cls, text: str, field: str, *, most_values: int, most_references: int) -> Shape:
        """Read one, of at most so many values, and so many references in its texts.

        Raises:
            InvalidFieldError: It is no JSON, or a text in it has what is no reference.
            LimitExceededError: It has more.
        """
        value = read_json(text, field)
        values, references = _counted(value, field)
        check_few("pipelines.call_values", values, most_values, f"{field} has {{}} values")
        check_few("pipelines.references", references, most_references, f"{field} has {{}} references")
        return cls(_read(value, field))

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """All of them."""
        return tuple(_references(self.node))

    @cached_property
    def _parts(self) -> tuple[str | Template, ...]:
        """Its JSON around its templates: an item costs what it puts in, not what stands around that."""
        parts, plain = list[str | Template](), list[str]()
        for each in _write(self.node):
            if isinstance(each, str):
                plain.append(each)
            else:
                parts += ["".join(plain), each]
                plain = []
        return (*parts, "".join(plain))

    def text(self, found: Mapping[Reference, Value], most_bytes: int, field: str) -> str:
        """As JSON.

        Raises:
            LimitExceededError: It is longer than that.
        """
        parts, size = [], 0
        for each in self._parts:
            part = each if isinstance(each, str) else _put(each, found, most_bytes, field)
            size += len(part)
            if size > most_bytes:
                raise LimitExceededError(
                    f"the input of {field} becomes longer than limits.prompt_bytes, which is {most_bytes}; give it less"
                    " at once, as with map, or raise that setting of the kernel",
                    metadata={"bound": "limits.prompt_bytes", "limit": str(most_bytes)},
                    field=field,
                )
            parts.append(part)
        return "".join(parts)


def check_few(bound: str, value: int, limit: int, told: str) -> None:
    """Refuse what is more than a bound of the configuration; `told` says of what, `{}` how many.

    Raises:
        LimitExceededError: It is.
    """
    if value > limit:
        raise LimitExceededError(
            f"{told.format(value)} and {bound} is {limit}; give fewer, or raise that setting of the kernel",
            metadata={"bound": bound, "value": str(value), "limit": str(limit)},
        )


def _counted(value: Any, field: str) -> tuple[int, int]:
    """How many values are in one, itself with them, and how many references in their texts."""
    values, references, depth, level = 0, 0, 0, [value]
    while level:
        if depth > MOST_DEPTH:
            raise InvalidFieldError(f"{field} is nested deeper than {MOST_DEPTH}", field=field)
        values += len(level)
        references += sum(references_in(each) for each in level if isinstance(each, str))
        several = (each for each in level if isinstance(each, list | dict))
        level = [inner for each in several for inner in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return values, references


def _read(value: Any, field: str) -> Any:
    if isinstance(value, str):
        template = Template.read(value, field)
        return template if template.references else "".join(each for each in template.parts if isinstance(each, str))
    if isinstance(value, list):
        return [_read(each, f"{field}[{at}]") for at, each in enumerate(value)]
    if isinstance(value, dict):
        return {key: _read(each, f"{field}.{key}") for key, each in value.items()}
    return value


def _references(node: Any) -> Iterator[Reference]:
    if isinstance(node, Template):
        yield from node.references
    elif isinstance(node, list | dict):
        for each in node.values() if isinstance(node, dict) else node:
            yield from _references(each)


def _put(template: Template, found: Mapping[Reference, Value], most_bytes: int, field: str) -> str:
    alone = template.alone
    return found[alone].raw if alone is not None else write_json(template.text(found, most_bytes, field))


def _write(node: Any) -> Iterator[str | Template]:
    if isinstance(node, Template):
        yield node
    elif isinstance(node, dict):
        yield "{"
        for at, (key, value) in enumerate(node.items()):
            yield f"{',' if at else ''}{write_json(key)}:"
            yield from _write(value)
        yield "}"
    elif isinstance(node, list):
        yield "["
        for at, value in enumerate(node):
            yield "," if at else ""
            yield from _write(value)
        yield "]"
    else:
        yield write_json(node)
