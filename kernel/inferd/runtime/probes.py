"""What versions answer to their probes: heard from their workers, and told the core."""

from __future__ import annotations

import uuid
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inferd.core.ids import TaskId
from inferd.core.probe import PROBE_TENANT, Probe, ProbeAnswer
from inferd.core.rollout_events import ProbeAnswered
from inferd.core.task import TaskSpec
from inferd.core.task_events import Output
from inferd.runtime.continuation import Continuation

if TYPE_CHECKING:
    from inferd.core.ids import InstanceId, ModelName
    from inferd.core.probe import ProbePrompt
    from inferd.core.task import Outcome
    from inferd.core.task_events import TaskEvent
    from inferd.runtime.driver import Driver


@dataclass(slots=True, eq=False)
class ProbeStream:
    """The answer to a prompt of a probe, as it comes: heard as a task's stream is, and followed by nobody.

    Attributes:
        began: When it was asked, on the kernel's clock in seconds.
        first_output_at: When the first token came; None before. Set by the relay.
        continuation: What a task would need to go on elsewhere; this is none.
    """

    began: float
    first_output_at: float | None = None
    continuation: Continuation = field(default_factory=Continuation)
    _texts: list[str] = field(default_factory=list)
    _token_ids: array[int] = field(default_factory=lambda: array("I"))

    def tell(self, event: TaskEvent) -> None:
        """It has told something: what is no output is of no interest."""
        if isinstance(event, Output):
            self.tell_tokens(event.text, array("I", event.token_ids))

    def tell_tokens(self, text: str, token_ids: array[int]) -> None:
        """More of the answer has come."""
        self._texts.append(text)
        self._token_ids.extend(token_ids)

    def end(self, outcome: Outcome, now: float) -> ProbeAnswer:
        """All of the answer."""
        return ProbeAnswer(
            text="".join(self._texts),
            token_ids=self._token_ids,
            reason=outcome.reason,
            first_s=None if self.first_output_at is None else self.first_output_at - self.began,
            whole_s=now - self.began,
            error=outcome.error,
        )

    def answered(self, instance_id: InstanceId, task_id: TaskId, outcome: Outcome, now: float) -> ProbeAnswered:
        """What the core is told of it."""
        return ProbeAnswered(instance_id, task_id, self.end(outcome, now))


async def with_references(driver: Driver, name: ModelName, probe: Probe | None) -> Probe | None:
    """A probe with what the version that serves answers, where it asks for agreement; the model is loaded for that.

    Raises:
        InferdError: It cannot answer, or not in time.
    """
    if probe is None or not probe.compares:
        return probe
    serving = driver.views.model(name).serving.number
    deadline = driver.clock.now() + driver.loading.limits.probe_s
    prompts = [
        replace(prompt, reference=await _answer(driver, name, prompt, deadline)) if prompt.agreement else prompt
        for prompt in probe.prompts
    ]
    return Probe(tuple(prompts), compared=serving)


async def _answer(driver: Driver, name: ModelName, prompt: ProbePrompt, deadline: float) -> array[int]:
    """The tokens that the version that serves answers a prompt with; the task ends with the call."""
    spec = TaskSpec(
        task_id=TaskId(uuid.uuid4().hex),
        tenant=PROBE_TENANT,
        model=name,
        demand=prompt.demand,
        work=prompt.work,
        deadline=deadline,
    )
    token_ids = array("I")
    stream = driver.submit(spec)
    driver.attendance.attend(stream, PROBE_TENANT, detached=False)
    try:
        async for batch in stream.follow(0):
            for told in batch:
                if isinstance(told.event, Output):
                    token_ids.extend(told.event.token_ids)
    finally:
        driver.attendance.leave(stream, PROBE_TENANT)
    if stream.finished is not None and stream.finished.outcome.error is not None:
        raise stream.finished.outcome.error
    return token_ids
