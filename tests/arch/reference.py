"""The pages of docs/reference, made from the code: `python tests/arch/reference.py --write` (`make docs`).

configuration.md from the settings, cli.md from the commands, errors.md and protos.md from the proto files.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from stubs import ROOT, write_image

from inferd.cli import manual
from inferd.cli.configuration import Setting, all_settings
from inferd.cli.output import CODES
from inferd.config import Settings
from inferd.reasons import BY_REASON

FOLDER = ROOT / "docs/reference"
MADE = "Made from the code by `make docs`."
SERVICES, ENUMS, METHODS, VALUES = (
    6,
    5,
    2,
    2,
)  # numbers of fields in descriptor.proto, of which paths of comments are made
PREFIX = "ERROR_REASON_"


def pages() -> dict[str, str]:
    """Every page by its name."""
    files = _wire()
    return {
        "configuration.md": _configuration(),
        "cli.md": manual.document(),
        "errors.md": _errors(files),
        "protos.md": _protos(files),
    }


def _configuration() -> str:
    lines = [
        "# Configuration",
        "",
        f"{MADE} A group is a table of `config.toml`, as `[limits]`, or part of a variable, as",
    ]
    lines += ["`INFERD_LIMITS__TASKS=50`. `inferd config show --origin` tells what is in force, and where from."]
    group: tuple[str, ...] | None = None
    for setting in all_settings():
        if setting.path[:-1] != group:
            group = setting.path[:-1]
            name = ".".join(group)
            lines += ["", f"## {name or 'Of the kernel'}", ""]
            if about := _about(group):
                lines += [about, ""]
            lines += ["| setting | default | what it is |", "|---|---|---|"]
        lines.append(f"| `{setting.path[-1]}` | {_default(setting)} | {_cell(setting.about)} |")
    return "\n".join(lines) + "\n"


def _about(group: Iterable[str]) -> str:
    owner: type[BaseModel] = Settings
    for step in group:
        below = owner.model_fields[step].annotation
        assert isinstance(below, type)
        assert issubclass(below, BaseModel)
        owner = below
    return "" if owner is Settings else _first(owner.__doc__ or "")


def _default(setting: Setting) -> str:
    value: Any = setting.field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, tuple | list | dict):
        return f"`{json.dumps(value)}`" if len(json.dumps(value, default=str)) < 40 else "several"
    return f"`{value!r}`".replace("'", '"').replace("True", "true").replace("False", "false").replace("|", "\\|")


def _errors(files: list[descriptor_pb2.FileDescriptorProto]) -> str:
    lines = [
        "# Errors",
        "",
        f"{MADE} Every error of a kernel is a `google.rpc.Status` with one of these reasons in its",
    ]
    lines += ["`ErrorInfo`, of domain `inferd`; clients branch on the reason, and the message is for people.", ""]
    lines += ["| reason | code | what it says |", "|---|---|---|"]
    (file,) = (each for each in files if each.name == "inferd_api/v1/errors.proto")
    comments = _comments(file)
    for at, value in enumerate(file.enum_type[0].value[1:], 1):
        reason = value.name.removeprefix(PREFIX)
        lines.append(f"| `{reason}` | {BY_REASON[reason].code} | {_cell(comments.get((ENUMS, 0, VALUES, at), ''))} |")
    wire = {value.name.removeprefix(PREFIX) for value in file.enum_type[0].value}
    lines += ["", "The command line has reasons of its own besides:", "", "| reason | code |", "|---|---|"]
    lines += [f"| `{reason}` | {code} |" for reason, code in sorted(CODES.items()) if reason not in wire]
    return "\n".join(lines) + "\n"


def _protos(files: list[descriptor_pb2.FileDescriptorProto]) -> str:
    lines = ["# The wire API", "", f"{MADE} The services of `inferd.v1`; every message and field is commented in"]
    lines += ["[the proto files](../../protos/inferd_api/v1)."]
    for file in files:
        if file.package != "inferd.v1":
            continue
        comments = _comments(file)
        for number, service in enumerate(file.service):
            lines += ["", f"## {service.name}", "", _plain(comments.get((SERVICES, number), "")), ""]
            lines += [f"In [`{Path(file.name).name}`](../../protos/{file.name}).", ""]
            lines += ["| call | gives | what it does |", "|---|---|---|"]
            for at, method in enumerate(service.method):
                given, got = (name.rpartition(".")[2] for name in (method.input_type, method.output_type))
                call = f"`{method.name}({'stream ' * method.client_streaming}{given})`"
                answer = f"`{'stream ' * method.server_streaming}{got}`"
                lines.append(f"| {call} | {answer} | {_cell(comments.get((SERVICES, number, METHODS, at), ''))} |")
    return "\n".join(lines) + "\n"


def _wire() -> list[descriptor_pb2.FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        write_image(image)
        found = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    return sorted(found.file, key=lambda file: file.name)


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(each.path): each.leading_comments for each in file.source_code_info.location}


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _first(text: str) -> str:
    return _plain(text.strip().partition("\n\n")[0])


def differing() -> Iterator[str]:
    """The names of pages that are not what the code says."""
    for name, text in pages().items():
        file = FOLDER / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            yield name


def main() -> None:
    """Run what the command line asks for."""
    options = argparse.ArgumentParser(description="the pages of docs/reference")
    options.add_argument("--write", action="store_true", help="write them")
    if options.parse_args().write:
        FOLDER.mkdir(exist_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
