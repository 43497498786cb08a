"""The settings of a kernel, read for a command; mistakes are told with the nearest known name."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from inferd.cli.output import CommandError
from inferd.config import Settings
from inferd.environment import LISTS
from inferd.errors import suggestion
from inferd.folders import NOT_SETTINGS, config_path
from inferd.store.passwords import hide_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

FORMS = {"tuple_type": 'it must be a list, as ["a", "b"]', "dict_type": "it must be a table, as {a = 1}"}
"""What is said of a value of another form, by pydantic's name of that."""


def read_settings(*, config: Path | None = None, **given: Any) -> Settings:
    """The settings from `config` (default: where `inferd.config` looks), the environment, and `given`.

    Raises:
        CommandError: A name is unknown or a value outside what it allows, each on a line of its own.
    """
    if config is not None:
        if not config.is_file():
            raise CommandError(f"the configuration {config} does not exist", reason="SETTINGS_INVALID")
        os.environ["INFERD_CONFIG"] = str(config)  # where `config_path` looks, here and in what this process starts
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
    except SettingsError as error:
        lines = [_explain_text(error)]
    except tomllib.TOMLDecodeError as error:
        lines = [f"{config_path()} is not TOML: {error}"]
    message = "the settings are not right: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)
    raise CommandError(message, reason="SETTINGS_INVALID")


def _explain(problem: ErrorDetails) -> str:
    path = [str(step) for step in problem["loc"]]
    variable = variable_of(path)
    told = f" ({variable})" if variable else ""
    if problem["type"] != "extra_forbidden":
        why = FORMS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")  # pydantic's own words
        return f"{'.'.join(path)!r}{told} is {_shown(path, problem['input'])}: {why}"
    owner = _owner(path[:-1])
    others = [name.removeprefix("inferd_") for name in NOT_SETTINGS] if variable and len(path) == 1 else []
    near = suggestion(path[-1], [*owner.model_fields, *others])
    meant = _elsewhere(path[-1]) or ([*path[:-1], near] if near else [])
    hint = f"did you mean {name_of(meant) if variable else '.'.join(meant)!r}?"
    known = f"known are {', '.join(owner.model_fields)}"
    return f"there is no setting {'.'.join(path)!r}{told}; {hint if meant else known}"


def _shown(path: list[str], value: object) -> str:
    """A value that is not right, without what may be a password; of a URL that cannot be read, that is all of it."""
    if path == ["store", "url"] and isinstance(value, str):
        scheme, colon, _ = value.partition(":")
        return repr(f"{scheme}:…" if colon else "…")
    return hide_passwords(repr(value))


def _elsewhere(name: str) -> list[str]:
    """Where a setting stands that was looked for outside its group; empty when there is none of this name."""
    for group, field in Settings.model_fields.items():
        if name in getattr(field.annotation, "model_fields", ()):
            return [group, name]
    return []


def _explain_text(error: SettingsError) -> str:
    """Why a variable that is to hold several values could not be read."""
    field = str(error).partition('"')[2].partition('"')[0]
    how = "a list is written as a,b or as JSON" if field in LISTS else "a group is written as JSON"
    return f"{variable_of([field]) or field} cannot be read ({error.__cause__}); {how}"


def name_of(path: list[str]) -> str:
    """The variable of a setting."""
    return f"INFERD_{'__'.join(path)}".upper()


def variable_of(path: list[str]) -> str:
    """The variable that a setting, or a part of one, was read from; "" when it was none."""
    wanted = [name_of(path[:length]) for length in range(len(path), 0, -1)]
    below = f"{name_of(path)}__"
    given = [name for name in sorted(os.environ) if name.upper() in wanted or name.upper().startswith(below)]
    return max(given, key=len, default="")


def _owner(path: list[str]) -> type[BaseModel]:
    """The class of the settings under `path`, or of each of a list or a table of them."""
    owner: type[BaseModel] = Settings
    for step in path:
        field = owner.model_fields.get(step)
        if field is not None:  # else it is a place in a list, or a key of a table
            owner = next((kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)), owner)
    return owner


def _kinds(annotation: object) -> Iterator[type]:
    """The classes that an annotation names."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)
