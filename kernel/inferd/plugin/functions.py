"""Functions that a package offers: ordinary Python functions with a mark. Their calls are tasks of the kernel."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")

NAME_FORM: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
MOST_VERSION: Final = 999_999_999
MOST_ASKS: Final = 1_000_000
_MARK: Final = "__inferd_function__"
_MOST_DESCRIPTION: Final = 500  # characters
_UNCALLED: Final[dict[Any, str]] = {
    inspect.Parameter.POSITIONAL_ONLY: "can be given by its place alone",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values",
    inspect.Parameter.VAR_KEYWORD: "takes any names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a function says of itself besides its annotations.

    Attributes:
        name: By which it is called.
        version: Rises with what it does.
        description: For people.
        timeout_s: How long a call may take, in seconds; None for the kernel's `functions.timeout_s`.
        memory_bytes: Memory of a call beyond what its package has; None for the kernel's `functions.memory_bytes`.
        prepare: Called once where its package was imported, before its first call; None for nothing.
        asks: How often a call may ask a model at most, for each of its inputs.
        internal: Whether it is for what else its package or the kernel does, and lists leave it out.
    """

    name: str
    version: int
    description: str
    timeout_s: float | None = None
    memory_bytes: int | None = None
    prepare: Callable[[], object] | None = None
    asks: int = 0
    internal: bool = False


def function(
    *,
    name: str = "",
    version: int = 1,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    prepare: Callable[[], object] | None = None,
    asks: int = 0,
    internal: bool = False,
) -> Callable[[F], F]:
    """Mark a function as one that is offered; it stays callable as it is.

    Its parameters and its result have annotations, of which its schemas are made. One that is annotated as
    `Iterator[T]` gives a piece with each `yield`. It raises ValueError to refuse an input.

    Args:
        name: By which it is called; default: its own.
        version: Rises with what it does: a call that names none has the highest.
        timeout_s: How long a call may take, in seconds; default and most: settings of the kernel.
        memory_bytes: How much memory a call may take beyond what its package has; likewise.
        prepare: Called once, before the first call of a function that names it: loads what all calls need, such as a
            dictionary or a small model. Not when the package is only looked at.
        asks: How often a call may ask a model at most (`ask`, `ask_all`); for each of its inputs, where it has several.
        internal: Lists leave it out that people read: it is called by what else its package or the kernel does.

    Raises:
        ValueError: One of these is out of its range, or the function cannot be called by names.
    """

    def mark(marked: F) -> F:
        given = Mark(
            name=name or marked.__name__,
            version=version,
            description=_describe(marked),
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            prepare=prepare,
            asks=asks,
            internal=internal,
        )
        _check(given, marked)
        setattr(marked, _MARK, given)
        return marked

    return mark


_files: dict[str, str] = {}  # of this process, which calls one function


def offer_files(files: Mapping[str, str]) -> None:
    """Have `function_file` give these paths, by their names."""
    _files.clear()
    _files.update(files)


_data: list[memoryview] = []  # likewise


def offer_data(data: Iterable[memoryview]) -> None:
    """Have `function_data` give these, in their order."""
    _data[:] = data


def function_data() -> tuple[memoryview, ...]:
    """What the kernel gives this call beside its input, such as the segments of an index: mapped, and not copied.

    Only what the kernel itself does with functions gives any; calls of clients have none.
    """
    return tuple(_data)


def function_file(name: str) -> Path:
    """A file or folder that the operator lets functions read (`functions.files`), by the name that a caller gave.

    Raises:
        ValueError: There is none of that name; so a function refuses its input.
    """
    if name not in _files:
        known = f"there are {', '.join(sorted(_files))}" if _files else "it has none"
        raise ValueError(f"{name[:80]!r} is no name of functions.files of the kernel; {known}")
    return Path(_files[name])


def function_files() -> Mapping[str, Path]:
    """All of `functions.files`, by name: for what a function's `prepare` loads before any call says which it wants."""
    return {name: Path(path) for name, path in _files.items()}


def mark_of(offered: object) -> Mark:
    """The mark of a function.

    Raises:
        ValueError: It has none.
    """
    given = getattr(offered, _MARK, None)
    if not isinstance(given, Mark):
        raise ValueError(f"inferd_functions gave {offered!r}; it must give functions with `@function()`")  # noqa: TRY004 - one error for what is wrong with a package
    return given


def _describe(marked: Callable[..., Any]) -> str:
    """The first paragraph of its docstring, as one line."""
    return " ".join((inspect.getdoc(marked) or "").partition("\n\n")[0].split())[:_MOST_DESCRIPTION]


def _check(mark: Mark, marked: Callable[..., Any]) -> None:
    at = f"function {mark.name!r}"
    if not NAME_FORM.fullmatch(mark.name):
        raise ValueError(f"{at} has a name that does not match {NAME_FORM.pattern}; give it one with name=")
    if type(mark.version) is not int or not 1 <= mark.version <= MOST_VERSION:
        raise ValueError(f"{at} has version {mark.version!r}; it must be a whole number from 1 to {MOST_VERSION}")
    if mark.timeout_s is not None and not (mark.timeout_s > 0 and math.isfinite(mark.timeout_s)):
        raise ValueError(f"{at} has timeout_s {mark.timeout_s!r}; it must be above 0, in seconds")
    if mark.memory_bytes is not None and (type(mark.memory_bytes) is not int or mark.memory_bytes < 1):
        raise ValueError(f"{at} has memory_bytes {mark.memory_bytes!r}; it must be a whole number above 0")
    if type(mark.asks) is not int or not 0 <= mark.asks <= MOST_ASKS:
        raise ValueError(f"{at} has asks {mark.asks!r}; it must be a whole number from 0 to {MOST_ASKS}")
    if inspect.iscoroutinefunction(marked) or inspect.isasyncgenfunction(marked):
        raise ValueError(f"{at} is `async`; each call has a process of its own: write `def`")
    for parameter in inspect.signature(marked).parameters.values():
        if (why := _UNCALLED.get(parameter.kind)) is not None:
            raise ValueError(f"{at} has a parameter {parameter.name!r} that {why}; inputs have names")
