"""How much `inferd run` asks for when it is not told, what it says of that, and what it passes to templates."""

import pytest
from google.protobuf.json_format import MessageToDict
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd_api.v1.model_pb2 import Model


def run(scripted: object, *arguments: str) -> Result:
    return CliRunner().invoke(main.app, ["run", *arguments, "--address", scripted.address])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("given", "asked", "fits"), [([], 512, True), (["7"], 7, False), (["all"], 0, False)])
def test_most_tokens(scripted: object, given: list[str], asked: int, fits: bool) -> None:  # noqa: FBT001 - by pytest
    """512 tokens unless told otherwise; a note says when that ended the answer, and how to get more."""
    scripted.models["long"] = Model(name="long")  # type: ignore[attr-defined]
    done = run(scripted, "long", "Hi", *[part for n in given for part in ("--max-tokens", n)])
    assert done.exit_code == 0, done.output
    sampling = scripted.requests[-1].spec.sampling  # type: ignore[attr-defined]
    assert (sampling.max_tokens, sampling.fit_max_tokens) == (asked, fits)
    told = " ".join(done.stderr.split())
    assert ("ends at 512 tokens" in told and "--max-tokens N" in told) == fits
    assert "512" not in run(scripted, "echo", "Hi").stderr


@pytest.mark.parametrize("wrong", ["-1", "many", "1.5", "99999999999"])
def test_most_tokens_that_are_none(scripted: object, wrong: str) -> None:
    """A bound that is no number of tokens is a mistake of use."""
    done = run(scripted, "echo", "Hi", "--max-tokens", wrong)
    assert done.exit_code == 2
    assert "neither a number of tokens" in " ".join(done.stderr.split())


def test_variables_of_the_template(scripted: object) -> None:
    """`--var` gives the template numbers, truth values and lists as such, and everything else as text."""
    run(scripted, "echo", "Hi", "--var", "enable_thinking=false", "--var", "tone=dry", "--var", "more=[1, 2]")
    chat = scripted.requests[-1].spec.chat  # type: ignore[attr-defined]
    assert MessageToDict(chat.template_variables) == {"enable_thinking": False, "tone": "dry", "more": [1, 2]}
