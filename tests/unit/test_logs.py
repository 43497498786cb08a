"""What is written of failures."""

import asyncio
import io
import logging
import subprocess
import sys
from typing import Any

import pytest
import structlog

from inferd import logs

SAID = "what a user said"


def fail() -> None:
    said = SAID
    try:
        {}[said]  # type: ignore[index]
    except KeyError as error:
        raise ValueError(f"not known: {said}") from error


def failure() -> ValueError:
    with pytest.raises(ValueError, match=SAID) as caught:
        fail()
    return caught.value


def check(text: str) -> None:
    assert SAID not in text
    assert [name for name in ("test_logs.py", "in fail", "KeyError", "ValueError") if name not in text] == []


def test_places_without_words() -> None:
    """An exception and its causes are described by their types and places, without words and values."""
    check(logs.describe(failure()))


def test_records_of_logging() -> None:
    """A record of the standard library's logging has the places of its exception and not its words."""
    formatter = logs.Formatter(logs.FORMAT)
    error = failure()
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", None, (type(error), error, error.__traceback__))
    check(formatter.format(record))


def test_events_of_structlog() -> None:
    """An event of structlog has the places of its exception, and neither its words nor the values of variables."""
    written = io.StringIO()
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=logs.write_exception)
    log: Any = structlog.wrap_logger(structlog.PrintLogger(written), processors=[renderer])
    try:
        fail()
    except ValueError:
        log.exception("failed")
    check(written.getvalue())


def test_event_loops(capsys: pytest.CaptureFixture[str]) -> None:
    """What an event loop has nobody to tell of is written with its places; objects in its context are left out."""
    loop = asyncio.new_event_loop()
    try:
        logs.tell_loop(loop, {"message": "never retrieved", "exception": failure(), "future": SAID})
    finally:
        loop.close()
    text = capsys.readouterr().err
    check(text)
    assert "never retrieved" in text


HOOKS: dict[str, str] = {
    "main": "fail()",
    "thread": "t = threading.Thread(target=fail); t.start(); t.join()",
    "destructor": "class X:\n    def __del__(self): fail()\nX()",
    "logging": "try: fail()\nexcept ValueError: logging.getLogger('x').exception('failed')",
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_process(name: str) -> None:
    """Whatever fails in a process that has installed this, no words of it reach stderr."""
    failing = f"def fail():\n    raise ValueError({SAID[:4]!r} + {SAID[4:]!r})"
    program = f"import logging, threading\nfrom inferd import logs\nlogs.install()\n{failing}\n{HOOKS[name]}\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "in fail" in done.stderr
    assert "ValueError" in done.stderr
    assert SAID not in done.stderr
