"""What calls of functions ask of models, on its way from their workers, and what comes of it on its way back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from inferd.core.task_events import Asked
from inferd.errors import InternalError
from inferd.runtime.moderation import Question
from inferd.runtime.stream import TaskStream
from inferd_api.worker.v1 import ask_pb2, failure_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.ids import InstanceId
    from inferd.core.task import Usage
    from inferd.errors import InferdError
    from inferd.runtime.relay import Relay
    from inferd.runtime.supervisor import Supervisor
    from inferd_api.worker.v1 import step_pb2


class Runner(Protocol):
    """Who has models asked."""

    def asked(self, question: Question, written: bytes) -> None:
        """A call asks this, as JSON; the answer goes to `Asks.answer`."""

    def let_go(self, instance_id: InstanceId, handle: int) -> None:
        """A worker holds a task no longer: nobody waits for what it may have asked."""


class Asks:
    """Hands on what calls ask, and what comes of it. One writer: the driver.

    Args:
        supervisor: The workers.
        relay: Which task a worker means.
    """

    def __init__(self, supervisor: Supervisor, relay: Relay) -> None:
        self._supervisor = supervisor
        self._relay = relay
        self._runner: Runner | None = None

    def run_by(self, runner: Runner) -> None:
        """Have models asked by this."""
        self._runner = runner
        self._relay.let_go = runner.let_go

    def told(self, instance_id: InstanceId, step: step_pb2.StepOutput) -> None:
        """What a step asks, if anything."""
        for asked in step.asks:
            if (task := self._relay.find(instance_id, asked.handle)) is None:
                continue
            question = Question(instance_id, task.task_id, asked.handle, asked.number)
            if self._runner is None:
                self.answer(question, error=InternalError("this kernel asks no models for functions"))
            else:
                self._runner.asked(question, asked.json)

    def count(self, question: Question, usage: Usage) -> None:
        """A task has run for a call: that is told with its end."""
        task = self._relay.find(question.instance_id, question.handle)
        if task is not None and task.task_id == question.task_id and isinstance(task.stream, TaskStream):
            so_far = task.stream.asked
            task.stream.asked = Asked(
                so_far.tasks + 1,
                so_far.prompt_tokens + usage.prompt_tokens,
                so_far.output_tokens + usage.output_tokens,
            )

    def answer(
        self, question: Question, given: Mapping[str, Any] | None = None, *, error: InferdError | None = None
    ) -> None:
        """Tell a worker what has come of a question, if it still has the call."""
        worker, task = self._supervisor.workers.get(question.instance_id), None
        if worker is not None:
            task = self._relay.find(question.instance_id, question.handle)
        if worker is None or task is None or task.task_id != question.task_id:
            return
        reply = ask_pb2.Reply(handle=question.handle, number=question.number)
        if error is None:
            reply.json = json.dumps(given).encode()
        else:  # as who is outside may know it: a function tells its caller
            facts = {} if error.outside else error.metadata | ({"field": error.field} if error.field else {})
            reply.failure.CopyFrom(
                failure_pb2.Failure(reason=error.reason, message=error.outside or error.message, metadata=facts)
            )
        worker.send(wire.KernelFrame(reply=reply))
