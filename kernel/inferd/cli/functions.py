"""`inferd functions ls`, `show` and `call`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.plain import plain
from inferd.errors import words_of

if TYPE_CHECKING:
    from inferd.cli.output import Output
    from inferd_api.v1.function_pb2 import Function
    from inferd_client import InferOptions

COLUMNS = ("FUNCTION", "VERSION", "TAKES", "GIVES", "PACKAGE", "WHAT IT DOES")
SCHEMAS = ("input_schema", "output_schema")
EMPTY = "no functions; an installed package offers some with an entry point in inferd.functions"


def list_functions(output: Output, address: str, tenant: str, *, every: bool) -> None:
    """List functions; those that are for the kernel itself only where every one is asked for."""
    with connected(address, tenant) as client:
        functions = [each for each in client.list_functions() if every or not each.internal]
    if output.json:
        output.document({"functions": [_document(each) for each in functions]})
    else:
        output.table(COLUMNS, map(_row, functions), empty=EMPTY, gives_way="WHAT IT DOES")


def show(output: Output, address: str, tenant: str, name: str, *, version: int) -> None:
    """Show a function."""
    with connected(address, tenant) as client:
        function = client.get_function(name, version=version)
    document = _document(function)
    if output.json:
        output.document(document)
        return
    gives = "pieces, one after the other" if function.streams else "one value"
    output.text(f"{function.name}, version {function.version}: {function.description or 'says not what it does'}")
    output.text(f"of {function.distribution or function.package}; gives {gives}")
    output.text(f"at most {function.timeout.ToTimedelta().total_seconds():g} s and {size(function.memory_bytes)}")
    for schema in SCHEMAS:
        output.text(f"{schema.removesuffix('_schema')}: {json.dumps(document[schema], indent=2, ensure_ascii=False)}")


def call(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    given: str,
    *,
    version: int,
    detach: bool,
    options: InferOptions,
) -> None:
    """Call a function."""
    read = read_input(given)
    with connected(address, tenant) as client:
        if detach:
            task = client.create_call(name, read, version=version, **options)
            if output.json:
                output.document(plain(task))
            else:
                output.text(task.task_id)
            return
        for piece in client.call_stream(name, read, version=version, **options):
            if output.json:
                output.line({"output": piece})
            else:
                output.text(json.dumps(piece, ensure_ascii=False))


def read_input(given: str) -> dict[str, Any]:
    """The parameters, of what the command line has."""
    try:
        text = given
        if given == "-":
            text = sys.stdin.read()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        read = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(words_of(error), param_hint="--input") from None
    if not isinstance(read, dict):
        raise typer.BadParameter(f"it is {type(read).__name__}; give an object of parameters", param_hint="--input")
    return read


def _document(function: Function) -> dict[str, Any]:
    """A function, its schemas as what they are and not as texts."""
    return plain(function) | {name: json.loads(getattr(function, name)) for name in SCHEMAS}


def _row(function: Function) -> tuple[str, ...]:
    takes = json.loads(function.input_schema)
    required = set(takes.get("required", ()))
    names = ", ".join(name if name in required else f"[{name}]" for name in takes.get("properties", {}))
    gives = json.loads(function.output_schema)
    kind = str(gives.get("type") or gives.get("title") or "any of several")
    package = function.package.rpartition("@")[2]
    return (
        function.name,
        str(function.version),
        names,
        f"{kind} each" if function.streams else kind,
        package,
        function.description,
    )
