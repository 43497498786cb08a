"""The child process of discovery: imports one package of functions and writes what it offers as one JSON document.

    python -m inferd.engine.function.probe MODULE FD PARENT

The document is {"path": …, "functions": [{"name": …, "version": …, …}]}, or {"error": …, "traceback": …}.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.engine.function.offered import collect
from inferd.errors import is_failure
from inferd.plugin.probe import exception_line, main, traceback_of

if TYPE_CHECKING:
    from inferd.plugin.probe import Document

TOLD: Final = ("name", "version", "description", "timeout_s", "memory_bytes", "asks", "internal")  # of a mark
SCHEMAS_BYTES: Final = 512 << 10  # of all functions of a package, so that the document is no larger than it may be


def answer(module: str) -> Document:
    """The document for the package with this module. What its code raises becomes data."""
    try:
        offered = collect(module)
        functions = [
            {
                **{name: getattr(each.mark, name) for name in TOLD},
                "input_schema": each.shape.input_schema,
                "output_schema": each.shape.output_schema,
                "streams": each.shape.streams,
            }
            for each in offered.values()
        ]
        size = sum(len(each.shape.input_schema) + len(each.shape.output_schema) for each in offered.values())
        if size > SCHEMAS_BYTES:
            raise ValueError(f"the schemas of {module} have {size} characters together; at most {SCHEMAS_BYTES}")  # noqa: TRY301 - told like all others
    except BaseException as error:
        if not is_failure(error):
            raise
        return {"error": exception_line(error), "traceback": traceback_of(error)}
    return {"path": _path_of(module), "functions": functions}


def _path_of(module: str) -> str:
    """The folder of the package that a module is of, or the file of one that stands alone."""
    top = sys.modules[module.partition(".")[0]]
    folders = list(getattr(top, "__path__", ()))
    return str(Path(folders[0] if folders else top.__file__ or "").absolute())


if __name__ == "__main__":
    main(answer)
