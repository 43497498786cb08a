"""Types of Arrow for what functions give, by their JSON schemas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from inferd_client.data.arrow import library

if TYPE_CHECKING:
    from collections.abc import Mapping

DEEPEST: Final = 16  # of schemas within schemas
SIMPLE: Final = {"string": "string", "integer": "int64", "number": "double", "boolean": "bool"}


class Given:
    """The column of what a function gives.

    Args:
        schema: JSON schema of what it gives, or of each piece.
        streams: Whether it gives several pieces: then the column has lists.

    Attributes:
        type: Of Arrow. What has no type of its own, as one of several, is kept as a text that is its JSON.
    """

    def __init__(self, schema: str, *, streams: bool) -> None:
        read = json.loads(schema)
        self._definitions: Mapping[str, Any] = read.get("$defs", {})
        found = self._type(read, 0)
        self.type: Any = library().list_(found) if streams else found
        self._is_json = found == library().string() and self._resolved(read).get("type") != "string"
        self._streams = streams

    def value(self, given: Any) -> Any:
        """What the column holds for what the function gave."""
        if given is None or not self._is_json:
            return given
        return [_text(each) for each in given] if self._streams else _text(given)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(DEEPEST):
            if "$ref" not in schema:
                return schema
            schema = self._definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
        return {}

    def _type(self, schema: Mapping[str, Any], depth: int) -> Any:
        pa, schema = library(), self._resolved(schema)
        kind = schema.get("type")
        if depth >= DEEPEST or not isinstance(kind, str):
            return pa.string()
        if kind in SIMPLE:
            return pa.type_for_alias(SIMPLE[kind])
        if kind == "array" and isinstance(schema.get("items"), dict) and self._is_typed(schema["items"], depth + 1):
            return pa.list_(self._type(schema["items"], depth + 1))
        fields = schema.get("properties")
        if kind == "object" and fields and all(self._is_typed(each, depth + 1) for each in fields.values()):
            return pa.struct([(name, self._type(each, depth + 1)) for name, each in fields.items()])
        return pa.string()

    def _is_typed(self, schema: Mapping[str, Any], depth: int) -> bool:
        """Whether its values are as JSON has them, and not texts that are JSON."""
        found = self._type(schema, depth)
        return found != library().string() or self._resolved(schema).get("type") == "string"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
