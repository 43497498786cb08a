"""JSON schemas as people write them: enforced, or looked at when an output is complete; never refused as a whole."""

import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import random
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pydantic
import pytest
from llguidance import LLTokenizer
from pydantic import BaseModel, ConfigDict, Field
from schema_walks import allows, compiled, fake_tokenizer, is_valid, walk
from typing_extensions import TypedDict


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


@dataclass
class Pair:
    left: int
    right: bool = True


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"]
    good: bool = Field(default=True, description="always")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    a: None


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    inside: T


FIELDS: list[Any] = [
    *(
        int,
        float,
        bool,
        str,
        bytes,
        None,
        Any,
        object,
        Color,
        Level,
        Point,
        Movie,
        Pair,
        Node,
        Cat,
        Dog,
        Open,
        Box[int],
    ),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, pathlib.Path, re.Pattern, complex),
    *(dt.date, dt.time, dt.datetime, dt.timedelta),
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Interface),
    *(list[int], set[bool], set[str], frozenset[Color], tuple[int, ...], tuple[int, str], tuple[()], deque[int]),
    *(dict[str, int], dict[Literal["a", "b"], int], dict[Color, bool], dict[int, str], dict[uuid.UUID, None]),
    *(dict[Annotated[str, Field(pattern="^x_[a-z]+$")], int], dict[Annotated[str, Field(max_length=3)], bool]),
    *(Mapping[str, Any], OrderedDict[str, float], Sequence[bool], int | None, int | str | None, Literal["x", 1] | None),
    *(pydantic.SecretStr, pydantic.SecretBytes, pydantic.AnyUrl, pydantic.HttpUrl, pydantic.PostgresDsn, pydantic.Json),
    *(pydantic.PositiveInt, pydantic.NonPositiveFloat, pydantic.StrictStr, pydantic.FilePath, pydantic.ByteSize),
    *(pydantic.AwareDatetime, pydantic.PastDate, pydantic.UUID4, pydantic.Base64Bytes, pydantic.IPvAnyAddress),
    *(
        pydantic.conlist(int, min_length=1, max_length=2),
        pydantic.constr(pattern=r"^[A-Z]{2}\d+$"),
        pydantic.conset(int),
    ),
    *(pydantic.condecimal(max_digits=5, decimal_places=2), pydantic.confloat(ge=0, lt=1, multiple_of=0.25)),
    Annotated[Cat | Dog, Field(discriminator="kind")],
    dict[str, list[Annotated[Cat | Dog, Field(discriminator="kind")]]],
    Annotated[str, Field(pattern=r"^\b\w+\b$")],
]


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    """The tokens of the fake model."""
    return fake_tokenizer()


def written(field: Any) -> dict[str, Any]:
    model = pydantic.create_model("Answer", field=(field, ...))
    return model.model_json_schema()


def test_schemas_that_pydantic_writes(tokenizer: LLTokenizer) -> None:
    """Of 60 types of fields none is refused; outputs are valid, or found not to be, as another validator says."""
    assert len(FIELDS) >= 60
    judged = 0
    for number, field in enumerate(FIELDS):
        schema = written(field)
        made = compiled(tokenizer, schema)
        for seed in range(2):
            text = walk(made, random.Random(100 * number + seed))
            fault = made.check.fault(text) if made.check else None
            judged += fault is not None
            assert (fault is None) == is_valid(schema, text), (field, text, fault)
    assert judged < len(FIELDS) / 6  # the grammars do most of it


