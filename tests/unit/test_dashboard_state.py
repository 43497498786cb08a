"""What the dashboard keeps: rows, what of them each browser has not seen, and a day of history."""

import asyncio
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from time_limits import LONG_S

from inferd.http.dashboard import rows
from inferd.http.dashboard.history import GAUGES, TIERS, TIMES, History
from inferd.http.dashboard.pages import FOLDER
from inferd.http.dashboard.state import Reader, State
from inferd_api.v1.moderation_pb2 import FLAG_STATE_OPEN, Flag
from inferd_api.v1.training_pb2 import TRAINING_STATE_RUNNING, Training

DAY_S = 86_400
AT = 1_700_000_000


async def news(reader: Reader) -> Any:
    async with asyncio.timeout(LONG_S):
        return json.loads(await reader.news())


async def test_a_browser_is_told_all_and_then_what_changes() -> None:
    """The first message has the whole state; the next ones only rows that have changed, and those that are gone."""
    state = State()
    state.put("tasks", "a", {"n": 1})
    reader = state.join(10)
    assert await news(reader) == {"whole": True, "set": {"tasks": {"a": {"n": 1}}}, "gone": {}}
    state.put("tasks", "a", {"n": 1})  # as it stands
    state.put("tasks", "b", {"n": 2})
    state.put("tasks", "b", {"n": 3})
    state.drop("tasks", "a")
    assert await news(reader) == {"whole": False, "set": {"tasks": {"b": {"n": 3}}}, "gone": {"tasks": ["a"]}}


async def test_a_list_that_is_read_anew_tells_differences() -> None:
    """Of a list that replaces another one only what differs goes out; without readers nothing is gathered."""
    state = State()
    reader = state.join(10)
    state.replace("models", {"a": {"n": 1}, "b": {"n": 1}})
    await news(reader)
    state.replace("models", {"b": {"n": 1}, "c": {"n": 1}})
    assert await news(reader) == {"whole": False, "set": {"models": {"c": {"n": 1}}}, "gone": {"models": ["a"]}}
    state.leave(reader)
    state.replace("models", {})
    assert (reader.waiting, state.readers, len(state)) == (0, 0, 0)


async def test_numbers_that_json_has_not() -> None:
    """A figure that is no finite number is told as none: the message can still be read by a browser."""
    state = State()
    state.put("evaluations", "a", {"figures": [{"value": float("nan")}, {"value": float("-inf")}, {"value": 0.5}]})
    told = json.loads(await state.join(10).news(), parse_constant=pytest.fail)
    assert told["set"]["evaluations"]["a"] == {"figures": [{"value": None}, {"value": None}, {"value": 0.5}]}


async def test_a_slow_browser_is_given_the_newest_state() -> None:
    """What waits for one that reads nothing never grows beyond its bound; then it gets all as it stands."""
    state, most = State(), 100
    reader = state.join(most)
    await news(reader)
    waiting = []
    for number in range(10_000):
        state.put("tasks", str(number), {"n": number})
        if number >= 50:
            state.drop("tasks", str(number - 50))
        waiting.append(reader.waiting)
    assert max(waiting) <= most
    told = await news(reader)
    assert told["whole"]
    assert [*told["set"]["tasks"]] == [str(number) for number in range(9950, 10_000)]


async def test_an_end_is_told_by_its_error() -> None:
    """A browser that waits hears why there is no more, and so does one that comes to read later."""
    state = State()
    reader = state.join(10)
    await news(reader)
    waits = asyncio.ensure_future(reader.news())
    await asyncio.sleep(0)
    state.fail(ValueError("revoked"))
    for each in (waits, asyncio.ensure_future(reader.news())):
        with pytest.raises(ValueError, match="revoked"):
            await each


def second_of(history: History, second: int, ended: int) -> None:
    gauges = dict.fromkeys(GAUGES, float(second % 60))
    history.add(AT + second, gauges, {name: [0.1 * (1 + at % 7) for at in range(ended)] for name in TIMES})


