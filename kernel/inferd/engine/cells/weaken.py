"""JSON schemas that say less than others, for a grammar that cannot follow all of them.

Each allows whatever the schema allows that it was made of. What it allows beyond is found when an output is complete.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.cells.patterns import weaken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BY_NAME: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_ONE: Final = frozenset({"additionalProperties", "items", "additionalItems"})
_BARE: Final = frozenset({"type", "enum", "const", "required", "$ref", "$anchor", "$id"})

_UNFOLLOWED: Final = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
        *("$dynamicRef", "$recursiveRef"),
    }
)
"""Keywords that a grammar does not follow."""

_NAMES: Final = 256  # most of an enum of names that become properties
_DEEPEST: Final = 16  # references that are followed one after the other


def settle(root: dict[str, Any]) -> Any:
    """The same schema where what refers to `false` is `false`: else such a part has a grammar refused as a whole."""
    names = [name for name in ("$defs", "definitions") if isinstance(root.get(name), dict)]
    if not any(each is False for name in names for each in root[name].values()):
        return root
    weakener = Weakener(root, bool)

    def settled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "$ref" in node and weakener.follow(node) is False:
            return False
        return {key: _descend(key, value, settled) for key, value in node.items()}

    with suppress(RecursionError):  # one that is nested deep
        return settled(root)
    return root


class Weakener:
    """Makes weaker schemas of one.

    Args:
        root: The schema.
        is_pattern: Whether a regular expression can be followed.
    """

    def __init__(self, root: dict[str, Any], is_pattern: Callable[[str], bool]) -> None:
        self._root = root
        self._is_pattern = is_pattern

    def ladder(self) -> Iterator[dict[str, Any]]:
        """Schemas to try one after the other: each says less than the one before, the last one nothing."""
        for make in (self._rewrite, _bare):
            with suppress(RecursionError):  # one that is nested deep
                yield make(self._root)
        if isinstance(self._root.get("type"), str):
            yield {"type": self._root["type"]}
        yield {}

    def follow(self, node: Any) -> Any:
        """What a schema refers to, within its document."""
        for _ in range(_DEEPEST):
            if not (isinstance(node, dict) and isinstance(node.get("$ref"), str)):
                break
            steps = node["$ref"].split("/")
            if steps[0] != "#" or not all(step.replace("~", "").replace("%", "") == step for step in steps[1:]):
                return None
            node = self._root
            for step in steps[1:]:
                node = node.get(step) if isinstance(node, dict) else None
        return node

    def _rewrite(self, node: Any) -> Any:
        """The same with other words for what a grammar does not know, where there are some."""
        if not isinstance(node, dict):
            return node
        made = {key: value for key, value in node.items() if key not in _UNFOLLOWED}
        self._rewrite_patterns(made)
        for key, value in made.items():
            made[key] = _descend(key, value, self._rewrite)
        self._name_properties(node, made)
        self._count_items(node, made)
        if "if" in node and "then" in node and "else" in node:
            either = {"anyOf": [self._rewrite(node["then"]), self._rewrite(node["else"])]}
            made["allOf"] = [*made.get("allOf", []), either]
        return made

    def _count_items(self, node: dict[str, Any], made: dict[str, Any]) -> None:
        """Say how many items there are where it follows from what they must be."""
        if "contains" in node and node["contains"] is not False and isinstance(node.get("minContains", 1), int):
            made["minItems"] = max(node.get("minItems", 0), node.get("minContains", 1))
        items = self.follow(node.get("items"))
        if node.get("uniqueItems") is True and isinstance(items, dict) and "prefixItems" not in node:
            values = [True, False] if items.get("type") == "boolean" else items.get("enum")
            if isinstance(values, list):  # else a model that says one of them again and again never ends
                made["maxItems"] = min(node.get("maxItems", len(values)), len(values))

    def _rewrite_patterns(self, made: dict[str, Any]) -> None:
        pattern = made.get("pattern")
        if isinstance(pattern, str) and not self._is_pattern(pattern):
            some = (weaken(pattern, anchors=anchors).source for anchors in (False, True))
            made["pattern"] = next(filter(self._is_pattern, some), None)
            if made["pattern"] is None:
                del made["pattern"]
        named = made.get("patternProperties")
        if isinstance(named, dict) and not all(map(self._is_pattern, named)):
            made["patternProperties"] = {key: value for key, value in named.items() if self._is_pattern(key)}
            made.pop("additionalProperties", None)  # it is about fewer names than those that are left

    def _name_properties(self, node: dict[str, Any], made: dict[str, Any]) -> None:
        """Say which names there may be by the properties that there are."""
        names = self.follow(node.get("propertyNames"))
        rest = made.get("additionalProperties", True)
        if not isinstance(names, dict) or "properties" in made or "patternProperties" in made:
            return
        some = names["enum"] if "enum" in names else [names["const"]] if "const" in names else None
        if isinstance(some, list) and len(some) <= _NAMES:
            made["properties"] = {name: rest for name in some if isinstance(name, str)}
            made["additionalProperties"] = False
            return
        pattern = names.get("pattern", _lengths(names))
        if isinstance(pattern, str) and self._is_pattern(pattern):
            made["patternProperties"] = {pattern: rest}
            made["additionalProperties"] = False


def _lengths(names: dict[str, Any]) -> str | None:
    """An expression for the lengths that names may have; None where they may have any."""
    least, most = names.get("minLength", 0), names.get("maxLength", "")
    return f"^(?s:.{{{least},{most}}})$" if "minLength" in names or "maxLength" in names else None


def _descend(key: str, value: Any, make: Callable[[Any], Any]) -> Any:
    """The value of a keyword with the schemas in it made anew."""
    if key in _BY_NAME and isinstance(value, dict):
        return {name: make(each) for name, each in value.items()}
    if key in _LISTS or (key in _ONE and isinstance(value, list)):
        return [make(each) for each in value] if isinstance(value, list) else value
    return make(value) if key in _ONE else value


def _bare(node: Any) -> Any:
    """Of a schema what grammars follow well: types, values, properties and items."""
    if not isinstance(node, dict):
        return node
    kept = _BARE | {"properties", "$defs", "definitions", "anyOf", "oneOf", "items", "prefixItems"}
    if "patternProperties" not in node:
        kept |= {"additionalProperties"}
    return {key: _descend(key, value, _bare) for key, value in node.items() if key in kept}