CASES: list[tuple[Any, list[Any], list[Any]]] = [
    # what the schema is, outputs that are valid, outputs that are not
    (True, [1, None, {"a": [1]}], []),
    ({"type": "array", "uniqueItems": True}, [[], [1, 2], [[1], [2]], [{"a": 1}, {"a": 2}]], [[1, 1], [1, 1.0]]),
    ({"uniqueItems": True}, [[1, True], [0, False], "x"], [[{"a": 1, "b": 2}, {"b": 2, "a": 1}], ["", ""]]),
    ({"items": {"enum": ["a", "b"]}, "uniqueItems": True}, [["b", "a"]], [["a", "a"], ["a", "b", "a"]]),
    ({"uniqueItems": False}, [[1, 1]], []),
    ({"prefixItems": [{"type": "boolean"}] * 2, "uniqueItems": True, "items": False}, [[True, False]], [[True, True]]),
    ({"propertyNames": {"enum": ["a", "b"]}}, [{}, {"a": 1}, {"a": 1, "b": 2}, 3], [{"c": 1}]),
    ({"propertyNames": {"const": "a"}}, [{"a": 1}], [{"b": 1}]),
    ({"propertyNames": {"maxLength": 3}}, [{"abc": 1}, {}], [{"abcd": 1}]),
    ({"propertyNames": {"minLength": 2, "maxLength": 2}}, [{"ab": {"x": 1}}], [{"a": 1}, {"abc": 1}]),
    ({"propertyNames": {"pattern": "^a+$"}}, [{"aa": {}}, {}], [{"ab": 1}]),
    ({"propertyNames": True}, [{"a": 1}], []),
    ({"propertyNames": False}, [{}], [{"a": 1}]),
    ({"propertyNames": {"not": {"const": "a"}}}, [{"b": 1}], [{"a": 1}]),
    ({"properties": {"a": {}}, "propertyNames": {"minLength": 1}}, [{"a": 1}, {"b": 2}], [{"": 1}]),
    ({"not": {"type": "integer"}}, ["x", None, 1.5], [1]),
    ({"not": {"type": ["integer", "boolean"]}}, ["x"], [1, True]),
    ({"not": {"properties": {"a": {"type": "string"}}, "required": ["a"]}}, [{"a": 1}, {}], [{"a": "x"}]),
    ({"not": {"not": {"type": "null"}}}, [None], [1]),
    ({"properties": {"a": {"not": {}}}}, [{"b": 1}], [{"a": 1}]),
    ({"type": "string", "not": {"enum": ["", "no"]}}, ["yes"], ["", "no"]),
    ({"if": {"type": "string"}, "then": {"minLength": 2}}, ["ab", 1], ["a"]),
    ({"if": {"exclusiveMaximum": 0}, "then": {"minimum": -10}, "else": {"multipleOf": 2}}, [-1, 4, "x"], [-100, 3]),
    ({"if": {"const": "yes"}, "else": {"const": "other"}}, ["yes", "other"], ["no"]),
    ({"if": {"maximum": 0}}, [1, -1], []),
    ({"then": {"const": 0}}, ["hello"], []),
    ({"if": True, "then": {"const": "then"}, "else": {"const": "else"}}, ["then"], ["else"]),
    ({"if": False, "then": {"const": "then"}, "else": {"const": "else"}}, ["else"], ["then"]),
    (
        {
            "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer"}},
            "if": {"properties": {"kind": {"const": "a"}}},
            "then": {"required": ["n"]},
        },
        [{"kind": "b"}, {"kind": "a", "n": 1}],
        [{"kind": "a"}, {"kind": "c"}],
    ),
    ({"contains": {"minimum": 5}}, [[3, 5], [6], "x", {}], [[], [2, 3, 4]]),
    ({"contains": {"const": 5}, "minContains": 2}, [[5, 5], [5, 1, 5]], [[5], [5, 1]]),
    ({"contains": {"const": 1}, "maxContains": 1}, [[1], [1, 2]], [[1, 1], []]),
    ({"contains": {"const": 1}, "minContains": 0}, [[], [2]], []),
    ({"contains": True}, [[1]], [[]]),
    ({"contains": False}, ["x"], [[], [1]]),
    ({"items": {"multipleOf": 2}, "contains": {"multipleOf": 3}}, [[6, 2]], [[2, 4], [3]]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 2}, 3], [{"a": 1}]),
    ({"dependentRequired": {"a": []}}, [{"a": 1}], []),
    ({"dependentRequired": {"c": ["a", "b"]}}, [{"a": 1, "b": 2, "c": 3}], [{"a": 1, "c": 2}]),
    ({"dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}}, [{"a": 1, "b": None}], [{"a": 1, "b": 2}]),
    ({"dependentSchemas": {"a": False}}, [{"b": 1}], [{"a": 1}]),
    (
        {"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}},
        [{"a": 1, "b": 1}, {}],
        [{"a": 1}],
    ),
    ({"patternProperties": {"f.*o": {"type": "integer"}}}, [{"foo": 1}, {"x": "y"}, {}], [{"foo": "x"}]),
    (
        {"patternProperties": {"a*": {"type": "integer"}, "aaa*": {"maximum": 20}}},
        [{"a": 21}, {"aaaa": 18}],
        [{"a": "x"}, {"aaa": 31}],
    ),
    (
        {"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False},
        [{"xa": None}],
        [{"xa": 1}, {"a": None}],
    ),
    (
        {"patternProperties": {"(?=a)a": {"type": "null"}}, "additionalProperties": False},
        [{"a": None}],
        [{"a": 1}, {"b": None}],
    ),
    ({"patternProperties": {"a": True, "b": False}}, [{"a": 1}, {}], [{"b": 1}, {"ab": 1}]),
    (
        {"properties": {"foo": {"maxItems": 3}}, "patternProperties": {"f.o": {"minItems": 2}}},
        [{"foo": [1, 2]}],
        [{"foo": []}],
    ),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "x"], [3, 1.5]),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, [1.5], [1, "x"]),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ["a", None], [1]),
    ({"oneOf": [True, True, False]}, [], [1]),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{"a": 1, "b": 2}]),
    (
        {"type": "object", "oneOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}],
        [{"c": 1}],
    ),
    ({"type": "string", "format": "password"}, ["x"], [1]),
    ({"format": "no such format"}, ["x", 1], []),
    ({"type": "string", "format": "date"}, ["2024-01-31"], ["x", "2024-13-01"]),
    ({"properties": {"a": True, "b": False}}, [{"a": 1}, {"c": 1}], [{"b": 1}]),
    ({"items": False}, [[], "x"], [[1]]),
    ({"items": True}, [[1]], []),
    ({"allOf": [True, {"type": "null"}]}, [None], [1]),
    ({"anyOf": [False, {"type": "null"}]}, [None], [1]),
    ({"additionalProperties": {"type": "null"}, "properties": {"a": {}}}, [{"a": 1, "b": None}], [{"a": 1, "b": 2}]),
    ({"$defs": {"a": {"type": "null"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}, [{"x": None}], [{"x": 1}]),
    ({"$defs": {"a": {"uniqueItems": True}}, "items": {"$ref": "#/$defs/a"}}, [[[1, 2]]], [[[1, 1]]]),
    (
        {"properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
        [{"next": {"next": {}}}],
        [{"next": {"a": 1}}],
    ),
    ({"type": "array", "uniqueItems": True, "items": {"$ref": "#"}}, [[], [[], [[]]]], [[[], []], [1]]),
    ({"definitions": {"a": {"not": {"type": "null"}}}, "$ref": "#/definitions/a"}, [1], [None]),
    ({"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a", "maximum": 3}, [3], [4, "x"]),
    ({"$defs": {"a~/b%": {"type": "null"}}, "items": {"$ref": "#/$defs/a~0~1b%25"}}, [[None]], [[1]]),
    ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "null"}}}, [{"a": None}], [{"a": 1}]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$anchor": "x", "type": "null"}, "b": {"$ref": "#x"}}}, [None], [1]),
    ({"$dynamicRef": "#node", "$defs": {"n": {"$dynamicAnchor": "node", "type": "null"}}}, [None], [1]),
    (
        {"$id": "https://example.com/s", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "null"}}},
        [[None]],
        [[1]],
    ),
    ({"unevaluatedProperties": False, "properties": {"a": {}}}, [{"a": 1}], [{"b": 1}]),
    ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
    ({"prefixItems": [{"type": "null"}], "unevaluatedItems": False}, [[None], []], [[None, 1], [1]]),
    ({"type": "string", "pattern": "^(?!no)[a-z]+$"}, ["yes"], ["nope", "A"]),
    ({"type": "string", "pattern": r"\bcat\b"}, ["a cat", "cat"], ["cats", "dog"]),
    ({"type": "string", "pattern": "^a|b$"}, ["ax", "xb"], ["x"]),
    ({"type": "string", "pattern": r"^(a)\1$"}, ["aa"], ["a", "ab"]),
    ({"minProperties": 1}, [{"a": 1}, "x"], [{}]),
    ({"maxProperties": 1}, [{"a": 1}, {}], [{"a": 1, "b": 1}]),
    ({"type": "array", "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ({"type": "string", "minLength": 1, "maxLength": 2}, ["a", "ab", "\N{CAT FACE}b"], ["", "abc"]),
    ({"type": "integer", "minimum": 0, "exclusiveMaximum": 10}, [0, 9], [-1, 10, 1.5]),
    ({"type": "number", "multipleOf": 0.5}, [1, 1.5], [1.2]),
    ({"type": ["null", "boolean"]}, [None, True], [1, "x"]),
    ({"enum": [1, "a", None, [1], {"a": True}]}, [1, "a", None, [1], {"a": True}], [2, "b", []]),
    ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}]),
    ({"allOf": [{"minimum": 2}, {"maximum": 4}], "type": "integer"}, [2, 4], [1, 5]),
    ({"anyOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, 3], [1.5]),
    ({"type": "string", "contentMediaType": "application/json", "contentEncoding": "base64"}, ["{:}"], [1]),
    ({"$comment": "x", "title": "t", "default": 3, "examples": [1], "deprecated": True, "readOnly": True}, [1], []),
    ({"x-more": {"not": 1}, "discriminator": {"propertyName": "a"}, "type": "null"}, [None], [1]),
    ({"$schema": "https://example.com/own", "uniqueItems": True}, [[1, 2]], [[1, 1]]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case[0])[:60])
def test_schemas_of_all_kinds(tokenizer: LLTokenizer, case: tuple[Any, list[Any], list[Any]]) -> None:
    """A grammar allows what is valid; what is not it does not allow, or it is found when the output is complete."""
    schema, valid, invalid = case
    made = compiled(tokenizer, schema)

    def found(value: Any) -> bool:
        text = json.dumps(value, ensure_ascii=False)
        return allows(made, text) and (made.check is None or made.check.fault(text) is None)

    assert [value for value in valid if not found(value)] == []
    assert [value for value in invalid if found(value)] == []
