"""Where tasks come in: who is slow to prepare delays his own, and is ended when nobody wants him any more."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from shared_cells import fake_cells

from inferd.core.ids import Tenant
from inferd.core.task import FinishReason
from inferd.engine.cells.pool import Pool
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.reception import AT_ONCE, EACH
from inferd.engine.token.submission import Share, Submission
from inferd.engine.work import ChatInput, Message
from inferd.errors import ChatTemplateError, InferdError
from inferd.plugin import LoadRequest
from inferd.sampling import Sampling
from inferd.testing.fake import VOCABULARY, FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
HANGS = (
    "{% if messages[0].content == 'slow' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}<|user|>{{ messages[0].content }}<|end|>"
)


class Running:
    """A loop over the fake model whose template hangs for "slow", without end; knows the cells that work."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, template_timeout_s: float) -> None:
        self.working: queue.SimpleQueue[int] = queue.SimpleQueue()  # their process ids, as they begin
        take = Pool._take

        def note(pool: Pool) -> Any:
            cell = take(pool)
            self.working.put(cell.pid)
            return cell

        monkeypatch.setattr(Pool, "_take", note)
        monkeypatch.setattr("inferd.engine.token.reception.PATIENCE_S", 0.0)
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        model = FakeBackend().load(request, lambda _: None)
        model = replace(model, vocabulary=replace(VOCABULARY, chat_template=HANGS))
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        limits = EngineLimits(template_timeout_s=template_timeout_s)
        self.loop = Loop(model, limits, self.outputs.put, cells=fake_cells())
        self.ends: dict[int, FinishReason | InferdError] = {}
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.working.get(timeout=DEADLINE_S)  # the one that is ready for the first conversation

    def chat(self, handle: int, text: str, tenant: str = "a", priority: int = 2) -> None:
        self.loop.submit(
            Submission(
                handle,
                ChatInput((Message("user", text),)),
                Sampling(temperature=0, max_tokens=10),
                priority=priority,
                share=Share(tenant=Tenant(tenant)),
            )
        )

    def begin(self, count: int) -> list[int]:
        """The process ids of the next cells that begin."""
        return [self.working.get(timeout=DEADLINE_S) for _ in range(count)]

    def end(self, *handles: int) -> list[FinishReason | InferdError]:
        """How tasks end."""
        while not set(handles) <= set(self.ends):
            for ended in self.outputs.get(timeout=DEADLINE_S).ended:
                self.ends[ended.handle] = ended.error or ended.reason
        return [self.ends[handle] for handle in handles]


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """One whose template may take for ever."""
    running = Running(tmp_path, monkeypatch, template_timeout_s=10**6)
    yield running
    running.loop.stop()
    running.thread.join(DEADLINE_S)
    assert not running.thread.is_alive()


def test_another_tenant_is_prepared_at_once(patient: Running) -> None:
    """Whatever one tenant has sent before, of whatever class, another one's conversation is prepared beside it."""
    for handle in range(20):
        patient.chat(handle, "slow", priority=3)
    patient.begin(EACH)
    for handle in (100, 101, 102):
        patient.chat(handle, "quick", "b", priority=1)
        assert patient.end(handle) == [FinishReason.END_OF_TEXT]
    assert not set(range(20)) & set(patient.ends)


def test_who_waits_for_his_turn_is_not_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of time begins with the work: a quick conversation behind slow ones of its tenant is not refused."""
    running = Running(tmp_path, monkeypatch, template_timeout_s=1.0)
    slow = range(2 * EACH)
    for handle in slow:
        running.chat(handle, "slow")
    running.chat(100, "quick")
    assert running.end(100) == [FinishReason.END_OF_TEXT]
    assert {type(end) for end in running.end(*slow)} == {ChatTemplateError}
    running.loop.stop()
    running.thread.join(DEADLINE_S)


def test_what_is_cancelled_ends_at_once(patient: Running) -> None:
    """A cell that works for a task that is cancelled is ended, and the next one of its tenant has its turn."""
    for handle in range(EACH):
        patient.chat(handle, "slow")
    cells = [psutil.Process(pid) for pid in patient.begin(EACH)]
    patient.chat(50, "slow")
    patient.chat(100, "quick")
    patient.loop.cancel(50)  # it has no turn yet
    patient.loop.cancel(0)
    assert patient.end(100) == [FinishReason.END_OF_TEXT]
    assert len([cell for cell in cells if not cell.is_running() or cell.status() == psutil.STATUS_ZOMBIE]) == 1
    assert 50 not in patient.ends


def test_a_loop_that_ends_waits_for_nobody(patient: Running) -> None:
    """A loop that is stopped ends, whatever hangs."""
    for handle in range(2 * AT_ONCE):
        patient.chat(handle, "slow", f"{handle}")
    cells = [psutil.Process(pid) for pid in patient.begin(AT_ONCE)]
    patient.loop.stop()
    patient.thread.join(DEADLINE_S)
    assert not patient.thread.is_alive()
    gone, alive = psutil.wait_procs(cells, DEADLINE_S)
    assert (len(gone), alive) == (AT_ONCE, [])
