"""The screen of `inferd top`: its lines for any size of terminal, and what keys do to it."""

from typing import Any

import pytest
from rich.cells import cell_len

from inferd.cli.top_panes import PANES, TASKS, Look
from inferd.cli.top_screen import Screen, keys_of
from inferd_api.v1.host_pb2 import Device, Host, TenantLoad
from inferd_api.v1.host_service_pb2 import WatchHostResponse
from inferd_api.v1.model_pb2 import Instance, InstanceState, Model
from inferd_api.v1.task_pb2 import Task, TaskState

RUNNING = TaskState.TASK_STATE_RUNNING


def look(*, tasks: int = 40, models: int = 3, hosts: int = 1) -> Look:
    """A kernel with some of everything."""
    devices = [Device(device_id=f"cpu:{n}", capacity_bytes=(n + 1) << 30) for n in range(2)]
    loads = [TenantLoad(tenant="a", queued_tasks=3), TenantLoad(tenant="b", queued_tasks=10)]
    host = Host(name="here", version="1", devices=devices, loads=loads, warnings=["the disk \x1b[2J is full"])
    instances = [Instance(instance_id="m-1", model="m", state=InstanceState.INSTANCE_STATE_READY)]
    return Look(
        told=WatchHostResponse(host=host, instances=instances),
        tasks=[Task(task_id=f"task-{n:02}", model="日本語" if n % 2 else "m", state=RUNNING) for n in range(tasks)],
        models=[Model(name=f"model-{n}", size_bytes=10 - n) for n in range(models)],
        hosts=[Host(host_id=f"host-{n}") for n in range(hosts)],
    )


def drawn(screen: Screen, width: int = 100, height: int = 30, **some: Any) -> list[str]:
    return [line.plain for line in screen.lines(look(**some), width, height)]


@pytest.mark.parametrize("width", [1, 8, 40, 80, 300])
@pytest.mark.parametrize("height", [1, 2, 4, 6, 13, 24, 100])
def test_no_size_of_a_terminal_is_too_small(width: int, height: int) -> None:
    """Whatever the size, no line is wider and there are no more of them; none has what a terminal obeys."""
    for pane in ("", *"12345678"):
        for zoom in ((), ("zoom",)):
            screen = Screen()
            for key in (*pane, *zoom):
                screen.press(key)
            lines = drawn(screen, width, height)
            assert len(lines) <= height
            assert max(map(cell_len, lines)) <= width
            assert not any("\x1b" in line for line in lines)


def test_each_pane_with_things_is_on_a_screen_with_room() -> None:
    """Devices, models, instances, queues and tasks are seen at once; a pane with nothing in it takes no line."""
    text = "\n".join(drawn(Screen(), height=30))
    for title in ("1 devices 2", "3 models 3", "4 instances 1", "5 queues 2", "6 tasks 40"):
        assert title in text
    assert "7 leases" not in text
    assert "2 hosts" not in text
    assert "2 hosts 3" in "\n".join(drawn(Screen(), height=40, hosts=3))


def test_the_pane_with_the_keys_takes_the_screen() -> None:
    """Its number and Enter give a pane the whole screen; Tab goes on to the next one."""
    screen = Screen()
    for key in ("6", "zoom"):
        screen.press(key)
    lines = drawn(screen, height=12)
    assert [line for line in lines if line.startswith(("1 ", "3 "))] == []
    assert "6 tasks 40, 1 to 7" in lines[2]  # behind the summary and a warning
    screen.press("next")
    assert any(line.startswith("7 leases 0") for line in drawn(screen, height=12))


def shown(screen: Screen, height: int = 12) -> list[str]:
    """The first words of the rows of a pane that has the screen."""
    return [line.split()[0] for line in drawn(screen, height=height)[4:-1] if line.strip()]


def test_rows_are_scrolled_and_stay_within_their_ends() -> None:
    """Arrows go by rows, PgUp and PgDn by pages, Home and End to the ends, and never beyond."""
    screen = Screen()
    for key in ("6", "zoom"):
        screen.press(key)
    assert shown(screen)[0] == "task-00"
    steps = (("down", 1), ("page down", 8), ("up", 7), ("end", 33), ("down", 33), ("home", 0), ("page up", 0))
    for key, first in steps:
        screen.press(key)
        assert shown(screen)[0] == f"task-{first:02}"


def test_rows_are_sorted_by_a_column_by_what_it_means() -> None:
    """`s` sorts by the next column, numbers as numbers, and `r` turns it round; behind the last is their own order."""
    screen = Screen()
    screen.press("5")
    screen.press("zoom")
    assert shown(screen) == ["a", "b"]
    for _ in range(3):
        screen.press("sort")
    assert any("sorted by WAITING ↑" in line for line in drawn(screen))
    assert shown(screen) == ["a", "b"]  # 3 before 10
    screen.press("turn")
    assert shown(screen) == ["b", "a"]
    screen.press("turn")
    for _ in range(2):
        screen.press("sort")
    assert not any("sorted" in line for line in drawn(screen))
    screen.press("sort back")
    assert any("sorted by RUNNING" in line for line in drawn(screen))


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.title)
def test_every_column_can_be_sorted_by(pane: Any) -> None:
    """No column of a pane has things that cannot be compared, and each key is of a column."""
    things = pane.things(look(hosts=3))
    for column in range(len(pane.columns)):
        assert len(pane.sorted(things, column, falling=True)) == len(things)
    assert pane.keys.keys() <= {*pane.columns}


def test_columns_can_be_left_out_where_there_is_no_room() -> None:
    """To the right goes one column each time, the first stays; a wide character is never cut in two."""
    screen = Screen()
    for key in ("6", "zoom", "right", "right"):
        screen.press(key)
    heads = next(line for line in drawn(screen) if line.startswith("TASK"))
    assert heads.split()[:2] == ["TASK", TASKS.columns[3]]
    for _ in range(20):
        screen.press("right")
    assert next(line for line in drawn(screen) if line.startswith("TASK")).split() == ["TASK", "LEASE"]


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"q", ["quit"]),
        (b"\x1b[A\x1b[B\x1bOC", ["up", "down", "right"]),
        (b"6\rs\t", ["6", "zoom", "sort", "next"]),
        (b"\x1b[5~\x1b[6~\x1b[Z", ["page up", "page down", "back"]),
        (b"\x1b[200~q\x1b[1;5Aq", ["quit", "quit"]),  # what is not known is no letter
        (b"\x1b", []),
        (b"\x1b[", []),
        ("ß日".encode(), []),
        (b"09", []),
    ],
)
def test_keys_are_read_as_terminals_send_them(typed: bytes, keys: list[str]) -> None:
    """Letters, and sequences of either kind; others are left out whole, cut ones too."""
    assert [*keys_of(typed)] == keys
