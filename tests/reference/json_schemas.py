"""JSON schemas of growing depth, the same ones for the same seed, whose valid texts are short."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

WORDS = ("red", "green", "blue", "north", "south", "yes", "no", "low", "high", "é\N{GRINNING FACE}", 'a "b"', "")
NAMES = ("name", "age", "city", "tags", "unit", "id", "when", "size", "kind", "note")
FORMATS = ("date", "uuid", "ipv4")
PATTERNS = ("^[a-z]{2,5}$", "^[A-Z][0-9]{3}$", "^(on|off)$", r"^\d{1,3}-\d{2}$", "^#[0-9a-f]{6}$")


def make_schemas(count: int) -> list[Schema]:
    """Schemas of rising depth, from single values to objects in arrays in objects in objects."""
    return [_lift(_make(random.Random(number), depth=number * 5 // count)) for number in range(count)]


def _lift(schema: Schema) -> Schema:
    """Bring all definitions to the root."""
    found: Schema = {}

    def strip(part: Any) -> Any:
        if isinstance(part, list):
            return [strip(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$defs" in part:
            found.update(strip(part["$defs"]))
        return {key: strip(value) for key, value in part.items() if key != "$defs"}

    root: Schema = strip(schema)
    return root | {"$defs": found} if found else root


def _make(draw: random.Random, depth: int) -> Schema:
    makers = _LEAVES if depth == 0 else _BRANCHES
    return draw.choice(makers)(draw, depth)


def _below(draw: random.Random, depth: int) -> Schema:
    return _make(draw, depth - 1 if draw.random() < 0.6 else 0)


def _enum(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001 - as all leaves
    return {"enum": draw.sample([*WORDS, None, True, 3, -1.5, [1], {"a": 1}], 4)}


def _const(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    return {"const": draw.choice([*WORDS, 0, None, [1, "x"], {"a": {"b": []}}])}


def _plain(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    return {"type": draw.choice(["boolean", "null", ["boolean", "null"]])}


def _integer(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    low = draw.randint(-200, 200)
    bounds = draw.choice([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
    return {"type": "integer", bounds[0]: low, bounds[1]: low + draw.randint(2, 500)}


def _number(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    """Of few digits: a small model writes digits for ever where it may."""
    low = draw.randint(-20, 20)
    return {"type": "number", "minimum": low, "maximum": low + draw.randint(1, 25), "multipleOf": 0.25}


def _string(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    least = draw.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 12)}


def _pattern(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    return {"type": "string", "pattern": draw.choice(PATTERNS)}


def _format(draw: random.Random, depth: int) -> Schema:  # noqa: ARG001
    return {"type": "string", "format": draw.choice(FORMATS)}


def _array(draw: random.Random, depth: int) -> Schema:
    least = draw.randint(0, 2)
    return {"type": "array", "items": _below(draw, depth), "minItems": least, "maxItems": least + draw.randint(0, 2)}


def _tuple(draw: random.Random, depth: int) -> Schema:
    items = [_below(draw, depth) for _ in range(draw.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(NAMES, draw.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _below(draw, depth) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
        "additionalProperties": False,
    }


def _any_of(draw: random.Random, depth: int) -> Schema:
    return {"anyOf": [_below(draw, depth) for _ in range(draw.randint(2, 3))]}


def _one_of(draw: random.Random, depth: int) -> Schema:
    """Objects that a constant tells apart."""
    options = []
    for kind in draw.sample(WORDS, 2):
        properties = {"kind": {"const": kind}, "value": _below(draw, depth)}
        required = ["kind", "value"]
        options.append(
            {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        )
    return {"oneOf": options}


def _reference(draw: random.Random, depth: int) -> Schema:
    """An array of what a definition says; definitions have names of their own and go to the root."""
    name = f"it{draw.randrange(1 << 32)}"
    items = {"$ref": f"#/$defs/{name}"}
    return {"$defs": {name: _below(draw, depth)}, "type": "array", "items": items, "minItems": 1, "maxItems": 2}


Maker = Callable[[random.Random, int], Schema]
_LEAVES: tuple[Maker, ...] = (_enum, _const, _plain, _integer, _number, _string, _pattern, _format)
_BRANCHES: tuple[Maker, ...] = (_array, _tuple, _object, _object, _any_of, _one_of, _reference)
