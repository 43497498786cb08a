"""Whether a pipeline can run: what it names is there, and what its steps give is what others take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inferd.core.expressions import INDEX, INPUT, ITEM, Index, Reference, Template
from inferd.core.function import function_of
from inferd.core.ids import ModelName
from inferd.core.pipeline import Gives
from inferd.core.shapes import Shape
from inferd.errors import InferdError, InvalidFieldError, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.function import Function
    from inferd.core.pipeline import Pipeline, Step
    from inferd.runtime.driver import Driver
    from inferd.runtime.pipelines.tasking import Wire
    from inferd.runtime.shelf import Shelf

Schema = Any
ANY: Schema = {}
DEEPEST = 16  # of references from schema to schema, one behind the other


class PipelineCheck:
    """Checks pipelines.

    Args:
        driver: Of the kernel.
        shelf: Where models and functions are.
        wire: Reads pipelines.
    """

    def __init__(self, driver: Driver, shelf: Shelf, wire: Wire) -> None:
        self._driver, self._shelf, self._wire = driver, shelf, wire

    async def checked(self, written: bytes) -> tuple[Pipeline, bytes]:
        """A pipeline that can run, and how it is written with the versions that its calls are settled on.

        Raises:
            InvalidFieldError: It cannot.
            FunctionNotFoundError, ModelNotFoundError: What it asks is not there.
        """
        pipeline = self._wire.read(written)
        pipeline.check()
        functions: dict[int, Function] = {}
        for number, step in enumerate(pipeline.steps):
            try:
                if (function := await self._found(step)) is not None:
                    functions[number] = function
            except InferdError as error:
                error.field = f"pipeline.steps[{number}].task.model"
                error.message = f"step {step.name!r}: {error.message}"
                raise
        written = self._wire.settled(written, functions)
        check_types(pipeline, functions)
        return self._wire.read(written), written

    async def _found(self, step: Step) -> Function | None:
        """The function that a step calls; None where it asks a model, or nobody."""
        if step.work is None:
            return None
        if (name := function_of(step.work.model)) is not None:
            return await self._shelf.functions.find(name, step.work.version)
        await self._shelf.look_for(step.work.model)
        self._driver.views.model(ModelName(step.work.model))
        return None


def check_types(pipeline: Pipeline, functions: Mapping[int, Function]) -> None:
    """Refuse a pipeline of which a step cannot take what it is given, as far as schemas tell.

    Raises:
        InvalidFieldError: One cannot.
    """
    types = _Types(pipeline, functions)
    for number, step in enumerate(pipeline.steps):
        at = f"pipeline.steps[{number}]"
        if step.map is not None:
            given = types.of(step.map.over, step)
            if (kinds := _kinds(given)) is not None and "array" not in kinds:
                raise InvalidFieldError(
                    f"{at}.map.over is {step.map.over}, and that is {_words(kinds)}; it must be a list",
                    field=f"{at}.map.over",
                )
        if number in functions and step.work is not None and isinstance(shape := step.work.texts[0], Shape):
            _check_call(types, step, shape, functions[number], f"{at}.task.call.input")


def _check_call(types: _Types, step: Step, shape: Shape, function: Function, at: str) -> None:
    schema = json.loads(function.input_schema)
    node, takes = shape.node, schema.get("properties", {})
    if not isinstance(node, dict):
        raise InvalidFieldError(f"{at} is no object; {function.name} takes {_names(takes)}", field=at)
    for name in schema.get("required", ()):
        if name not in node:
            raise InvalidFieldError(f"{at} lacks {name!r}; {function.name} takes {_names(takes)}", field=at)
    for name, value in node.items():
        if name not in takes:
            if schema.get("additionalProperties", True) is not False:
                continue
            near = suggestion(name, takes)
            hint = f"did you mean {near!r}?" if near else f"it takes {_names(takes)}"
            raise InvalidFieldError(
                f"{at} has {name!r}, which {function.name} does not take; {hint}", field=f"{at}.{name}"
            )
        given, wanted = _kinds(types.given(value, step)), _kinds(takes[name], schema)
        if given is not None and wanted is not None and not given & wanted:
            raise InvalidFieldError(
                f"{at}.{name} is {_words(given)}, and {function.name} takes {_words(wanted)} there",
                field=f"{at}.{name}",
            )


class _Types:
    """What values of a pipeline are, as far as schemas tell."""

    def __init__(self, pipeline: Pipeline, functions: Mapping[int, Function]) -> None:
        self._pipeline, self._functions = pipeline, functions
        self._read: dict[int, Schema] = {}  # of what a task of a step gives, by its number

    def given(self, node: Any, step: Step) -> Schema:
        """A value in what a call is given."""
        if isinstance(node, Template):
            return self.of(node.alone, step) if node.alone is not None else {"type": "string"}
        return (
            {"const": node}
            if node is None or isinstance(node, bool | int | float | str)
            else {"type": "object" if isinstance(node, dict) else "array"}
        )

    def of(self, reference: Reference, step: Step) -> Schema:
        """What a reference of a step stands for."""
        if reference.counts or reference.root == INDEX:
            return {"type": "integer"}
        schema = self._root(reference.root, step)
        root = schema
        for way in reference.path:
            schema = _resolved(schema, root)
            if isinstance(way, int | Index):
                schema = schema.get("items", ANY) if isinstance(schema, dict) else ANY
            else:
                has = schema.get("properties") if isinstance(schema, dict) else None
                schema = has.get(way, ANY) if isinstance(has, dict) else ANY
        schema = _resolved(schema, root)
        return (
            {**schema, "$defs": root["$defs"]}
            if isinstance(root, dict) and "$defs" in root and isinstance(schema, dict)
            else schema
        )

    def _root(self, root: str, step: Step) -> Schema:
        if root == INPUT:
            return ANY
        if root == ITEM:
            if step.map is None or step.map.over.root == ITEM:
                return ANY
            if step.map.batch:
                return {"type": "array"}
            over = self.of(step.map.over, step)
            return _within(over, over.get("items", ANY)) if isinstance(over, dict) else ANY
        number = self._pipeline.numbers[root]
        named = self._pipeline.steps[number]
        one = self._one(number, named)
        if named.map is not None:
            return _within(one, {"type": "array", "items": ANY if named.each else one})
        return ANY if named.when is not None else one

    def _one(self, number: int, step: Step) -> Schema:
        """What a task of a step gives."""
        if number not in self._read:
            self._read[number] = self._given_by(number, step)
        return self._read[number]

    def _given_by(self, number: int, step: Step) -> Schema:
        if step.work is None:
            return ANY
        if (function := self._functions.get(number)) is not None:
            schema = json.loads(function.output_schema)
            return _within(schema, {"type": "array", "items": schema}) if function.streams else schema
        match step.work.gives:
            case Gives.VECTOR:
                return {"type": "array", "items": {"type": "number"}}
            case Gives.TEXT if not step.work.samples:
                return {"type": "string"}
            case Gives.JSON if not step.work.samples:
                return json.loads(step.work.schema)
        return ANY


def _within(schema: Schema, made: Schema) -> Schema:
    """A schema that was made of another one, with what that refers to."""
    if isinstance(schema, dict) and "$defs" in schema and isinstance(made, dict):
        return {**made, "$defs": schema["$defs"]}
    return made


def _resolved(schema: Schema, root: Schema) -> Schema:
    for _ in range(DEEPEST):
        named = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(named, str):
            return schema
        defs = root.get("$defs", {}) if isinstance(root, dict) else {}
        schema = defs.get(named.removeprefix("#/$defs/"), ANY) if isinstance(defs, dict) else ANY
    return ANY


def _kinds(schema: Schema, root: Schema = None) -> frozenset[str] | None:
    """The JSON types that a schema allows; None where it may be any, or it is not known.

    Each node is looked at once, however schemas refer to each other and to themselves: whoever asks writes them.
    """
    root = schema if root is None else root
    left, seen, found = [schema], set[int](), set[str]()
    while left:
        node = _resolved(left.pop(), root)
        if not isinstance(node, dict):
            return None
        if id(node) in seen:
            continue
        seen.add(id(node))
        if "const" in node or isinstance(node.get("enum"), list):
            found.update(map(_kind, [node["const"]] if "const" in node else node["enum"]))
        elif parts := next((each for name in ("anyOf", "oneOf") if isinstance(each := node.get(name), list)), None):
            left.extend(parts)
        elif isinstance(said := node.get("type"), str):
            found.add(said)
        elif isinstance(said, list) and said:
            found.update(map(str, said))
        else:
            return None
    return _wide(frozenset(found)) if found else None


def _wide(kinds: frozenset[str]) -> frozenset[str]:
    """Whole numbers are numbers, and a number may be whole."""
    return kinds | {"integer", "number"} if kinds & {"integer", "number"} else kinds


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _words(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds - {"integer"} if "number" in kinds else kinds))


def _names(takes: Mapping[str, Any]) -> str:
    return ", ".join(takes) or "nothing"
