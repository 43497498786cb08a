"""Which characters of a rendered text a template wrote itself.

A template is compiled a second time with its own strings as `Own`: they compare, hash, slice and measure as the texts
that they are, so that it takes the same ways, and where they become output they stand between two marks. The marks are
characters for private use that occur in nothing that is rendered; what clients say carries none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAME: Final = "inferd_own"  # a template that speaks of it gains nothing: it may say what it likes
_SLOT: Final = re.compile(r"(%[a-z]|\{\w*\})")  # of `%` and of `format`, where a text is filled in
_TAKEN: Final = frozenset({"default", "d", "join"})  # filters whose constants show in what they give
_PARENTS: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class Own(str):
    """A text that knows which parts of it a template wrote.

    `kind` makes one for a pair of marks; the others are made by those. What is done to it and is not written here gives
    a plain text, of which nothing is known.

    Attributes:
        spans: Those parts, from where to where, in order.
    """

    __slots__ = ("spans",)
    begin: str
    end: str
    spans: tuple[tuple[int, int], ...]

    def __new__(cls, text: str = "", spans: Iterable[tuple[int, int]] = ()) -> Own:  # noqa: D102, PYI034 - see above; of this very kind
        made = super().__new__(cls, _plain(text))
        made.spans = tuple(spans)
        return made

    @classmethod
    def whole(cls, text: str) -> Own:
        """A text that the template wrote, white space around it apart."""
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        return cls(text, [(first, last)] if first < last else ())

    @classmethod
    def read(cls, marked: str) -> Own:
        """A text with marks in it."""
        if isinstance(marked, Own):
            return marked
        pieces, spans, length, opened = [], [], 0, None
        for piece in re.split(f"([{cls.begin}{cls.end}])", marked):
            if piece == cls.begin:
                opened = length
            elif piece == cls.end:
                if opened is not None:  # else one was cut off
                    spans.append((opened, length))
                opened = None
            else:
                pieces.append(piece)
                length += len(piece)
        return cls("".join(pieces), spans)

    def __str__(self) -> str:
        text, pieces, done = _plain(self), [], 0
        for first, last in self.spans:
            pieces += [text[done:first], self.begin, text[first:last], self.end]
            done = last
        return "".join([*pieces, text[done:]])

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __add__(self, other: Any) -> Any:
        return self.joined([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return self.joined([other, self]) if isinstance(other, str) else NotImplemented

    @classmethod
    def joined(cls, texts: Iterable[Any]) -> Own:
        """Texts, one behind the other; others are written as texts."""
        pieces, spans, length = [], [], 0
        for text in texts:
            piece = cls.read(text if isinstance(text, str) else str(text))
            pieces.append(_plain(piece))
            spans += [(first + length, last + length) for first, last in piece.spans]
            length += len(piece)
        return cls("".join(pieces), spans)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            if step == 1:
                return self._part(first, max(first, last))
        return _plain(self)[key]

    def _part(self, first: int, last: int) -> Own:
        kept = [(max(begin, first) - first, min(end, last) - first) for begin, end in self.spans]
        return type(self)(_plain(self)[first:last], [span for span in kept if span[0] < span[1]])

    def lstrip(self, characters: str | None = None, /) -> Own:
        """See `str`, as all below."""
        return self._part(len(self) - len(_plain(self).lstrip(characters)), len(self))

    def rstrip(self, characters: str | None = None, /) -> Own:  # noqa: D102
        return self._part(0, len(_plain(self).rstrip(characters)))

    def strip(self, characters: str | None = None, /) -> Own:  # noqa: D102
        return self.lstrip(characters).rstrip(characters)

    def removeprefix(self, prefix: str, /) -> Own:  # noqa: D102
        return self._part(len(self) - len(_plain(self).removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> Own:  # noqa: D102
        return self._part(0, len(_plain(self).removesuffix(suffix)))

    def split(self, separator: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:  # noqa: D102
        parts: list[str] = []
        at, text = 0, _plain(self)
        for part in text.split(separator, maxsplit):
            at = text.index(part, at)
            parts.append(self._part(at, at + len(part)))
            at += len(part) + len(separator or "")
        return parts

    def partition(self, separator: str, /) -> tuple[str, str, str]:  # noqa: D102
        head, middle, _ = _plain(self).partition(separator)
        first, last = len(head), len(head) + len(middle)
        return self._part(0, first), self._part(first, last), self._part(last, len(self))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:  # noqa: D102
        parts = self.split(old, count) if old else [_plain(self).replace(old, new, count)]
        return self.joined(each for n, part in enumerate(parts) for each in ([new, part] if n else [part]))

    def join(self, texts: Iterable[Any], /) -> str:  # noqa: D102
        return self.joined(each for n, text in enumerate(texts) for each in ([self, text] if n else [text]))

    def upper(self) -> str:  # noqa: D102
        return self._written(str.upper)

    def lower(self) -> str:  # noqa: D102
        return self._written(str.lower)

    def capitalize(self) -> str:  # noqa: D102
        return self._written(str.capitalize)

    def title(self) -> str:  # noqa: D102
        return self._written(str.title)

    def _written(self, write: Callable[[str], str]) -> str:
        written = write(_plain(self))
        return type(self)(written, self.spans) if len(written) == len(self) else written


def _plain(text: str) -> str:
    return str.__str__(text)


@lru_cache(maxsize=8)
def kind(begin: str, end: str) -> type[Own]:
    """The texts with these marks."""
    return type("Marked", (Own,), {"__slots__": (), "begin": begin, "end": end})


def trace(environment: jinja2.Environment, source: str, own: type[Own]) -> jinja2.Template:
    """A template whose own strings are `own` and come out with marks."""
    tracer = _Tracer(own)
    tree = tracer.visit(environment.parse(source))
    tree.set_environment(environment)
    return jinja2.Template.from_code(
        environment, environment.compile(tree), environment.make_globals(tracer.names), None
    )


class _Tracer(NodeTransformer):
    """Replaces the strings of a template, where they could come out."""

    def __init__(self, own: type[Own]) -> None:
        self._own = own
        self.names: dict[str, Any] = {_NAME: self._learn, f"{_NAME}_joined": lambda *texts: own.joined(texts)}

    def _learn(self, value: Any) -> Any:
        """What a call or a filter gave: a text of which nothing is known but its marks."""
        return self._own.read(value) if type(value) is str and self._own.begin in value else value

    def _call(self, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
        return nodes.Call(nodes.Name(name, "load", lineno=line), arguments, [], None, None, lineno=line)

    def _marked(self, node: Any) -> Any:
        """A string with marks in it, where a text is asked for that is one to the letter."""
        if not (isinstance(node, nodes.Const) and isinstance(node.value, str)):
            return self.visit(node)
        pieces = _SLOT.split(node.value)
        texts = [piece if n % 2 else str(self._own.whole(piece)) for n, piece in enumerate(pieces)]
        return nodes.Const("".join(texts), lineno=node.lineno)

    def _beside(self, node: Any) -> Any:
        """What is compared or looked for, and does not come out."""
        return node if isinstance(node, nodes.Const) else self.visit(node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802 - the visitor's name, as below
        return nodes.TemplateData(str(self._own.whole(node.data)), lineno=node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if not isinstance(node.value, str) or not node.value.strip():
            return node
        name = f"{_NAME}_{len(self.names)}"
        self.names[name] = self._own.whole(node.value)
        return nodes.Name(name, "load", lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        return self._call(f"{_NAME}_joined", [self.visit(each) for each in node.nodes], node.lineno)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        if node.node is None:  # of a block
            return node
        node.node = self.visit(node.node)
        if node.name == "replace" and len(node.args) > 1:
            node.args = [self._beside(node.args[0]), self._marked(node.args[1]), *node.args[2:]]
        else:
            look = self.visit if node.name in _TAKEN else self._beside
            node.args = [look(each) for each in node.args]
        return self._call(_NAME, [node], node.lineno)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        return self._call(_NAME, [self._called(node)], node.lineno)

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> Any:  # noqa: N802
        node.body = self._body(node.body)
        if not isinstance(node.target, nodes.Name):
            return node
        name, line = node.target.name, node.lineno
        told = self._call(_NAME, [nodes.Name(name, "load", lineno=line)], line)
        return [node, nodes.Assign(nodes.Name(name, "store", lineno=line), told, lineno=line)]

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        node.call, node.body = self._called(node.call), self._body(node.body)
        return node

    def _body(self, body: list[nodes.Node]) -> list[nodes.Node]:
        """Some become several."""
        visited = [self.visit(each) for each in body]
        return [each for one in visited for each in (one if isinstance(one, list) else [one])]

    def _called(self, node: nodes.Call) -> nodes.Call:
        method = node.node.attr if isinstance(node.node, nodes.Getattr) else ""
        if isinstance(node.node, nodes.Getattr) and method in {"format", "join"}:
            node.node.node = self._marked(node.node.node) if method == "format" else self.visit(node.node.node)
        else:
            node.node = self.visit(node.node)
        if method == "replace" and len(node.args) > 1:
            node.args = [self._beside(node.args[0]), self._marked(node.args[1]), *node.args[2:]]
        else:
            node.args = [self.visit(each) for each in node.args]
        node.kwargs = [self.visit(each) for each in node.kwargs]
        return node

    def visit_Mod(self, node: nodes.Mod) -> nodes.Node:  # noqa: N802
        node.left, node.right = self._marked(node.left), self.visit(node.right)
        return self._call(_NAME, [node], node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        node.expr = self._beside(node.expr)
        for operand in node.ops:
            operand.expr = self._beside(operand.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        node.node = self._beside(node.node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        node.node, node.arg = self.visit(node.node), self._beside(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        node.key, node.value = self._beside(node.key), self.visit(node.value)
        return node

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        return node if isinstance(node, _PARENTS) else super().generic_visit(node, *args, **kwargs)
