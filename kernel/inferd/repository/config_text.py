"""`config.pbtxt`: how the author of a model says that it is served. Read with bounds, refused in words."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from google.protobuf import json_format, text_format

from inferd.errors import InvalidFieldError, words_of
from inferd_api.inference.model_config_pb2 import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "config.pbtxt"
FIELD = "config"
MOST_TOLD = 400  # characters of what a parser says


def read_config(path: Path, *, most_bytes: int) -> ModelConfig:
    """What a file says.

    Args:
        path: Of the file, without links.
        most_bytes: The largest that is read, `repository.config_bytes`.

    Raises:
        InvalidFieldError: It cannot be read, is too large, or is no text of a configuration.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise InvalidFieldError(f"{path.name} is no regular file", field=FIELD)
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise InvalidFieldError(f"{path.name} cannot be read: {words_of(error)}", field=FIELD) from None
    _check_size(path.name, len(data), most_bytes)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidFieldError(f"{path.name} is no UTF-8 at byte {error.start}", field=FIELD) from None
    return parse_text(text, path.name)


def parse_text(text: str, what: str = CONFIG_FILE) -> ModelConfig:
    """What a text in protobuf's text format says.

    Raises:
        InvalidFieldError: It is none, or has a field that no configuration has.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except (text_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise InvalidFieldError(f"{what} is no configuration: {_told(error)}", field=FIELD) from None


def parse_json(text: str, *, most_bytes: int) -> ModelConfig:
    """What a text in JSON says, as loads give it in place of the file.

    Raises:
        InvalidFieldError: It is too large or is none.
    """
    _check_size("config", len(text.encode("utf-8", "surrogatepass")), most_bytes)
    if not text.lstrip().startswith("{"):
        raise InvalidFieldError("Invalid config override: it is no object", field=FIELD)
    try:
        return json_format.Parse(text, ModelConfig())
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        told = _told(error)
        if "ModelParameter" in told:
            told += '; parameters is an object of names: {"NAME": {"string_value": "VALUE"}}'
        raise InvalidFieldError(f"Invalid config override: {told}", field=FIELD) from None


def _check_size(what: str, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise InvalidFieldError(
            f"{what} has more than the {most_bytes} bytes of repository.config_bytes; raise that, or make it shorter",
            field=FIELD,
        )


def _told(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= MOST_TOLD else told[: MOST_TOLD - 1] + "…"
