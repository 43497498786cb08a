"""What pipelines say: references, texts, conditions and graphs, checked before anything runs."""

import json
from typing import Any

import pytest

from inferd.core.conditions import Condition
from inferd.core.expressions import Reference, Template, Value, read_json
from inferd.core.function import Function
from inferd.core.shapes import Shape
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.pipeline_settings import Pipelines
from inferd.runtime.front.pipeline_check import check_types
from inferd.services.pipeline_values import PipelineWire
from inferd_client.pipeline_declarations import declare

WIRE = PipelineWire(Pipelines(), 1 << 20)


def values(references: tuple[Reference, ...], **given: Any) -> dict[Reference, Value]:
    """What whole references stand for."""
    return {each: Value.of(len(given[each.root]) if each.counts else given[each.root]) for each in {*references}}


def read(*steps: dict[str, Any], **more: Any) -> Any:
    """A pipeline that was declared, as the kernel reads it."""
    return WIRE.read(declare({"steps": list(steps), **more}).SerializeToString())


def shape_of(value: Any) -> Shape:
    return Shape.read(json.dumps(value), "here", most_values=1 << 20, most_references=1 << 20)


def call(name: str, function: str = "clean", **more: Any) -> dict[str, Any]:
    return {"name": name, "call": {"function": function, "input": {"text": "{input}"}}, **more}


def test_texts_name_values() -> None:
    """A text has values in its braces: texts as they are, null as nothing, all else as JSON; lists are joined."""
    template = Template.read("{{{a}}} {b} {c | join} {c | json}{d}", "here")
    made = template.text(values(template.references, a="x", b=1.5, c=["p", 2], d=None), 1000, "here")
    assert made == '{x} 1.5 p\n\n2 ["p",2]'
    with pytest.raises(InvalidFieldError, match="no reference"):
        Template.read('answer with {"a": 1}', "here")
    with pytest.raises(InvalidFieldError, match="there are join, lines, json"):
        Template.read("{a | upper}", "here")


def test_a_text_is_bounded_before_it_is_made() -> None:
    """A text that names a large value many times is refused by its bound, and is not made."""
    template = Template.read("{a}" * 100_000, "here")
    with pytest.raises(LimitExceededError, match=r"limits\.prompt_bytes"):
        template.text(values(template.references, a="x" * (1 << 20)), 1 << 20, "here")
    shape = shape_of(["{a}"] * 100_000)
    with pytest.raises(LimitExceededError, match=r"limits\.prompt_bytes"):
        shape.text(values(shape.references, a="x" * (1 << 20)), 1 << 20, "here")


@pytest.mark.timeout(20)
def test_a_text_of_braces_is_read_in_one_go() -> None:
    """What a text of nothing but braces takes is linear in its length, and they are one part of it."""
    assert Template.read("{{" * (1 << 20), "here").parts == ("{" * (1 << 20),)
    assert [*map(str, Template.read("}}{{{a}}}{{}}{b}", "here").references)] == ["a", "b"]
    assert Template.read("}}{{{a}}}{{}}{b}", "here").parts[::2] == ("}{", "}{}")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"generate": {"model": "m", "prompt": "{item}" * 1001}}, r"1001 references and pipelines\.references is 1000"),
        ({"call": {"function": "f", "input": {"a": ["{item} {item}"] * 501}}}, r"1002 references and pipelines\.ref"),
        ({"call": {"function": "f", "input": {"a": [0] * 9999}}}, r"10001 values and pipelines\.call_values is 10000"),
        ({"generate": {"model": "m", "prompt": "{{" * (1 << 20)}}, r"2097152 and limits\.prompt_bytes is 1048576"),
    ],
)
def test_what_each_item_would_cost_is_bounded(step: dict[str, Any], says: str) -> None:
    """References, values around them and lengths are counted before any is read; the error has the bound and both."""
    with pytest.raises(LimitExceededError, match=says):
        read({"name": "a", "map": "{input}", **step})


