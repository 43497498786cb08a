"""Questions of calls that break what answers them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.core.ids import InstanceId, TaskId
from inferd.errors import InferdError, InvalidFieldError
from inferd.runtime.front.asking import Asking
from inferd.runtime.moderation import Question
from inferd.services.ask_values import AskWire

IN_FLIGHT = 2


class Kernel:
    """Of a driver what asking needs: it knows all calls, and keeps how questions were answered."""

    def __init__(self) -> None:
        self.asks = self.views = self
        self.answered: asyncio.Queue[tuple[int, InferdError | None]] = asyncio.Queue()

    def run_by(self, _: Any) -> None: ...

    def find_task(self, _: TaskId) -> Any:
        return SimpleNamespace(spec=None)

    def answer(self, question: Question, _: Any, *, error: InferdError | None) -> None:
        self.answered.put_nowait((question.number, error))


class Breaking:
    """A wire that is broken by whatever is asked."""

    def read(self, written: bytes) -> Any:
        raise RuntimeError(written)


@pytest.mark.asyncio
async def test_a_question_that_cannot_be_answered_holds_up_no_other() -> None:
    """However many questions break what answers them, each is answered by an error."""
    kernel, nobody = Kernel(), Any
    asking = Asking(
        kernel,  # type: ignore[arg-type] # what it needs of it
        nobody,
        Breaking(),  # type: ignore[arg-type] # likewise
        in_flight=IN_FLIGHT,
        timeout_s=60,
        memos=nobody,
        holds=lambda *_: True,
    )
    for number in range(2 * IN_FLIGHT + 1):
        asking.asked(Question(InstanceId("i"), TaskId("t"), 1, number), b"{}")
    async with asyncio.timeout(60):
        told = dict([await kernel.answered.get() for _ in range(2 * IN_FLIGHT + 1)])
    assert {number: error.reason for number, error in told.items() if error} == dict.fromkeys(told, "INTERNAL")
    assert len(told) == 2 * IN_FLIGHT + 1


@pytest.mark.parametrize(
    "asked",
    [
        {"do": "score", "task": {"model": "fake", "prompt": "a"}, "endings": ["\ud800"]},
        {"do": "remember", "name": "\ud800", "kept": "1", "after": 0},
    ],
)
def test_half_a_character_is_refused_where_it_is_asked(asked: Any) -> None:
    """No text of a question and no name of what is kept has half a character, which cannot be written as UTF-8."""
    with pytest.raises(InvalidFieldError, match="cannot be read"):
        AskWire(1000).read(json.dumps(asked).encode())
