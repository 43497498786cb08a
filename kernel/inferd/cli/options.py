"""Options that several commands have."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from inferd.cli.amounts import read_size
from inferd.cli.output import Format
from inferd.folders import is_configured, usual_data_dir

if TYPE_CHECKING:
    from inferd.cli.named import Wanted

ADDRESS = ""  # found by the client
MOST_NUMBER = 2**32
PATH_SETTINGS = frozenset({"adapter", "profile"})  # of a model, whose values are files or folders
MOST_TTL_S = 1e9  # that a kernel can be configured to give


SHOWN = 100  # tasks in a table


class State(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Class(StrEnum):
    """A class of tasks and of waiting leases."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


def parse_size(text: str) -> int:
    """A size in bytes; a mistake is one of use."""
    try:
        return read_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_seconds(text: str) -> float:
    """A time in seconds; a mistake is one of use."""
    try:
        seconds = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of seconds") from None
    if not 0 < seconds < math.inf:
        raise typer.BadParameter(f"{text!r} is not a number of seconds above 0 that has an end")
    return seconds


def parse_ttl(text: str) -> float:
    """A TTL in seconds; one beyond all kernels is a mistake of use."""
    seconds = math.inf if text.strip().lower() in ("inf", "infinity") else parse_seconds(text)
    if seconds > MOST_TTL_S:
        raise typer.BadParameter(
            f"{text!r} is longer than any lease: 3600 s at most, or `leases.max_ttl_s` of the kernel's configuration"
        )
    return seconds


def read_pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """What was given as NAME=VALUE, by name; a mistake is one of use."""
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name!r} is given twice; give it once", param_hint=option)
        pairs[name] = value
    return pairs


def read_wanted(
    name: str, *, backend: str = "", device: str = "", settings: list[str] | None = None, option: str = "--set"
) -> "Wanted":
    """What a command names, and how it is to be loaded."""
    from inferd.cli.named import Wanted  # noqa: PLC0415 - `--help` takes no gRPC

    values = read_pairs(settings, option)
    for setting in values.keys() & PATH_SETTINGS:  # the worker, which reads them, runs in another folder
        values[setting] = str(Path(values[setting]).expanduser().absolute())
    return Wanted(name=name, backend=backend, device=device, settings=values)


def data_dir() -> "Path":
    """The user's data folder, as a kernel would take it."""
    if not is_configured():
        return usual_data_dir()
    from inferd.cli.settings import read_settings  # noqa: PLC0415 - as above

    return read_settings().data_dir


def read_values(texts: list[str] | None, option: str) -> dict[str, Any]:
    """What was given as NAME=VALUE, by name; a value that is JSON is what it says, any other is text."""
    values: dict[str, Any] = {}
    for name, text in read_pairs(texts, option).items():
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


EMPTY: Final = "it is empty; give a value, or leave the option out"


def filled(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """The value of an option; an empty one, as of a variable that is not set, is a mistake of use, never no option."""
    source = context.get_parameter_source(parameter.name or "")
    if value == "" and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(EMPTY)
    return value


def text_option(*names: str, **facts: Any) -> Any:
    """An option that is a text, never an empty one."""
    return typer.Option(*names, callback=filled, **facts)


def parse_most_tokens(text: str) -> int | Literal["all"] | None:
    """A number of tokens, "all", or nothing; a mistake is one of use."""
    if text in ("", "all"):
        return "all" if text else None
    if not text.isdecimal() or not 0 <= int(text) < MOST_NUMBER:
        raise typer.BadParameter(f"{text!r} is neither a number of tokens nor 'all'", param_hint="--max-tokens")
    return int(text)


MostTokens = Annotated[
    str,
    text_option(
        "--max-tokens",
        help="Most tokens to produce, or 'all' that there can be. Default 512.",
        metavar="N",
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Tell each change, too, until Ctrl-C.")]
TemplateVariables = Annotated[
    list[str] | None,
    typer.Option(help="What the chat template sees besides, as enable_thinking=false.", metavar="NAME=VALUE"),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="What stdout gets: a table for people, or JSON.")]
Address = Annotated[
    str,
    text_option(
        "--address",
        envvar="INFERD_ADDRESS",
        help="unix:/path, host:port, tls:host:port or mtls:host:port; several with commas: the one that leads. Default:"
        " the socket of this user or this host.",
        metavar="A",
    ),
]
Tenant = Annotated[str, text_option("--tenant", envvar="INFERD_TENANT", help="Whose tasks are meant.", metavar="T")]
ModelOrPath = Annotated[
    str,
    typer.Argument(help="Name of a model, or path of a .gguf or .onnx file, or of a model folder.", metavar="MODEL"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "--setting", help="A setting of the backend for the model; may be repeated.", metavar="NAME=VALUE"
    ),
]
BackendOption = Annotated[str, text_option("--backend", help="The backend that must load it.", metavar="NAME")]
DeviceOption = Annotated[str, text_option("--device", help="The device that it must be loaded on.", metavar="D")]
ModelArgument = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
TaskArgument = Annotated[str, typer.Argument(help="Id of the task.", metavar="TASK_ID")]
LeaseOption = Annotated[str, text_option("--lease", help="The lease that it runs under.", metavar="LEASE_ID")]
Interval = Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=60, metavar="S")]