def test_a_day_of_seconds_takes_as_much_as_one() -> None:
    """After more than a day of seconds the history holds as many bytes as at its begin, and tells each span."""
    history = History()
    second_of(history, 0, 3)
    before, last = history.size_bytes, DAY_S + 4000
    for second in range(1, DAY_S):
        second_of(history, second, 0 if second % 10 else 3)
    tracemalloc.start()
    try:
        for second in range(DAY_S, last + 1):
            second_of(history, second, 0 if second % 10 else 3)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert history.size_bytes == before < 700_000
    assert grown < 20_000
    now = AT + last
    for step_s, count in TIERS:
        told = history.told(step_s * count, now)
        assert told is not None
        assert told["step_s"] == step_s
        assert len(told["points"]) == count
        times = [point[0] for point in told["points"]]
        assert times == sorted(times)
        assert times[-1] <= now < times[-1] + step_s
    assert history.told(17, now) is None


def test_points_are_means_and_parts() -> None:
    """A longer point has the mean of its seconds, and of times the parts of all tasks in it, within 14 %."""
    history = History()
    begin = AT - AT % 60
    for second in range(60):
        gauges = {**dict.fromkeys(GAUGES, 0.0), "running": float(second)}
        history.add(begin + second, gauges, {"first_token": [0.1] * 9 + [2.0], "whole": []})
    told = history.told(DAY_S, begin + 59)
    assert told is not None
    point = dict(zip(told["names"], told["points"][-1], strict=True))
    assert point["running"] == 29.5
    assert point["first_token_p50_s"] == pytest.approx(0.1, rel=0.14)
    assert point["first_token_p95_s"] == pytest.approx(2.0, rel=0.14)
    assert point["whole_p50_s"] is None


def test_the_wheel_has_the_page() -> None:
    """All files of the page are in the wheel."""
    wheel = WheelBuilder(str(Path(__file__).parents[2]))
    packed = {Path(each.distribution_path).name for each in wheel.recurse_included_files() if "static" in each.path}
    assert {path.name for path in FOLDER.iterdir()} <= packed


def test_a_training_is_a_row() -> None:
    """What a page tells of a training: its place, how far it is, what it waits for, and why it failed."""
    training = Training(training_id="a", state=TRAINING_STATE_RUNNING, step=3, steps=9, loss=1.23456, tokens_per_s=41.6)
    training.spec.name, training.spec.model, training.waits_for = "topics", "base", "w" * 9000
    row = rows.training_row(training)
    assert (row["name"], row["model"], row["state"]) == ("topics", "base", "running")
    assert (row["step"], row["steps"], row["loss"], row["rate"]) == (3, 9, 1.2346, 42)
    assert len(row["waits"]) < 1000
    assert json.loads(json.dumps(row)) == row


def test_a_flag_is_a_row() -> None:
    """What a page tells of a flag: the rule, whose task it was, whether it was asked or answered, and how it reads."""
    flag = Flag(flag_id="f", rule="words", tenant="web", model="chat", input=True, state=FLAG_STATE_OPEN)
    flag.excerpt = "x" * 9000
    row = rows.flag_row(flag)
    told = (row["rule"], row["tenant"], row["model"], row["input"], row["state"])
    assert told == ("words", "web", "chat", True, "open")
    assert len(row["excerpt"]) < 1000
    assert json.loads(json.dumps(row)) == row


def test_each_section_that_may_fail_has_a_place_for_its_note() -> None:
    """The page has a section, and a table where there is one, for all that is named in its programs."""
    page, main = ((FOLDER / name).read_text() for name in ("index.html", "main.js"))
    sections = re.search(r"SECTIONS = \{(.*?)\}", main)
    assert sections is not None
    named = re.findall(r': "([a-z]+)"', sections[1])
    assert {"trainings", "flagged"} <= set(named)
    assert [name for name in named if f'<section id="{name}"' not in page] == []
    tables = re.findall(r'table\("([a-z-]+)"', (FOLDER / "lists.js").read_text())
    assert len(tables) >= 7
    assert [name for name in tables if f'<div id="{name}"' not in page] == []
