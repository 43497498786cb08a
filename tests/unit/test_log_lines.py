"""How a kernel writes its log: as JSON or for people, from levels by name, and a line for each task that ends."""

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from inferd.core import changes
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import FinishReason, Outcome, TaskChange, TaskSpec, TaskState, Usage
from inferd.core.task_events import Finished, Receipt
from inferd.errors import BackendFailedError
from inferd.log_lines import LogLines
from inferd.runtime.telemetry.task_lines import TaskLines
from inferd.telemetry_settings import Logs

SAID = "what a user said"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The log of the tests is theirs again afterwards."""
    root, names = logging.getLogger(), ("inferd", "inferd.runtime", "inferd.tasks", "other")
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def fail() -> None:
    said = SAID
    raise ValueError(said)


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of structlog and of logging are JSON with a time, a level and a name; of exceptions their places alone."""
    lines = LogLines(Logs(format="json"))
    structlog.get_logger("inferd.here").info("began", count=3, where="a\nb")
    logging.getLogger("other").warning("of a %s", "library")
    try:
        fail()
    except ValueError as error:
        structlog.get_logger("inferd.here").exception("failed")
        logging.getLogger("other").exception("failed, too")
        lines.write("uncaught", error)
        lines.tell_loop(None, {"message": "never retrieved", "exception": error, "future": SAID})  # type: ignore[arg-type] # it is not looked at
    found = told(capsys)
    assert [(each["level"], each["logger"], each["event"]) for each in found] == [
        ("info", "inferd.here", "began"),
        ("warning", "other", "of a library"),
        ("error", "inferd.here", "failed"),
        ("error", "other", "failed, too"),
        ("error", "inferd", "uncaught"),
        ("error", "inferd", "never retrieved"),
    ]
    assert (found[0]["count"], found[0]["where"]) == (3, "a\nb")
    assert all(each["timestamp"].endswith("Z") for each in found)
    for each in found[2:]:
        assert "in fail" in each["exception"]
        assert SAID not in json.dumps(each)


def test_lines_for_people_have_places_and_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    """So it is on a console, whoever speaks."""
    LogLines(Logs())
    try:
        fail()
    except ValueError:
        structlog.get_logger("inferd.here").exception("failed")
        logging.getLogger("other").exception("failed")
    text = capsys.readouterr().err
    assert text.count("in fail") >= 2
    assert SAID not in text


def test_levels_are_by_name_and_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A level counts for all whose names begin so; what is no longer named is as the rest again."""
    lines = LogLines(Logs(format="json", level="warning", levels={"inferd.runtime": "debug", "other": "error"}))

    def speak() -> list[str]:
        for name in ("inferd.cli", "inferd.runtime.x", "other"):
            for level in ("debug", "info", "warning", "error"):
                getattr(structlog.get_logger(name), level)(f"{name} {level}")
        return [each["event"] for each in told(capsys)]

    first = speak()
    assert [each for each in first if each.startswith("inferd.cli")] == ["inferd.cli warning", "inferd.cli error"]
    assert len([each for each in first if each.startswith("inferd.runtime")]) == 4
    assert [each for each in first if each.startswith("other")] == ["other error"]
    lines.set_levels(Logs(level="error"))
    assert speak() == ["inferd.cli error", "inferd.runtime.x error", "other warning", "other error"]


def test_a_logger_of_a_module_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A logger without a name is told by the module that speaks: that is what `logs.levels` names."""
    from inferd.runtime import store_state  # noqa: PLC0415 - whose logger was made before logs were set up

    LogLines(Logs(format="json"))
    store_state.StoreState("x", lambda: None).failed(BackendFailedError("y"))
    assert told(capsys)[0]["logger"] == "inferd.runtime.store_state"


class Ended:
    """Tasks that have ended, and who tells of them on a clock that is set by hand."""

    def __init__(self, per_s: float) -> None:
        self.now = 0.0
        spec = TaskSpec(
            task_id=TaskId("t"),
            tenant=Tenant("a"),
            model=ModelName("m"),
            work=SAID,
            labels={SAID: SAID},
            priority=Priority.HIGH,
            operation="chat",
        )
        views: Any = SimpleNamespace(find_task=lambda _: SimpleNamespace(spec=spec))
        self.lines = TaskLines(views, per_s, now=lambda: self.now)

    def end(self) -> None:
        usage = Usage(prompt_tokens=7, cached_tokens=4, output_tokens=2)
        error = BackendFailedError(SAID)
        outcome = Outcome(state=TaskState.FAILED, reason=FinishReason.MAX_TOKENS, error=error, usage=usage)
        receipt = Receipt(
            queue_s=0.25,
            first_token_s=0.5,
            run_s=1.0,
            backend="cpu",
            device="cpu:0",
            worker_memory_bytes=5,
            device_s=0.75,
        )
        change = changes.TaskChanged(
            TaskId("t"), Tenant("a"), ModelName("m"), TaskChange.FAIL, TaskState.FAILED, 1, None
        )
        self.lines.ended(change, Finished(outcome, receipt))


def test_a_line_of_a_task_has_its_receipt_and_nothing_of_its_content() -> None:
    """Who, what, how long and how many tokens; no prompt, no label, and of an error its reason."""
    with capture_logs() as said:
        Ended(10).end()
    (line,) = said
    assert SAID not in str(line)
    facts = {"task_id": "t", "tenant": "a", "model": "m", "state": "failed", "error": "BACKEND_FAILED"}
    amounts = {"queue_s": 0.25, "first_token_s": 0.5, "run_s": 1.0, "device_s": 0.75, "prompt_tokens": 7}
    assert facts.items() | amounts.items() <= line.items()


def test_lines_of_tasks_are_bounded_and_the_rest_is_counted() -> None:
    """Twice as many as a second has come at once, then none; the first later one is behind the number of the others."""
    ended = Ended(2)
    with capture_logs() as said:
        for _ in range(100):
            ended.end()
        assert len(said) == 4
        ended.now = 0.5
        ended.end()
    assert [each.get("tasks") for each in said[4:]] == [96, None]
