"""The options that say how tokens are chosen: those of the table of `inferd.sampling` that have words there."""

from __future__ import annotations

import inspect
import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from inferd.cli.options import MostTokens, parse_most_tokens
from inferd.sampling import PARAMETERS, Form, Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Command = TypeVar("Command", bound="Callable[..., Any]")

OFFERED: Mapping[str, Parameter] = {name: each for name, each in PARAMETERS.items() if each.words}
MOST_TOKENS = "max_tokens"
"""Is a number or "all"."""


def with_sampling(command: Command, *, before: str) -> Command:
    """A command with `**sampling`, for which each parameter becomes an option, before the one of this name."""
    signature = inspect.signature(command, eval_str=True)
    ours = [_option(each) for each in OFFERED.values()]
    others = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    place = next(n for n, each in enumerate(others) if each.name == before)
    parameters = [*others[:place], *ours, *others[place:]]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # typer reads it
    return command


def read_options(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of the client for what was given on the command line."""
    return {
        name: parse_most_tokens(value) if name == MOST_TOKENS else value
        for name, value in sampling.items()
        if value is not None
    }


def _option(parameter: Parameter) -> inspect.Parameter:
    if parameter.name == MOST_TOKENS:
        return _keyword(parameter.name, MostTokens, "")
    flag = f"--{parameter.name.replace('_', '-')}"
    match parameter.form:
        case Form.TEXTS:
            words = f"{parameter.words.removesuffix('.')}; may be repeated."
            option = typer.Option(flag.removesuffix("s"), help=words, metavar="TEXT")
            return _keyword(parameter.name, Annotated[list[str] | None, option])
        case Form.WHOLE:
            bounds: dict[str, Any] = {"min": parameter.low, "max": parameter.high}
            option = typer.Option(flag, help=parameter.words, metavar="N", **bounds)
            return _keyword(parameter.name, Annotated[int | None, option])
        case _:
            bounds = {} if parameter.above else {"min": parameter.low, "max": parameter.high}
            option = typer.Option(flag, help=parameter.words, metavar="X", **bounds)
            return _keyword(parameter.name, Annotated[float | None, option])


def _keyword(name: str, kind: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _whole(most: float, text: str) -> int:
    """A whole number from 0 to `most`."""
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError(text)
    return number


def _texts(text: str) -> list[str]:
    """One text, or several as a JSON array."""
    value = read_value(text)
    return [str(each) for each in value] if isinstance(value, list) else [text]


def read_value(text: str) -> Any:
    """What a text is as JSON; itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    if parameter.name == MOST_TOKENS:
        return parse_most_tokens
    match parameter.form:
        case Form.TEXTS:
            return _texts
        case Form.WHOLE:
            return partial(_whole, parameter.high or 0)
        case _:
            return float


READERS: Mapping[str, Callable[[str], Any]] = {name: _reader(each) for name, each in OFFERED.items() if not each.tells}
"""What `/set` takes besides variables of the template, and how each is read."""