def test_references_of_all_steps_are_counted_together() -> None:
    """The bound of references is one of the pipeline."""
    steps = [{"name": f"a{at}", "generate": {"model": "m", "prompt": "{input}" * 300}} for at in range(4)]
    with pytest.raises(LimitExceededError, match=r"steps\[3\].*1200 references"):
        read(*steps)


def test_a_value_is_written_where_that_is_asked() -> None:
    """What a condition looks into is not written as JSON: only texts need that."""
    value = Value.of({"a": float("nan"), "b": object()})
    assert isinstance(value.data, dict)
    with pytest.raises(TypeError):
        _ = value.raw


def test_json_keeps_what_a_value_is() -> None:
    """In the JSON of a call a text that is a reference is the value itself; what a value holds is never read again."""
    shape = shape_of({"n": "{a}", "t": "<{a}>", "k": [1, "{b}"]})
    made = shape.text(values(shape.references, a={"x": "{b}"}, b='"{a}'), 1000, "here")
    assert json.loads(made) == {"n": {"x": "{b}"}, "t": '<{"x":"{b}"}>', "k": [1, '"{a}']}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("length(a) > 2 and not b == 'x'", True),
        ("a == 'abc' or nothing_like_this == 1", True),
        ("(n < 1 or n >= 2) and n != 3", True),
        ("'b' in a", True),
        ("b in l", False),
        ("n == true", False),
        ("not (a and n)", False),
    ],
)
def test_conditions(text: str, *, holds: bool) -> None:
    """Conditions compare as they are read, from the left, `and` before `or`."""
    condition = Condition.read(text, "when")
    known = {"a": "abc", "b": "y", "n": 2, "l": ["x"], "nothing_like_this": None}
    assert condition.holds(values(condition.references, **known)) is holds


@pytest.mark.parametrize(
    "text", ["", "a >", "a b", "a = 1", "__import__('os')", "length(1)", "(a", "not " * 2000 + "a", "a.b()"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    """What is not of the language is refused with where it stands; nothing of it is ever called."""
    with pytest.raises(InvalidFieldError, match=r"cannot be read|nested deeper"):
        Condition.read(text, "when")


def test_numbers_and_texts_have_no_order() -> None:
    """A condition that compares a text with a number is an error, not false."""
    condition = Condition.read("a < 1", "when")
    with pytest.raises(InvalidFieldError, match="a text < a number"):
        condition.holds(values(condition.references, a="x"))


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([call("a"), call("a")], "another step has"),
        ([call("item")], "a word of the language"),
        ([call("A")], "no name"),
        ([call("parts"), {**call("b"), "map": "{prats}"}], "did you mean 'parts'"),
        ([call("a", when="b"), call("b", when="c == 1"), call("c", when="a")], "a → b → c → a"),
        ([call("a", when="a")], "a → a"),
        ([call("a"), call("b")], "'a', which nothing needs"),
        ([call("a", when="item == 1")], "only a step with map has"),
        ([call("a", map="{item}")], "only a step with map has"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(steps: list[dict[str, Any]], says: str) -> None:
    """Names that are none or come twice, references that lead nowhere, circles, and steps that nobody needs."""
    with pytest.raises(InvalidFieldError, match=says):
        read(*steps).check()


def function(name: str, takes: dict[str, Any], gives: Any, *, streams: bool = False) -> Function:
    schema = {"type": "object", "properties": takes, "required": [*takes][:1], "additionalProperties": False}
    return Function(
        name=name,
        version=1,
        description="",
        input_schema=json.dumps(schema),
        output_schema=json.dumps(gives),
        streams=streams,
        timeout_s=1,
        memory_bytes=1,
        package="p",
    )


CLEAN = function("clean", {"text": {"type": "string"}, "most": {"type": "integer"}}, {"type": "string"})
CHUNK = function(
    "chunk",
    {"text": {"type": "string"}},
    {
        "$ref": "#/$defs/C",
        "$defs": {"C": {"type": "object", "properties": {"text": {"type": "string"}, "at": {"type": "integer"}}}},
    },
    streams=True,
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"txet": "{item.text}"}, "lacks 'text'"),
        ({"text": "{item.text}", "mots": 1}, "did you mean 'most'"),
        ({"text": 1}, "is number, and clean takes string"),
        ({"text": "{item.at}"}, "is number, and clean takes string"),
        ({"text": "{chunks}"}, "is array, and clean takes string"),
        ({"text": "{item.text}", "most": "{item.text}"}, "is string, and clean takes number"),
    ],
)
def test_types_that_do_not_fit_are_refused(given: dict[str, Any], says: str) -> None:
    """What a step gives is held against what the next one takes, through lists and references, before anything runs."""
    pipeline = read(
        {"name": "chunks", "call": {"function": "chunk", "input": {"text": "{input}"}}},
        {"name": "cleaned", "map": "{chunks}", "call": {"function": "clean", "input": given}},
    )
    with pytest.raises(InvalidFieldError, match=says):
        check_types(pipeline, {0: CHUNK, 1: CLEAN})


