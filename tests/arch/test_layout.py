"""The shape of the source tree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("protos", "kernel", "plugins", "clients", "examples", "tests")
CODE = (".py", ".proto", ".c", ".mjs")
TEXT = (*CODE, ".md", ".toml", ".yaml", ".json", "Makefile", "run")
GENERATED = ("_pb2.py", "_pb2_grpc.py")
LINES = 450
UNWANTED = re.compile("TO" r"DO\b|FIX" r"ME\b|XX" r"X\b|/home/\w|/ro" r"ot/|/Users/\w")


def sources(*endings: str) -> Iterator[Path]:
    """The files that people write, by ending of their names."""
    candidates = [p for part in PARTS for p in (ROOT / part).rglob("*")] + [*ROOT.glob("*"), ROOT / ".ci/run"]
    for path in sorted(candidates):
        if "node_modules" in path.parts:
            continue  # of others
        if path.name.endswith(endings) and not path.name.endswith(GENERATED) and path.is_file():
            yield path


def test_top_folders_are_no_packages() -> None:
    """The top folders hold packages and are none: nothing in them can be imported by the folder's name."""
    loose = [
        p for part in ("protos", "kernel", "plugins", "clients", "clients/python") for p in (ROOT / part).glob("*.py")
    ]
    assert not loose


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in sources(*CODE)])
def test_size(path: Path) -> None:
    """A source file can be read in one sitting; in a proto, where every element has its comment, comments are free."""
    comment = "//" if path.suffix == ".proto" else "\n"
    lines = sum(not line.lstrip().startswith(comment) for line in path.read_text().splitlines())
    assert lines <= LINES, f"{path} has {lines} lines, the limit is {LINES}: split it by noun"


def test_no_leftovers() -> None:
    """No file holds a note to its author, or a path of somebody's machine."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources(*TEXT)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNWANTED.search(line)
    ]
    assert not found


def test_tests_say_what_they_prove() -> None:
    """Every test function has a docstring: the sentence that it proves."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources(".py")
        if path.name.startswith("test_") or path.name == "contract.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_nothing_is_decided_by_an_assert() -> None:
    """What is installed does the same under `python -O`: it has no `assert`, not one that a linter was told to pass."""
    decided = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(".py")
        if any(path.is_relative_to(ROOT / part) for part in ("kernel", "plugins", "clients"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert not decided


def test_tests_do_not_sleep() -> None:
    """No test waits for time to pass: each waits for an event, with a deadline. The bench paces its load by time."""
    sleeping = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(".py")
        if path.is_relative_to(ROOT / "tests") and not path.is_relative_to(ROOT / "tests" / "bench")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]
    assert not sleeping


def test_test_files_have_distinct_names() -> None:
    """Test files are not packages, so each has a name of its own."""
    names = [p.name for p in sources(".py") if p.is_relative_to(ROOT / "tests") and p.name != "conftest.py"]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice
    assert "__init__.py" not in names
