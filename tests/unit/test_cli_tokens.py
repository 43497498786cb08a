"""`inferd tokenize`, and what `inferd run` asks an answer to be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd.cli.transcript import costs
from inferd_api.v1.sampling_pb2 import Choice, Grammar
from inferd_api.v1.task_pb2 import Finished

Commands = Callable[..., Result]
SCHEMA = '{"type": "integer"}'


@pytest.fixture
def inferd(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands against the scripted kernel."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))

    def call(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main.app, [*arguments, "--address", scripted.address], input=stdin)

    return call


def test_tokenize(scripted: Any, inferd: Commands) -> None:
    """The ids of a text are printed, and counted on stderr; with `--chat` it is a user's message."""
    done = inferd("tokenize", "echo", "ab")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "97 98\n", "2 tokens\n")
    assert scripted.requests[-1].prompt == "ab"
    assert inferd("tokenize", "echo", "ab", "--chat").stdout == "97 98\n"
    assert scripted.requests[-1].chat.messages[0].role == "user"


def test_tokenize_as_json_from_stdin(inferd: Commands) -> None:
    """With `-o json` the ids come as a document; without a text stdin is it."""
    done = inferd("tokenize", "echo", "-o", "json", stdin="ab")
    assert json.loads(done.stdout) == {"model": "echo", "tokens": 2, "token_ids": [97, 98]}


def test_run_asks_for_what_an_answer_must_be(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """A schema, in place or from a file, a regular expression and choices become the task's grammar."""
    file = tmp_path / "schema.json"
    file.write_text(SCHEMA)
    for options, grammar in (
        (("--json-schema", SCHEMA), Grammar(json_schema=SCHEMA)),
        (("--json-schema", f"@{file}"), Grammar(json_schema=SCHEMA)),
        (("--regex", "a+"), Grammar(regex="a+")),
        (("--choice", "yes", "--choice", "no"), Grammar(choice=Choice(texts=["yes", "no"]))),
    ):
        assert inferd("run", "echo", "Hi", *options).exit_code == 0
        assert scripted.requests[-1].spec.sampling.grammar == grammar
    inferd("run", "echo", "Hi")
    assert not scripted.requests[-1].spec.sampling.HasField("grammar")


@pytest.mark.parametrize("options", [("--regex", "a", "--choice", "b"), ("--json-schema", "@/no/such/file")])
def test_wrong_grammar_options(inferd: Commands, options: tuple[str, ...]) -> None:
    """Two grammars at once, or a schema file that is not there, are errors of use."""
    assert inferd("run", "echo", "Hi", *options).exit_code == 2


@pytest.mark.parametrize(("run_ms", "rates"), [(10, 0), (29, 0), (31, 1), (400, 1)])
def test_a_rate_is_of_a_time_that_can_be_measured(run_ms: int, rates: int) -> None:
    """Tokens that all came within a few milliseconds of the first have no rate; others do."""
    finished = Finished()
    finished.usage.output_tokens = 5
    finished.receipt.first_token_duration.FromMilliseconds(10)
    finished.receipt.run_duration.FromMilliseconds(run_ms)
    assert costs(finished).count("tok/s") == rates