@pytest.mark.timeout(20)
def test_a_schema_that_refers_to_itself_is_looked_at_once() -> None:
    """Alternatives that lead back to themselves take no more than their nodes; what they say counts."""
    again = {"anyOf": [{"$ref": "#/$defs/a"}] * 50 + [{"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/a"}]}]}
    gives = {"type": "object", "properties": {"t": {"$ref": "#/$defs/a"}}, "$defs": {"a": again}}
    asked = {"model": "m", "prompt": "x", "schema": gives}
    pipeline = read(
        {"name": "g", "generate": asked}, {"name": "a", "call": {"function": "clean", "input": {"text": "{g.t}"}}}
    )
    with pytest.raises(InvalidFieldError, match="is number, and clean takes string"):
        check_types(pipeline, {1: CLEAN})


def test_types_that_fit_are_not() -> None:
    """What may fit is let through: values of the input, whole numbers for numbers, items of batches."""
    pipeline = read(
        {"name": "chunks", "call": {"function": "chunk", "input": {"text": "{input}"}}},
        {
            "name": "cleaned",
            "map": {"over": "{chunks}", "batch": 2},
            "call": {"function": "clean", "input": {"text": "{item[0].text}", "most": "{index}"}},
        },
        {"name": "all", "call": {"function": "clean", "input": {"text": "{cleaned | join}"}}},
    )
    pipeline.check()
    check_types(pipeline, {0: CHUNK, 1: CLEAN, 2: CLEAN})


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"stpes": []}, "did you mean 'steps'"),
        ({"steps": []}, "no steps"),
        ({"steps": [{"name": "a"}]}, "nothing to do"),
        (
            {"steps": [{"name": "a", "generate": {"model": "m", "promt": "x"}}]},
            r"steps\[0\] \(a\).generate has 'promt'.*'prompt'",
        ),
        ({"steps": [{"name": "a", "generate": {"model": "m", "prompt": "x", "temperature": "hot"}}]}, "temperature"),
        ({"steps": [{"name": "a", "embed": {"model": "m", "text": "x", "pooling": "max"}}]}, "one of last, mean"),
        ({"steps": [{**call("a"), "timeout_s": -1}]}, "above 0"),
    ],
)
def test_declarations_tell_what_is_wrong(declared: dict[str, Any], says: str) -> None:
    """A declaration that is none is refused with where it is wrong and what was meant."""
    with pytest.raises(ValueError, match=says):
        declare(declared)


@pytest.mark.parametrize("raw", ["1e999", "[-1E400]", '{"a": "\\ud800"}', '["\\uDFFF"]', "NaN"])
def test_what_has_no_place_in_json_or_in_texts_is_refused(raw: str) -> None:
    """A number that is read as infinite, and half a character, end as what was given wrong, and reach no step."""
    with pytest.raises(InvalidFieldError, match="a value"):
        read_json(raw, "a value")
    assert read_json('["\\ud83d\\ude00", 1e308]', "a value") == ["\U0001f600", 1e308]
