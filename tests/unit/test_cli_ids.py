"""Ids as commands show and take them."""

import json
from typing import Any

import pytest
from rich.console import Console, Group
from typer.testing import CliRunner

from inferd.cli import main, output
from inferd.cli.output import CommandError, columns_that_fit, table_of, uncut
from inferd.cli.prefix import by_prefix
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2
from inferd_client.errors import TaskNotFoundError

TASK = "t-01K2V7Q4ZJ8W5N3M6X9C0B1D2F"
TROUBLE = "the worker died: killed by signal 9; its log is /a/rather/long/path/of/a/log " * 3


def drawn_at(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The lines of a table of tasks on a terminal of this width, and what is noted beside it."""
    monkeypatch.setattr(output, "screen", lambda: output.Screen(width=width))
    rows = [(TASK, "smollm2", "failed", "normal", "3 min", "12", TROUBLE), (f"{TASK}2", "m", "running", "", "", "", "")]
    columns = ("TASK", "MODEL", "STATE", "CLASS", "AGE", "TOKENS", "ERROR")
    said = output.Output(output.Format.TABLE)
    said.table(columns, rows, empty="", gives_way="ERROR", goes=("TOKENS", "CLASS", "AGE", "ERROR"))
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


@pytest.mark.parametrize(
    ("width", "kept"),
    [
        (20, ["TASK"]),
        (40, ["TASK", "STATE"]),
        (60, ["TASK", "MODEL", "STATE", "AGE"]),
        (66, ["TASK", "MODEL", "STATE", "ERROR"]),
        (80, ["TASK", "MODEL", "STATE", "CLASS", "AGE", "ERROR"]),
        (400, ["TASK", "MODEL", "STATE", "CLASS", "AGE", "TOKENS", "ERROR"]),
    ],
)
def test_ids_are_whole_and_columns_that_matter_least_go(
    width: int, kept: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every width ids are whole, a task is one line within it, and what has no room is named; errors end with …."""
    (head, first, second), noted = drawn_at(width, monkeypatch, capsys)
    assert head.split() == kept
    assert first.split()[0] == TASK
    assert second.split()[0] == f"{TASK}2"
    if "STATE" in kept:
        assert "failed" in first.split()
        assert "running" in second.split()
    assert first.rstrip().endswith("…") == ("ERROR" in kept and width < 400)
    assert (TROUBLE.strip() in first) == (width == 400)
    if width >= 40:
        assert max(map(len, (head, first, second))) <= width
    left_out = [each for each in ("TASK", "MODEL", "STATE", "CLASS", "AGE", "TOKENS", "ERROR") if each not in kept]
    assert noted.startswith(f"no room for {', '.join(left_out)}: ") if left_out else not noted


def test_what_went_before_a_wide_column_is_back_where_it_fits() -> None:
    """One long name takes its own column from a list, and none of those for which there is room without it."""
    columns, row = (
        ("NAME", "MODEL", "STATE", "AGE", "TOKENS", "WHY"),
        ("t-1", "m" * 70, "failed", "3 min", "12", "x" * 90),
    )
    kept = columns_that_fit(columns, [row], width=80, gives_way="WHY", goes=("TOKENS", "AGE", "WHY"))
    assert [columns[at] for at in kept] == ["NAME", "STATE", "AGE", "TOKENS", "WHY"]
    empty = (*row[:4], "", row[5])
    kept = columns_that_fit(columns, [empty], width=80, gives_way="WHY", goes=("TOKENS", "AGE", "WHY"))
    assert [columns[at] for at in kept] == ["NAME", "STATE", "AGE", "WHY"]


def test_a_narrow_terminal_cuts_lines_of_top_at_their_ends() -> None:
    """In `top` a table is cut at the right edge; its columns keep their widths, so that ids in front are whole."""
    table = table_of(("INSTANCE", "LEASE", "MODEL"), [("i-12345678", "l-abcdefgh", "m" * 80)], gives_way="")
    narrow = Console(width=30)
    with narrow.capture() as drawn:
        narrow.print(Group(uncut(table)))
    lines = drawn.get().splitlines()
    assert lines[1].startswith("i-12345678  l-abcdefgh  ")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 30


def test_the_beginning_of_an_id_is_enough() -> None:
    """An id may be given by its beginning where only one begins so; several are told, none is the error as it was."""
    known = ["t-abc1", "t-abc2", "t-xyz"]

    def call(task_id: str) -> str:
        if task_id not in known:
            raise TaskNotFoundError(f"no task {task_id!r}")
        return task_id

    assert by_prefix(call, "t-abc1", known) == "t-abc1"
    assert by_prefix(call, "t-x", known) == "t-xyz"
    with pytest.raises(CommandError, match="2 ids begin with 't-abc': t-abc1, t-abc2; write more"):
        by_prefix(call, "t-abc", known)
    with pytest.raises(TaskNotFoundError, match="no task 't-q'"):
        by_prefix(call, "t-q", known)


def test_commands_take_the_beginning_of_an_id(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cancel` finds the task that is meant, and tells it by its whole id; `run --verbose` tells it first."""
    listed = task_service_pb2.ListTasksResponse(tasks=[tp.Task(task_id=TASK), tp.Task(task_id="t-other")])
    monkeypatch.setattr("inferd_client.Client.list_tasks", lambda _, **__: iter(listed.tasks))

    def cancel(_: Any, task_id: str) -> tp.Task:
        if task_id != TASK:
            raise TaskNotFoundError("unknown")
        return tp.Task(task_id=task_id, state=tp.TASK_STATE_CANCELLED)

    monkeypatch.setattr("inferd_client.Client.cancel_task", cancel)
    address = ["--address", scripted.address]
    assert CliRunner().invoke(main.app, ["cancel", TASK[:9], *address]).stdout == f"{TASK} is cancelled\n"
    done = CliRunner().invoke(main.app, ["run", "echo", "x", "--verbose", *address])
    ran = json.loads(
        CliRunner().invoke(main.app, ["run", "echo", "x", "-v", "-o", "json", *address]).stdout.splitlines()[-1]
    )
    assert done.stderr.splitlines()[0] == f"task {ran['summary']['task_id']}"
