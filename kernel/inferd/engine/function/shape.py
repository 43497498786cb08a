"""What a function takes and gives, by its annotations: schemas, inputs that are read, outputs that are written."""

from __future__ import annotations

import collections.abc
import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from inferd.errors import suggestion, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMA_BYTES: Final = 64 << 10  # of one
STREAMS: Final = (collections.abc.Iterator, collections.abc.Generator, collections.abc.Iterable)
_LONGEST: Final = 500  # characters of what is said of a value
_LONGEST_PATH: Final = 200


class RefusedError(Exception):
    """A value is not what its annotation says.

    Attributes:
        path: Where in it, as ".times" or ".texts[3]"; "" for all of it.
        why: For people.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path or 'it'}: {why}")
        self.path, self.why = path, why


class Shape:
    """Of one function.

    Args:
        function: It, with annotations.

    Attributes:
        streams: Whether it gives several pieces.
        input_schema: JSON schema of an object of its parameters.
        output_schema: JSON schema of what it gives, or of each piece.

    Raises:
        ValueError: An annotation is missing, or there is no schema for it; the message names the parameter.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = getattr(function, "__name__", "")
        try:
            hints = get_type_hints(function, include_extras=True)
        except Exception as error:
            raise ValueError(f"the annotations of function {self._name!r} cannot be read: {words_of(error)}") from error
        self._names = list(inspect.signature(function).parameters)
        for name in (*self._names, "return"):
            if name not in hints:
                what = "result" if name == "return" else f"parameter {name!r}"
                raise ValueError(f"the {what} of function {self._name!r} has no annotation; its schema is made of that")
        gives = hints["return"]
        self.streams = get_origin(gives) in STREAMS
        self._input: TypeAdapter[dict[str, Any]] = self._adapter(_parameters(function, hints), "input")
        self._output: TypeAdapter[Any] = self._adapter(get_args(gives)[0] if self.streams else gives, "output")
        self.input_schema = self._schema(self._input, "validation", "input")
        self.output_schema = self._schema(self._output, "serialization", "output")

    def read(self, given: bytes) -> dict[str, Any]:
        """The values of the parameters, of JSON.

        Raises:
            RefusedError: It is none, or not what the annotations say.
        """
        try:
            return self._input.validate_json(given or b"{}", strict=True)
        except ValidationError as error:
            raise self._refused(error) from None

    def write(self, value: Any) -> bytes:
        """JSON of what the function gave, or of a piece.

        Raises:
            RefusedError: It is not what the annotation says, or cannot be JSON.
        """
        try:
            return self._output.dump_json(self._output.validate_python(value, strict=True))
        except ValidationError as error:
            raise self._refused(error) from None
        except (ValueError, TypeError) as error:  # PydanticSerializationError is one
            raise RefusedError("", str(error)[:_LONGEST]) from None

    def _adapter(self, annotation: Any, what: str) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise ValueError(f"no schema can be made of the {what} of function {self._name!r}: {error}") from None

    def _schema(self, adapter: TypeAdapter[Any], mode: Any, what: str) -> str:
        try:
            schema = adapter.json_schema(mode=mode)
        except PydanticUserError as error:
            raise ValueError(f"no schema can be made of the {what} of function {self._name!r}: {error}") from None
        if what == "input":
            schema = {"title": self._name, **{name: value for name, value in schema.items() if name != "title"}}
        written = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        if (size := len(written.encode())) > SCHEMA_BYTES:
            raise ValueError(
                f"the schema of the {what} of function {self._name!r} has {size} bytes; at most {SCHEMA_BYTES}"
            )
        return written

    def _refused(self, error: ValidationError) -> RefusedError:
        """The first thing that is wrong, and how many more are."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        found.sort(key=lambda each: each["type"] != "extra_forbidden")  # what is missing may be what was misspelt
        first, more = found[0], len(found) - 1
        why = str(first["msg"])
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            near = suggestion(str(first["loc"][0]), self._names)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(self._names) or 'none'}"
            why = f"there is no such parameter; {hint}"
        also = f" ({more} more {'is' if more == 1 else 'are'} wrong)" if more else ""
        return RefusedError(_path(first["loc"]), why[:_LONGEST] + also)


def _parameters(function: Callable[..., Any], hints: Mapping[str, Any]) -> Any:
    """A dictionary with a type for each parameter; those with defaults may be left out, and their schemas tell them."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            fields[name] = hints[name]
        else:
            told = Field(json_schema_extra={"default": _default(hints[name], parameter.default)})
            fields[name] = NotRequired[Annotated[hints[name], told]]
    make: Any = TypedDict  # its names are known at run time only
    made = make("Input", fields)
    made.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return made


def _default(annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation).dump_python(value, mode="json")
    except (ValueError, TypeError):  # what a schema cannot tell is told by no schema, and holds all the same
        return None


def _path(steps: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path if len(path) <= _LONGEST_PATH else path[: _LONGEST_PATH - 1] + "…"
