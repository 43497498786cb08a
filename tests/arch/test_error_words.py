"""What the system refuses reaches people as words."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import inferd
from inferd.engine.cause import last_line
from inferd.errors import InvalidFieldError, words_of
from inferd.plugin.probe import exception_line

ROOT = Path(inferd.__file__).parent
SYSTEM = {"OSError", "PermissionError", "FileNotFoundError", "ConnectionError", "Exception", "BaseException"}
"""What may be an error of the system."""
FOR_DEVELOPERS = {"testing"}  # folders


def names_of(type_: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(type_) if isinstance(node, ast.Name)}


def bare(handler: ast.ExceptHandler) -> Iterator[int]:
    """Lines that make a text of what a handler caught."""
    for node in ast.walk(handler):
        if isinstance(node, ast.FormattedValue):
            value = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
            value = node.args[0]
        else:
            continue
        if isinstance(value, ast.Name) and value.id == handler.name:
            yield node.lineno


def test_the_systems_errors_are_told_by_one_function() -> None:
    """Where an error of the system may be caught no text is made of it but by `words_of`: "[Errno 2]" says nothing."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        if FOR_DEVELOPERS & set(file.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and node.type is not None and names_of(node.type) & SYSTEM:
                lines = [line for line in bare(node) if "strerror or" not in line_of(file, line)]
                found += [f"{file.relative_to(ROOT)}:{line}" for line in lines]
    assert not found


def line_of(file: Path, line: int) -> str:
    return file.read_text(encoding="utf-8").splitlines()[line - 1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a"), "No such file or directory: '/a'"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), "Invalid cross-device link: '/a' to '/b'"),
        (OSError("nobody starts workers"), "nobody starts workers"),
        (MemoryError(), "MemoryError"),
        (ValueError("no number"), "no number"),
        (InvalidFieldError("wrong", field="x"), "wrong"),
    ],
)
def test_words_name_what_is_meant(error: BaseException, words: str) -> None:
    """Words are those of the system with its files, of others their own, or the name of what was raised."""
    assert words_of(error) == words


def test_lines_of_foreign_code_have_no_numbers_of_the_system() -> None:
    """The line of an exception that a backend raises, and of one that its probe raises, has the system's words."""
    error = PermissionError(13, "Permission denied", "/dev/x")
    expected = "PermissionError: Permission denied: '/dev/x'"
    assert last_line(error) == exception_line(error) == expected
