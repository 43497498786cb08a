"""Mistakes of use, for programs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from rich.markup import render
from typer.testing import CliRunner

from inferd.cli import main
from inferd.cli.amounts import counted
from inferd.cli.manual import program
from inferd.cli.output import CommandError


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (["ps", "-o", "json", "--address", "nonsense"], "--address"),
        (["ps", "--nonsense", "--output=json"], None),
        (["nonsense", "-ojson"], None),
        (["-o", "json"], None),
        (["run", "-o", "json"], "model"),
        (["run", "m", " ", "-o", "json"], "PROMPT"),
        (["run", "m", "x", "--top-k", "many", "-o=json"], "--top-k"),
        (["lease", "create", "-o", "json"], "--memory"),
    ],
)
def test_misuse_is_json_too_where_that_is_asked_for(arguments: list[str], parameter: str | None) -> None:
    """Errors of use are one JSON object on stdout as all others are, and exit code 2; help is help."""
    done = CliRunner().invoke(main.app, arguments)
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, done.stderr, error["reason"]) == (2, "", "USAGE")
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["metadata"].get("parameter") == parameter
    assert error["metadata"]["command"].startswith("inferd")
    assert CliRunner().invoke(main.app, ["ps", "-o", "json", "--help"]).exit_code == 0


def test_json_of_a_program_is_no_matter_of_ours() -> None:
    """What stands behind `--` is a program's; what `lease run` says itself goes to stderr, JSON too."""
    done = CliRunner().invoke(main.app, ["lease", "run", "--", "prog", "-o", "json"])
    assert (done.exit_code, done.stdout, done.stderr.startswith("{")) == (2, "", False)
    done = CliRunner().invoke(main.app, ["lease", "run", "-o", "json", "--", "prog"])
    assert (done.exit_code, done.stdout, json.loads(done.stderr)["error"]["reason"]) == (2, "", "USAGE")


def options_of_text() -> list[tuple[list[str], str]]:
    """Every option of every command that is one text: the words of the command, and the option."""
    found = []

    def walk(command: Any, words: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])
        options = [each for each in command.params if each.param_type_name == "option"]
        found.extend((words, each.opts[0]) for each in options if type(each.default) is str)

    walk(typer.main.get_command(main.app), [])
    return found


def test_an_empty_option_is_not_no_option() -> None:
    """An option whose value is empty is a mistake of use: an answer is never free because a variable was not set."""
    wanted = {"--regex", "--json-schema", "--lease", "--backend", "--device", "--sha256", "--model", "--address"}
    options = options_of_text()
    assert wanted <= {option for _, option in options}
    for words, option in options:
        if option == "--system":  # an empty message is none
            continue
        given = ["m", "--text", __file__] if words == ["optimize"] else ["m"] if option == "--reason" else ["m", "x"]
        given += ["y"] if words == ["data", "map"] else []
        done = CliRunner().invoke(main.app, [*words, option, "", "-o", "json", *given])
        error = json.loads(done.stderr if words[:1] == ["lease"] and words[1] == "run" else done.stdout)["error"]
        assert (done.exit_code, error["metadata"]["parameter"]) == (2, option), words
        assert "it is empty" in error["message"]


def test_every_reason_of_the_command_line_has_a_code() -> None:
    """There is no error of a command whose JSON has an empty or unknown `code`."""
    for file in Path(main.__file__).parent.glob("*.py"):
        for reason in re.findall(r'CommandError\(.*?reason="([A-Z_]+)"', file.read_text(encoding="utf-8"), re.DOTALL):
            assert CommandError("", reason=reason).code in grpc.StatusCode.__members__.keys() - {"UNKNOWN"}, reason


@pytest.mark.parametrize(("count", "said"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_numbers_of_things(count: int, said: str) -> None:
    """One thing is no plural."""
    assert counted(count, "token") == said


def commands(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Every command and group, with its words."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, [*words, name])


def test_no_help_of_any_command_is_taken_for_markup() -> None:
    """Brackets in texts of help, as of optional parts, are shown as they are; where there are some, `--help` works."""
    for words, command in commands(typer.main.get_command(main.app), []):
        texts = [text for each in (command, *command.params) if (text := getattr(each, "help", None))]
        for text in texts:
            assert render(text).plain == text.replace("\\[", "["), words
        if any("[" in text for text in texts):  # all the others are shown as they are, too, but that takes long
            done = CliRunner().invoke(main.app, [*words, "--help"])
            assert (done.exit_code, done.exception) == (0, None), words


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("train name --method clasify", "classify"),
        ("run smollm2 x --priority hgih", "high"),
        ("tasks --state runing", "running"),
        ("completion bsh", "bash"),
    ],
)
def test_a_wrong_value_is_answered_with_the_one_that_was_meant(words: str, near: str, form: str) -> None:
    """People and programs are told all values and the nearest one, in no words of a library."""
    told = CliRunner().invoke(main.app, [*words.split(), "-o", form])
    said = " ".join(told.output.replace("│", " ").split())
    assert told.exit_code == 2
    assert f"Did you mean '{near}'?" in said
    assert "is not one of" in said
    assert "Value error" not in said


@pytest.mark.parametrize("words", ["explain", "run", "quotas create", "models import", "index rm"])
def test_options_are_whole_on_narrow_terminals(words: str) -> None:
    """Help has the name of every option at 60 characters."""
    said = CliRunner().invoke(main.app, [*words.split(), "-h"], env={"COLUMNS": "60"})
    assert said.exit_code == 0
    verb = program()
    options = set[str]()
    for word in words.split():
        verb = next(each for each in verb.below if each.path[-1] == word)
    for each in verb.words:
        options |= {name for name in each.names if each.is_option}
    assert {name for name in options if name not in said.stdout} == set()
