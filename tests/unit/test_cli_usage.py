"""Mistakes of use, for programs."""

import json

import pytest
from typer.testing import CliRunner

from inferd.cli import main


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
    assert error["metadata"].get("parameter") == parameter
    assert error["metadata"]["command"].startswith("inferd")
    assert CliRunner().invoke(main.app, ["ps", "-o", "json", "--help"]).exit_code == 0


def test_json_of_a_program_is_no_matter_of_ours() -> None:
    """What stands behind `--` is a program's; what `lease run` says itself goes to stderr, JSON too."""
    done = CliRunner().invoke(main.app, ["lease", "run", "--", "prog", "-o", "json"])
    assert (done.exit_code, done.stdout, done.stderr.startswith("{")) == (2, "", False)
    done = CliRunner().invoke(main.app, ["lease", "run", "-o", "json", "--", "prog"])
    assert (done.exit_code, done.stdout, json.loads(done.stderr)["error"]["reason"]) == (2, "", "USAGE")
