"""The examples of the documents: commands that there are, settings that are right, programs that are Python."""

import ast
import importlib
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from inferd.cli.manual import Verb, program
from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.config import Settings
from inferd_client import AsyncClient, Client

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^\$ (.*)$", re.MULTILINE)
ENDS = {"|", "&&", "||", ";", "&", ">", ">>", "<", "#"}
OURS = {"inferd", "inferd_api", "inferd_client"}
GROUPS = frozenset(Settings.model_fields)


def documents() -> list[Path]:
    named = ("README.md", "SECURITY.md", "deploy/README.md", "plugins/README.md")
    return [*(ROOT / name for name in named), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str) -> list[tuple[str, str]]:
    """Each block of a kind, with where it is."""
    found = []
    for path in documents():
        text = path.read_text()
        for block in BLOCK.finditer(text):
            if block[1] == kind:
                line = text.count("\n", 0, block.start()) + 2
                found.append((f"{path.relative_to(ROOT)}:{line}", block[2]))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `inferd …` of a block of a shell, up to what ends a command."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a quotation over several lines
            continue
        starts = [at for at, word in enumerate(words) if word == "inferd" and (not at or begins(words[at - 1]))]
        for at in starts:
            rest = words[at + 1 :]
            yield rest[: next((place for place, word in enumerate(rest) if word in ENDS), len(rest))]


def begins(before: str) -> bool:
    """Whether a command comes behind a word."""
    return before in ENDS | {"(", "$(", "--", "sudo", "do"} or "=" in before


def problem(words: list[str], root: Verb) -> str:
    """What is wrong with the words of a command; "" for nothing."""
    verb = root
    options = {name for word in root.words for name in word.names if word.is_option}
    for word in words:
        if word == "--":
            break
        below = {each.path[-1]: each for each in verb.below}
        if word in below:
            verb = below[word]
            options |= {name for each in verb.words for name in each.names if each.is_option}
        elif word.startswith("--") and word.partition("=")[0] not in options | {"--help"}:
            return f"{verb.name} has no option {word}"
        elif verb is root and not word.startswith("-") and re.fullmatch(r"[a-z]+", word) and len(words) > 1:
            return f"there is no command {word}"
    return ""


def test_commands_of_documents_are_commands() -> None:
    """Each `inferd …` in a block of a shell names a command that there is, and options that it has."""
    root = program()
    wrong, seen = {}, 0
    typed = [(where, "\n".join(TYPED.findall(text))) for where, text in blocks("")]  # with what was said
    for where, text in [*blocks("sh"), *typed]:
        for words in commands(text):
            seen += 1
            told = problem([word for word in words if word not in {"(", ")"}], root)
            if told:
                wrong[f"{where}: inferd {' '.join(words)}"] = told
    assert wrong == {}
    assert seen > 100  # else they are not found any more


@pytest.mark.parametrize(("where", "text"), [pytest.param(*each, id=each[0]) for each in blocks("toml")])
def test_settings_of_documents_are_settings(
    where: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of TOML is TOML, and where it is a configuration, one that a kernel takes."""
    given = tomllib.loads(text)
    if not given or not GROUPS & set(given):
        return
    file = tmp_path / "config.toml"
    file.write_text(text)
    monkeypatch.setenv("INFERD_CONFIG", "")
    try:
        read_settings(config=file)
    except CommandError as error:
        pytest.fail(f"{where}: {error.message}")


def unfit(call: ast.Call, of: type) -> str:
    """Why a call of a method of a client cannot be made as it is written; "" where it can."""
    assert isinstance(call.func, ast.Attribute)
    if (method := getattr(of, call.func.attr, None)) is None:
        return f"{of.__name__} has no {call.func.attr}"
    if not callable(method) or any(isinstance(each, ast.Starred) for each in call.args):
        return ""
    named = {each.arg: None for each in call.keywords if each.arg is not None}
    signature = inspect.signature(method)
    try:
        if any(each.arg is None for each in call.keywords):  # ** of more
            signature.bind_partial(None, *call.args, **named)
        else:
            signature.bind(None, *call.args, **named)
    except TypeError as error:
        return f"{call.func.attr}: {error}"
    return ""


def test_calls_of_clients_in_documents_can_be_made() -> None:
    """Each call of a client's method names one that there is, with arguments that it takes; so do imports."""
    wrong, seen = {}, 0
    for where, text in blocks("python"):
        for node in ast.walk(ast.parse(text.replace("…", "..."))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if isinstance(node.func.value, ast.Name) and node.func.value.id == "client":
                    seen += 1
                    why = [unfit(node, of) for of in (Client, AsyncClient)]
                    if all(why):
                        wrong[f"{where}+{node.lineno}"] = why[0]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
                module = importlib.import_module(node.module or "")
                for each in node.names:
                    if not hasattr(module, each.name) and find_spec(f"{node.module}.{each.name}") is None:
                        wrong[f"{where}+{node.lineno}"] = f"{node.module} has no {each.name}"
    assert wrong == {}
    assert seen > 20


def test_programs_of_documents_are_python_and_json() -> None:
    """A block of Python is read as such, and one of JSON too."""
    wrong = {}
    for where, text in blocks("python"):
        try:
            ast.parse(text.replace("…", "..."))
        except SyntaxError as error:
            wrong[where] = str(error)
    for where, text in blocks("json"):
        try:
            json.loads(text)
        except ValueError as error:
            wrong[where] = str(error)
    assert wrong == {}
