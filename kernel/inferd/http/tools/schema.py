"""What tools say of the types of their arguments, for formats that write values without saying their types."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]
"""A JSON schema."""

_DEEPEST: Final = 16  # references and alternatives that are followed
_LONGEST_PYTHON: Final = 1 << 14  # characters that are read as Python's
_LONGEST_FLOAT: Final = 32  # characters
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS: Final = {
    "true": ("true", "boolean"),
    "false": ("false", "boolean"),
    "null": ("null", "null"),
    "True": ("true", "boolean"),
    "False": ("false", "boolean"),
    "None": ("null", "null"),
}


class Tools:
    """The tools that were offered.

    Args:
        tools: As OpenAI's interface has them: `{"type": "function", "function": {"name": …, "parameters": …}}`; also
            without the outer object.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        self._schemas: dict[str, Schema] = {
            function["name"]: parameters if isinstance(parameters := function.get("parameters"), Mapping) else {}
            for function in functions
            if isinstance(function, Mapping) and isinstance(function.get("name"), str)
        }

    def __contains__(self, name: object) -> bool:
        return name in self._schemas

    def __len__(self) -> int:
        return len(self._schemas)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tools, as they were offered."""
        return tuple(self._schemas)

    def parameters(self, name: str) -> Schema:
        """The schema of a tool's arguments; {} where it has none, or there is no such tool."""
        return self._schemas.get(name, {})

    def types(self, name: str, key: str) -> frozenset[str]:
        """The JSON types that an argument may have; none where nothing is said."""
        root = self.parameters(name)
        return _types(_property(root, root, key, 0), root, 0)

    def written(self, name: str, key: str, text: str) -> str:
        """The JSON of an argument that was written as plain text.

        A text is a string where its schema allows that, or says nothing and it is no JSON. What its schema does not
        allow is left a string, too: the one who checks it sees what the model wrote.
        """
        types = self.types(name, key)
        if "string" in types and not (types & {"null"} and text in ("null", "None")):
            return json.dumps(text, ensure_ascii=False)
        found = json_of(text.strip(), types)
        return json.dumps(text, ensure_ascii=False) if found is None else found

    def is_text(self, name: str, key: str) -> bool:
        """Whether an argument is a string, whatever its text is, so that it can go out as it comes."""
        return self.types(name, key) == {"string"}


def json_of(text: str, types: frozenset[str]) -> str | None:
    """The JSON of a value of one of these types, or of any where there are none; None where the text is no such."""
    if word := _WORDS.get(text):
        return word[0] if not types or word[1] in types else None
    if _NUMBER.fullmatch(text):
        allowed = not types or "number" in types or ("integer" in types and _is_whole(text))
        return text if allowed else None
    if text[:1] not in ("{", "[", '"') or (types and _kind(text) not in types):
        return None
    return _as_json(text)


def _kind(text: str) -> str:
    return {"{": "object", "[": "array"}.get(text[0], "string")


def _is_whole(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) or (len(text) < _LONGEST_FLOAT and float(text).is_integer())


def _as_json(text: str) -> str | None:
    """The text itself where it is JSON; else JSON of what Python makes of it."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        pass
    else:
        return text
    try:
        if len(text) > _LONGEST_PYTHON:
            return None
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _refuse(_: str) -> None:
    raise ValueError


def _property(schema: Schema, root: Schema, key: str, depth: int) -> Schema:
    """The schema of a member."""
    schema = _resolved(schema, root)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and isinstance(properties.get(key), Mapping):
        return properties[key]  # type: ignore[no-any-return]
    if depth < _DEEPEST:
        for name in ("allOf", "anyOf", "oneOf"):
            for part in _parts(schema, name):
                if found := _property(part, root, key, depth + 1):
                    return found
    more = schema.get("additionalProperties")
    return more if isinstance(more, Mapping) else {}


def _types(schema: Schema, root: Schema, depth: int) -> frozenset[str]:  # noqa: PLR0911 - a case each
    schema = _resolved(schema, root)
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind, *(("null",) if schema.get("nullable") is True else ())})
    if isinstance(kind, Sequence):
        return frozenset(each for each in kind if isinstance(each, str))
    if isinstance(schema.get("enum"), Sequence) and not isinstance(schema["enum"], str):
        return frozenset(map(_type_of, schema["enum"]))
    if "const" in schema:
        return frozenset({_type_of(schema["const"])})
    if depth < _DEEPEST:
        parts = [_types(part, root, depth + 1) for name in ("anyOf", "oneOf") for part in _parts(schema, name)]
        if parts:
            return frozenset().union(*parts) if all(parts) else frozenset()
        for part in _parts(schema, "allOf"):
            if found := _types(part, root, depth + 1):
                return found
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else frozenset()


def _parts(schema: Schema, name: str) -> list[Schema]:
    parts = schema.get(name)
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema that references within the root lead to; {} where they lead nowhere."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        found: Any = root if reference.startswith("#") else None
        for part in reference[1:].strip("/").split("/") if reference != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return {}
        schema = found
    return {}


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def types_of(schema: Schema) -> frozenset[str]:
    """The JSON types that a schema allows; none where it says nothing."""
    return _types(schema, schema, 0)


def part_of(part: Schema, root: Schema) -> Schema:
    """A schema within another one, as one of its own: with the definitions that it may refer to."""
    shared = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return {**_resolved(part, root), **shared}
