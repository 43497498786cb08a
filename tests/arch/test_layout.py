"""The shape of the source tree."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("protos", "kernel", "plugins", "clients", "examples", "tests")
CODE = (".py", ".proto", ".c", ".mjs", ".ts", ".go", ".cc", ".h", ".java")
TEXT = (*CODE, ".md", ".toml", ".yaml", ".json", "Makefile", "run")
GENERATED = ("_pb2.py", "_pb2_grpc.py")
MADE = ("node_modules", "dist", "build", "gen")
"""Folders of what tools bring and make, under `clients`."""
LINES = 450
UNWANTED = re.compile("TO" r"DO\b|FIX" r"ME\b|XX" r"X\b|/home/\w|/ro" r"ot/|/Users/\w")


@cache
def sources(*endings: str) -> tuple[Path, ...]:
    """The files that people write, by ending of their names."""
    candidates = [p for part in PARTS for p in (ROOT / part).rglob("*")] + [*ROOT.glob("*"), ROOT / ".ci/run"]
    return tuple(path for path in sorted(candidates) if _is_ours(path, endings))


def _is_ours(path: Path, endings: tuple[str, ...]) -> bool:
    if "node_modules" in path.parts or ("clients" in path.relative_to(ROOT).parts[:1] and {*MADE} & {*path.parts}):
        return False  # of others
    return path.name.endswith(endings) and not path.name.endswith(GENERATED) and path.is_file()


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def nodes_of(path: Path, *words: str) -> Iterator[ast.AST]:
    """All nodes of a file of Python; none, and nothing is parsed, where not one of the words stands in it."""
    if any(word in text_of(path) for word in words):
        yield from ast.walk(ast.parse(text_of(path)))


def definitions(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The functions and classes of a module, and of these; expressions, of which most of a file consists, hold none."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from definitions(getattr(statement, inner, ()))


def test_top_folders_are_no_packages() -> None:
    """The top folders hold packages and are none: nothing in them can be imported by the folder's name."""
    loose = [
        p for part in ("protos", "kernel", "plugins", "clients", "clients/python") for p in (ROOT / part).glob("*.py")
    ]
    assert not loose


def test_size() -> None:
    """A source file can be read in one sitting; in a proto, where every element has its comment, comments are free."""
    long = {}
    for path in sources(*CODE):
        comment = "//" if path.suffix == ".proto" else "\n"
        lines = sum(not line.lstrip().startswith(comment) for line in text_of(path).splitlines())
        if lines > LINES:
            long[str(path.relative_to(ROOT))] = lines
    assert not long, f"the limit is {LINES} lines: split them by noun"


def test_no_leftovers() -> None:
    """No file holds a note to its author, or a path of somebody's machine."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources(*TEXT)
        if UNWANTED.search(text_of(path))
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if UNWANTED.search(line)
    ]
    assert not found


def test_tests_say_what_they_prove() -> None:
    """Every test function has a docstring: the sentence that it proves."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources(".py")
        if path.name.startswith("test_") or path.name == "contract.py"
        for node in definitions(ast.parse(text_of(path)).body)
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
        for node in nodes_of(path, "assert", "__debug__")
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert not decided


def test_tests_do_not_sleep() -> None:
    """No test waits for time to pass: each waits for an event, with a deadline. The bench paces its load by time."""
    sleeping = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(".py")
        if path.is_relative_to(ROOT / "tests") and not path.is_relative_to(ROOT / "tests" / "bench")
        for node in nodes_of(path, "sleep")
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
