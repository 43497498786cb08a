"""What a new version of a model has to show, as files say it: tables of TOML with the fields of the messages.

A name that is none is told with the nearest one; times may be numbers of seconds, and why an answer ended a short name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass

from inferd.errors import InvalidFieldError, suggestion
from inferd_api.v1.rollout_pb2 import Canary, CanaryStep, Probe

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

DURATION = "google.protobuf.Duration"
PERCENT = 100
REASON = "FINISH_REASON_"
TYPES = {
    FieldDescriptor.CPPTYPE_STRING: "a text",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number, 0 or more",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}
Terms = TypeVar("Terms", Probe, Canary)


def probe_of(given: Mapping[str, Any], at: str = "probe") -> Probe:
    """A probe by the fields of `inferd.v1.Probe`; `at` is where it was written.

    Raises:
        InvalidFieldError: It has a field that is none, or a value that a field cannot have.
    """
    return _made(given, Probe(), at)


def canary_of(given: Mapping[str, Any] | str, at: str = "canary") -> Canary:
    """Steps by the fields of `inferd.v1.Canary`, or as shares alone: "5%,25%,100%".

    Raises:
        InvalidFieldError: As `probe_of`; or a share is none, or does not rise.
    """
    if isinstance(given, str):
        return _shares(given, at)
    return _made(given, Canary(), at)


def _made(given: object, message: Terms, at: str) -> Terms:
    try:
        return ParseDict(_checked(given, message.DESCRIPTOR, at), message)
    except (ParseError, RecursionError) as error:  # what is wrong of several fields together
        why = str(error).rpartition("field: ")[2].rstrip(".")
        raise InvalidFieldError(f"it says what cannot be: {why}", field=at) from None


def _shares(text: str, at: str) -> Canary:
    written = [each.strip() for each in text.split(",")]
    try:
        shares = [_share(each) for each in written]
    except ValueError:
        raise InvalidFieldError(f"{text[:200]!r} is no shares as 5%,25%,100%", field=at) from None
    before, above = 0.0, "0"
    for number, (share, each) in enumerate(zip(shares, written, strict=True), 1):
        if not before < share <= 1:
            percent = f", as {each[:40]}%" if 1 < share <= PERCENT and not each.endswith("%") else ""
            raise InvalidFieldError(
                f"step {number} of {text[:200]!r} is {each[:40]} of the new tasks; it must be above {above}, to"
                f" 100%{percent}",
                field=at,
            )
        before, above = share, each
    return Canary(steps=[CanaryStep(share=share) for share in shares])


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / PERCENT if text.endswith("%") else float(text)


def _checked(given: object, kind: Descriptor, at: str) -> Any:
    """What was given of a message, as its JSON has it."""
    if kind.full_name.startswith("google.protobuf."):
        return given
    if not isinstance(given, Mapping):
        raise InvalidFieldError(f"it is {given!r:.80}, no table", field=at)
    for name in given:
        if name not in kind.fields_by_name:
            near = suggestion(str(name), [*kind.fields_by_name])
            known = f"did you mean {near!r}?" if near else f"known are {', '.join(kind.fields_by_name)}"
            raise InvalidFieldError(f"there is no field {str(name)[:80]!r}; {known}", field=f"{at}.{name}")
    return {name: _value(value, kind.fields_by_name[name], f"{at}.{name}") for name, value in given.items()}


def _value(value: object, field: FieldDescriptor, at: str) -> Any:
    entry = field.message_type
    if field.is_repeated and not (entry is not None and entry.GetOptions().map_entry):
        if not isinstance(value, list | tuple):
            raise InvalidFieldError(f"it is {value!r:.80}, no list", field=at)
        return [_single(each, field, f"{at}[{n}]") for n, each in enumerate(value)]
    return _single(value, field, at)


def _single(value: object, field: FieldDescriptor, at: str) -> Any:
    if field.message_type is not None and field.message_type.full_name == DURATION:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return _parsed(f"{value:g}s" if number else value, field, at)
    if field.message_type is not None:
        return value if field.message_type.GetOptions().map_entry else _checked(value, field.message_type, at)
    if field.name == "finish_reason" and isinstance(value, str):
        value = REASON + value.upper().removeprefix(REASON)
    return _parsed(value, field, at)


def _parsed(value: object, field: FieldDescriptor, at: str) -> object:
    """A value that its field can have."""
    kind = field.containing_type
    try:
        if kind is not None:
            ParseDict({field.name: [value] if field.is_repeated else value}, GetMessageClass(kind)())
    except ParseError:
        raise InvalidFieldError(f"it is {value!r:.80}; {_expected(field, value)}", field=at) from None
    return value


def _expected(field: FieldDescriptor, value: object) -> str:
    """What the value of a field must be."""
    if field.enum_type is not None:
        names = [each.name.removeprefix(REASON).lower() for each in field.enum_type.values if each.number]
        near = suggestion(str(value).removeprefix(REASON).lower(), names)
        return f"did you mean {near!r}?" if near else f"it must be one of {', '.join(names)}"
    if field.message_type is not None:
        return 'it must be a number of seconds, or as "0.5s"'
    return f"it must be {TYPES.get(field.cpp_type, 'something else')}"
