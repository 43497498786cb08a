"""Whether outputs that are complete are what their grammar was made of, where it could not follow all of that.

In a cell, whose time and memory bound it. Nothing is ever fetched for a schema, and no expression goes back more than a
bounded number of steps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Never, Protocol

import re2
from jsonschema_rs import Draft202012Validator, FancyRegexOptions, validator_for

if TYPE_CHECKING:
    from jsonschema_rs import Validator

BACKTRACKS: Final = 1_000_000
"""Most steps back of one expression with lookaheads: about 0.1 s."""
PATTERN_BYTES: Final = 8 << 20
"""Most memory of one compiled expression."""

_LONGEST: Final = 300  # characters of a path


class Check(Protocol):
    """What an output must be."""

    def fault(self, text: str) -> dict[str, str] | None:
        """What is wrong with an output that is complete: where, and against what; None for nothing."""
        ...


class SchemaCheck:
    """A JSON schema.

    Args:
        schema: It.

    Raises:
        ValueError: It is none, or refers to another document.
    """

    def __init__(self, schema: Any) -> None:
        options: Any = {
            "validate_formats": False,  # what a format says is no more than a note, as of 2019-09
            "retriever": _refuse,
            "pattern_options": FancyRegexOptions(backtrack_limit=BACKTRACKS, size_limit=PATTERN_BYTES),
        }
        known = "json-schema.org" in str(schema.get("$schema", "json-schema.org"))
        make = validator_for if known else Draft202012Validator
        named = schema if known else {key: value for key, value in schema.items() if key != "$schema"}
        self._validator: Validator = make(named, **options)

    def fault(self, text: str) -> dict[str, str] | None:
        """As `Check`."""
        try:
            error = next(iter(self._validator.iter_errors(json.loads(text))), None)
        except (ValueError, RecursionError):
            return {"path": "", "keyword": "depth", "schema_path": ""}  # a grammar writes JSON: it is nested too deep
        if error is None:
            return None
        return {
            "path": _pointer(error.instance_path),
            "keyword": error.kind.name,
            "schema_path": _pointer(error.schema_path),
        }


class PatternCheck:
    """A regular expression that matches the whole output.

    Args:
        source: It.

    Raises:
        re2.error: It is none.
    """

    def __init__(self, source: str) -> None:
        options = re2.Options()
        options.log_errors = False
        self._pattern = re2.compile(source, options)

    def fault(self, text: str) -> dict[str, str] | None:
        """As `Check`."""
        if self._pattern.fullmatch(text) is not None:
            return None
        return {"path": "", "keyword": "regex", "schema_path": ""}


def _refuse(uri: str) -> Never:
    raise ValueError(f"{uri!r} is another document; write all that it refers to into the schema")


def _pointer(path: list[str | int]) -> str:
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return pointer if len(pointer) <= _LONGEST else pointer[: _LONGEST - 1] + "…"
