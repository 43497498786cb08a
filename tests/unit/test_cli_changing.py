"""`--watch` of lists."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from typer.testing import CliRunner

from inferd.cli import changing, main
from inferd.cli.changing import Listing
from inferd.cli.output import Format, Output
from inferd_client import Client, KernelUnreachableError
from inferd_client.errors import NotLeaderError

Thing = tuple[str, str, str]
LOOKS: list[Any] = [
    [("a", "waiting", "1 s"), ("b", "running", "2 s")],
    [("a", "waiting", "3 s"), ("b", "running", "4 s")],
    KernelUnreachableError("no kernel answers at x"),
    NotLeaderError("no kernel leads"),
    [("a", "running", "5 s"), ("c", "waiting", "1 s")],
]


def listing() -> Listing[Thing]:
    def document(thing: Thing) -> dict[str, Any]:
        return dict(zip(("name", "state", "age"), thing, strict=True))

    columns = ("NAME", "STATE", "AGE")
    return Listing(columns=columns, row=lambda thing: thing, document=document, empty="nothing", moving=("AGE",))


def looked_at(looks: list[Any]) -> Callable[[], Iterable[Thing]]:
    """Gives one look after the other, then ends as Ctrl-C does."""
    left = iter(looks)

    def read() -> Iterable[Thing]:
        look = next(left, None)
        if look is None:
            raise KeyboardInterrupt
        if isinstance(look, Exception):
            raise look
        return iter(look)

    return read


def test_each_change_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A table, then a line for what is new, otherwise or gone; times alone are no change, an absence is one note."""
    with pytest.raises(KeyboardInterrupt):
        listing().follow(Output(Format.TABLE), looked_at(LOOKS), pause=lambda _: None)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["NAME", "STATE", "AGE"],
        ["a", "waiting", "1", "s"],
        ["b", "running", "2", "s"],
    ]
    assert [line.split(" · ")[1:] for line in lines[3:]] == [
        ["a", "running", "5 s"],
        ["c", "waiting", "1 s"],
        ["b", "gone"],
    ]
    assert said.err.count("no kernel answers at x; this goes on once a kernel answers") == 1


def test_each_change_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get a document for each thing, each change, and the name of what is gone."""
    with pytest.raises(KeyboardInterrupt):
        listing().follow(Output(Format.JSON), looked_at(LOOKS), pause=lambda _: None)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each.get("state") for each in documents] == ["waiting", "running", "running", "waiting", None]
    assert documents[-1] == {"gone": "b"}


def test_a_kernel_that_is_not_there_at_first_is_an_error() -> None:
    """Nothing is waited for where there was nothing."""
    with pytest.raises(KernelUnreachableError):
        listing().follow(Output(Format.TABLE), looked_at(LOOKS[2:]), pause=lambda _: None)


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ("models", "list_models"),
        ("models list", "list_models"),
        ("models versions smollm2", "list_model_versions"),
        ("ps", "list_models"),
        ("hosts", "list_hosts"),
        ("lease list", "list_leases"),
        ("trainings list", "list_trainings"),
        ("evaluations list", "list_evaluations"),
        ("pipelines list", "list_pipeline_runs"),
        ("federate list", "list_federations"),
    ],
)
def test_lists_that_change_can_be_watched(words: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them reads its list anew until Ctrl-C, which ends it with 130."""
    looks: list[str] = []

    def read(*_: Any, **__: Any) -> list[Any]:
        looks.append(method)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(changing, "LOOK_S", 0)
    monkeypatch.setattr(Client, method, read)
    ended = CliRunner().invoke(main.app, [*words.split(), "--watch", "--address", "127.0.0.1:9"])
    assert (ended.exit_code, len(looks)) == (130, 3), ended.output
