"""The settings of a kernel, read for a command; mistakes are told with the nearest known name."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from inferd.cli.output import CommandError
from inferd.config import Settings, config_path
from inferd.errors import suggestion

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails


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
        lines = [f'{error}: {error.__cause__}; a list is written as JSON, for example \'["a", "b"]\'']
    except tomllib.TOMLDecodeError as error:
        lines = [f"{config_path()} is not TOML: {error}"]
    message = "the settings are not right: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)
    raise CommandError(message, reason="SETTINGS_INVALID")


def _explain(problem: ErrorDetails) -> str:
    path = [str(step) for step in problem["loc"]]
    name = ".".join(path)
    if problem["type"] != "extra_forbidden":
        return f"{name!r} is {problem['input']!r}: {problem['msg']}"
    owner = _owner(path[:-1])
    near = suggestion(path[-1], list(owner.model_fields))
    hint = f"did you mean {'.'.join([*path[:-1], near])!r}?" if near else f"known are {', '.join(owner.model_fields)}"
    return f"there is no setting {name!r}; {hint}"


def _owner(path: list[str]) -> type[BaseModel]:
    """The class of the settings under `path`."""
    owner: type[BaseModel] = Settings
    for step in path:
        inner = owner.model_fields[step].annotation
        assert isinstance(inner, type)  # noqa: S101 - a group of settings is a class
        owner = inner
    return owner
