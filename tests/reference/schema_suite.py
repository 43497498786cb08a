"""Five hundred schemas of every keyword, as the files of the public JSON Schema suite are divided, and values for them.

Each schema is written from what its keyword is for; which values are valid is left to an independent validator. Names
of members come in the order in which schemas name them: grammars have one order.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

Schema = dict[str, Any] | bool

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 5, 10, 99, 1.0, 1.5, -2.25, 0.1, 2.5, 1e3),
    *("", "a", "b", "ab", "abc", "x_1", "A1", "yes", "no", "12", "é", "\N{CAT FACE}", "a b", "2024-01-31", "10:20:30Z"),
    *(
        [],
        [1],
        ["a"],
        [None],
        [1, 2],
        [1, 1],
        ["a", "a"],
        [1, "a"],
        ["a", 1],
        [1, 2, 3],
        [True, 1],
        [[], []],
        [[1], [2]],
    ),
    *([{}], [{"a": 1}], [{"a": 1}, {"a": 1}], [1.5, "b", None]),
    *({}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": None}, {"a": [], "b": {}}, {"c": True}, {"x": 1}),
    *({"a": 1, "b": 2, "c": 3}, {"a": {"a": 1}}, {"a": {"b": "x"}}, {"x_1": 1}, {"a": 1, "x_1": 2}, {"a": -5}),
]
SMALL: list[Schema] = [
    *({"type": "integer"}, {"type": "string"}, {"type": "null"}, {"minimum": 2}, {"maxLength": 2}, {"const": 1}),
    *({"enum": ["a", 1, None]}, {"required": ["a"]}, {"minItems": 1}, {"multipleOf": 2}, True, False),
]


def suite() -> list[tuple[str, Schema]]:
    """The schemas, each with the keyword that it is about."""
    return [(keyword, schema) for keyword, made in _FILES.items() for schema in made()]


def _types() -> Iterator[Schema]:
    yield from ({"type": each} for each in TYPES)
    yield from ({"type": [*pair]} for pair in combinations(TYPES, 2) if pair != ("integer", "number"))
    yield {"type": list(TYPES)}


def _bounds() -> Iterator[Schema]:
    for kind in ("integer", "number"):
        for low in (-1, 0, 1.5, 2):
            yield {"type": kind, "minimum": low}
            yield {"type": kind, "exclusiveMinimum": low}
            yield {"type": kind, "maximum": low + 3}
            yield {"type": kind, "exclusiveMaximum": low + 3}
            yield {"type": kind, "minimum": low, "maximum": low + 8}
            yield {"type": kind, "exclusiveMinimum": low, "exclusiveMaximum": low + 3}
    yield from ({"minimum": low} for low in (0, 1.1, -2))
    yield from ({"exclusiveMaximum": high} for high in (0, 1.1, 3))


def _multiples() -> Iterator[Schema]:
    yield from ({"type": "integer", "multipleOf": each} for each in (1, 2, 3, 5))
    yield from ({"multipleOf": each} for each in (1, 2, 0.5, 0.25, 10))
    yield {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 99}


def _lengths() -> Iterator[Schema]:
    for least in range(4):
        yield {"minLength": least}
        yield {"maxLength": least}
        yield {"type": "string", "minLength": least, "maxLength": least + 1}
        yield {"minItems": least}
        yield {"maxItems": least}
        yield {"type": "array", "minItems": least, "maxItems": least + 1}
        yield {"minProperties": least}
        yield {"maxProperties": least}
        yield {"type": "object", "minProperties": least, "maxProperties": least + 1}


def _enums() -> Iterator[Schema]:
    yield from ({"const": each} for each in VALUES[::2])
    yield from ({"enum": VALUES[at : at + 4]} for at in range(0, len(VALUES), 4))
    yield {"enum": [[False], [0], {"a": False}]}


def _patterns() -> Iterator[Schema]:
    for pattern in (
        "^a",
        "b$",
        "^[a-z]+$",
        r"^\d+$",
        "^(yes|no)$",
        "^.$",
        "a.*b",
        r"\s",
        "^$",
        "[^a-z]",
        "^[A-Z][0-9]",
    ):
        yield {"pattern": pattern}
        yield {"type": "string", "pattern": pattern}
    yield {"type": "string", "pattern": "^[a-z]+$", "minLength": 2}


def _formats() -> Iterator[Schema]:
    known = (
        "date",
        "time",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uuid",
        "json-pointer",
    )
    odd = ("regex", "iri", "idn-email", "uri-template", "color", "binary", "int64", "no such format")
    yield from ({"format": each} for each in (*known, *odd))
    yield from ({"type": "string", "format": each} for each in odd)


def _arrays() -> Iterator[Schema]:
    yield from ({"items": each} for each in SMALL)
    yield from ({"type": "array", "items": each} for each in SMALL)
    yield from ({"prefixItems": [first, {"type": "string"}]} for first in SMALL)
    yield from ({"prefixItems": [first], "items": False} for first in SMALL)
    yield from ({"prefixItems": [{"type": "integer"}], "items": each} for each in SMALL)
    yield from ({"prefixItems": [first], "unevaluatedItems": False} for first in SMALL[:4])
    yield from ({"items": {"items": each}} for each in SMALL[:6])


def _contents() -> Iterator[Schema]:
    yield from ({"contains": each} for each in SMALL)
    for least in range(3):
        yield {"contains": {"type": "integer"}, "minContains": least}
        yield {"contains": {"const": 1}, "minContains": least, "maxContains": least + 1}
        yield {"type": "array", "contains": {"type": "string"}, "minContains": least}
    yield {"contains": {"const": 1}, "maxContains": 1}


def _unique() -> Iterator[Schema]:
    yield {"uniqueItems": True}
    yield {"uniqueItems": False}
    yield from ({"type": "array", "uniqueItems": True, "items": each} for each in SMALL)
    yield from ({"uniqueItems": True, "maxItems": most} for most in range(3))


def _objects() -> Iterator[Schema]:
    yield from ({"properties": {"a": each}} for each in SMALL)
    yield from ({"properties": {"a": each, "b": {"type": "integer"}}, "required": ["a"]} for each in SMALL)
    yield from ({"properties": {"a": each}, "additionalProperties": False} for each in SMALL)
    yield from ({"properties": {"a": True}, "additionalProperties": each} for each in SMALL)
    yield from ({"additionalProperties": each} for each in SMALL)
    yield from ({"properties": {"a": {"properties": {"a": each}}}} for each in SMALL[:6])
    yield from ({"required": list(names)} for names in ([], ["a"], ["a", "b"], ["x"]))


def _names() -> Iterator[Schema]:
    for pattern in ("^a", "^x_", "b$", "^[a-c]$", "."):
        yield {"patternProperties": {pattern: {"type": "integer"}}}
        yield {"patternProperties": {pattern: {"type": "integer"}}, "additionalProperties": False}
        yield {"patternProperties": {pattern: {"minimum": 2}}, "properties": {"a": {"type": "integer"}}}
        yield {"propertyNames": {"pattern": pattern}}
    yield from (
        {"propertyNames": each} for each in ({"maxLength": 1}, {"enum": ["a", "b"]}, {"const": "a"}, True, False)
    )


def _dependent() -> Iterator[Schema]:
    for needs in (["b"], ["b", "c"], []):
        yield {"dependentRequired": {"a": needs}}
        yield {"properties": {"a": {"type": "integer"}}, "dependentRequired": {"a": needs}}
    yield from ({"dependentSchemas": {"a": each}} for each in SMALL)


def _combined() -> Iterator[Schema]:
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from ({keyword: list(pair)} for pair in combinations(SMALL[:8], 2))
        yield from ({keyword: [each]} for each in SMALL)
        yield {"type": "object", keyword: [{"required": ["a"]}, {"required": ["b"]}]}
        yield {"minimum": 0, keyword: [{"type": "integer"}, {"maximum": 3}]}


def _nots() -> Iterator[Schema]:
    yield from ({"not": each} for each in SMALL)
    yield from ({"type": kind, "not": each} for kind in ("integer", "string") for each in SMALL[3:8])
    yield from ({"not": {"not": each}} for each in SMALL)


def _conditions() -> Iterator[Schema]:
    for when in SMALL:
        yield {"if": when, "then": {"type": ["integer", "string"]}}
        yield {"if": when, "else": {"type": ["integer", "string"]}}
        yield {"if": when, "then": {"maxLength": 1}, "else": {"minimum": 0}}


def _references() -> Iterator[Schema]:
    for each in SMALL:
        yield {"$defs": {"it": each}, "$ref": "#/$defs/it"}
        yield {"$defs": {"it": each}, "items": {"$ref": "#/$defs/it"}}
        yield {"properties": {"a": {"$ref": "#/$defs/it"}}, "$defs": {"it": each}}
    yield {"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
    yield {"type": "array", "items": {"$ref": "#"}}
    yield {"$defs": {"it": {"$anchor": "here", "type": "integer"}}, "$ref": "#here"}
    yield {"$defs": {"a%~": {"type": "null"}}, "$ref": "#/$defs/a%25~0"}


def _unevaluated() -> Iterator[Schema]:
    for each in SMALL[:8]:
        yield {"properties": {"a": {}}, "unevaluatedProperties": each}
        yield {"allOf": [{"properties": {"a": each}}], "unevaluatedProperties": False}
        yield {"anyOf": [{"properties": {"a": each}, "required": ["a"]}, True], "unevaluatedProperties": False}


def _told() -> Iterator[Schema]:
    yield from ({"type": kind, "title": "t", "description": "d", "default": None, "examples": [1]} for kind in TYPES)
    yield from ({"type": kind, "$comment": "c", "deprecated": True, "readOnly": True} for kind in TYPES)
    yield {"type": "string", "contentEncoding": "base64", "contentMediaType": "application/json"}
    yield {"$id": "https://example.com/one", "type": "integer"}
    yield {"unknown": {"type": "integer"}, "type": "string"}
    yield from (True, {})


_FILES = {
    "type": _types,
    "minimum": _bounds,
    "multipleOf": _multiples,
    "minLength": _lengths,
    "enum": _enums,
    "pattern": _patterns,
    "format": _formats,
    "items": _arrays,
    "contains": _contents,
    "uniqueItems": _unique,
    "properties": _objects,
    "patternProperties": _names,
    "dependentRequired": _dependent,
    "allOf": _combined,
    "not": _nots,
    "if": _conditions,
    "ref": _references,
    "unevaluatedProperties": _unevaluated,
    "annotations": _told,
}
