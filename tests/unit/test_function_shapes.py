"""What functions take and give by their annotations, and packages that are not as they must be."""

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from inferd.engine.function.offered import collect
from inferd.engine.function.shape import RefusedError, Shape
from inferd.plugin import function


@dataclass
class Point:
    """A place."""

    x: int
    y: int = 0


class Named(TypedDict):
    """Something with a name."""

    name: str


def every(
    text: str,
    number: float,
    points: list[Point],
    named: dict[str, Named],
    *,
    kind: Literal["a", "b"] = "a",
    most: Annotated[int, Field(ge=1, le=9)] | None = None,
) -> dict[str, Any]:
    """Take what a function may take."""
    return {"text": text, "sum": number + sum(p.x + p.y for p in points), "kind": kind, "most": most, "named": named}


GIVEN = {"text": "é", "number": 2, "points": [{"x": 1, "y": 2}, {"x": 3}], "named": {"k": {"name": "n"}}}


def test_values_are_those_of_the_annotations() -> None:
    """JSON becomes what parameters are annotated with, whole numbers are floats too, and defaults are Python's own."""
    shape = Shape(every)
    read = shape.read(json.dumps(GIVEN).encode())
    assert read["points"] == [Point(1, 2), Point(3)]
    assert "kind" not in read
    assert json.loads(shape.write(every(**read))) == {
        "text": "é", "sum": 8.0, "kind": "a", "most": None, "named": {"k": {"name": "n"}},
    }  # fmt: skip
    schema = json.loads(shape.input_schema)
    assert schema["required"] == ["text", "number", "points", "named"]
    assert schema["properties"]["kind"] == {"default": "a", "enum": ["a", "b"], "title": "Kind", "type": "string"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"number": "2"}, ".number"),
        ({"points": [{"x": 1}, {"y": 1}]}, ".points[1].x"),
        ({"named": {"k": {"name": 3}}}, ".named.k.name"),
        ({"kind": "c"}, ".kind"),
        ({"most": 10}, ".most.constrained-int"),
        ({"number": True}, ".number"),
        ({"numbre": 1}, ".numbre"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(change: dict[str, Any], path: str) -> None:
    """Nothing is converted that is of another type; the path leads to what is wrong, in lists and objects, too."""
    with pytest.raises(RefusedError) as refused:
        Shape(every).read(json.dumps(GIVEN | change).encode())
    assert refused.value.path.startswith(path.removesuffix(".constrained-int"))


@pytest.mark.parametrize("given", [b"[]", b"{", b"nul", b'"text"', b"[" * 100_000, b'{"text":' * 100_000])
def test_what_is_no_object_is_refused(given: bytes) -> None:
    """Whatever is no JSON object is refused, however deep it is."""
    with pytest.raises(RefusedError):
        Shape(every).read(given)


def test_an_empty_input_is_an_empty_object() -> None:
    """Who gives nothing gives no parameter."""

    def nothing() -> None:
        """Take nothing."""

    assert Shape(nothing).read(b"") == {}
    assert Shape(nothing).write(None) == b"null"


def no_annotation(text) -> str:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Lack an annotation."""
    return str(text)


def no_result(text: str):  # type: ignore[no-untyped-def] # noqa: ANN201
    """Lack that of the result."""
    return text


def no_schema(text: str) -> Callable[[], str]:
    """Give what no schema is made of."""
    return lambda: text


def unknown(text: "Missing") -> str:  # type: ignore[name-defined] # noqa: F821
    """Have an annotation that is none."""
    return str(text)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (no_annotation, "parameter 'text' of function 'no_annotation' has no annotation"),
        (no_result, "result of function 'no_result' has no annotation"),
        (no_schema, "no schema can be made of the output of function 'no_schema'"),
        (unknown, "annotations of function 'unknown' cannot be read: name 'Missing'"),
    ],
)
def test_a_function_without_a_schema_is_named(wrong: Callable[..., Any], words: str) -> None:
    """What is missing is named with its function."""
    with pytest.raises(ValueError, match=words):
        Shape(wrong)


def test_generators_stream() -> None:
    """What is annotated as an iterator gives pieces, each of its own type; a list is one value."""

    def several(upto: int) -> Iterator[Union[int, str]]:  # noqa: UP007 - as people write it
        """Give some."""
        yield from range(upto)

    shape = Shape(several)
    assert shape.streams
    assert json.loads(shape.output_schema) == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    with pytest.raises(RefusedError):
        shape.write([1])
    assert not Shape(every).streams


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ({"name": "No"}, "does not match"),
        ({"version": 0}, "from 1 to"),
        ({"timeout_s": 0}, "above 0"),
        ({"timeout_s": float("inf")}, "above 0"),
        ({"memory_bytes": 1.5}, "whole number"),
    ],
)
def test_a_mark_that_is_wrong_is_refused_at_once(mark: dict[str, Any], words: str) -> None:
    """What a decorator says is looked at where it stands."""
    with pytest.raises(ValueError, match=words):
        function(**mark)(every)


def test_what_cannot_be_called_by_names_is_refused() -> None:
    """A function takes each parameter by its name, and is no coroutine."""

    def many(*texts: str) -> str:
        """Take any number."""
        return "".join(texts)

    async def later() -> None:
        """Be a coroutine."""

    with pytest.raises(ValueError, match="'texts' that takes any number"):
        function()(many)
    with pytest.raises(ValueError, match="write `def`"):
        function()(later)


HEAD = """
from inferd.plugin import function, hookimpl

@function()
def one() -> int:
    return 1
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "offers no functions: implement the hook `inferd_functions`"),
        ("@hookimpl\ndef inferd_functions():\n    return []", "offers no functions"),
        ("@hookimpl\ndef inferd_functions():\n    return [one, one]", "'one' twice with version 1"),
        ("@hookimpl\ndef inferd_functions():\n    return [print]", "must give functions with `@function\\(\\)`"),
        ("@hookimpl\ndef inferd_function():\n    return [one]", "did you mean 'inferd_functions'"),
    ],
)
def test_a_package_that_is_not_as_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str, request: pytest.FixtureRequest
) -> None:
    """What is wrong with a package is said in words that name the hook or the function."""
    name = f"offers_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(body))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=words):
        collect(name)
