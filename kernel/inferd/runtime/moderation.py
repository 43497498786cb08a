"""Rules of moderation on their way to workers, and what workers say that they found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inferd.core.policy import matches_model
from inferd.core.principal import ANY
from inferd.moderation.rules import write_rules
from inferd_api.worker.v1 import moderation_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.ids import InstanceId, ModelName, TaskId
    from inferd.core.views import Views
    from inferd.moderation.rules import Rule
    from inferd.runtime.relay import Relay
    from inferd.runtime.supervisor import Supervisor
    from inferd_api.worker.v1 import step_pb2

MOST_NAMED = 100  # rules that are held against the names of models, each time that somebody looks


class Findings(Protocol):
    """Who sees to what workers find."""

    def flagged(self, task_id: TaskId, rule: str, excerpt: str, *, is_input: bool) -> None:
        """A person is to look at this."""

    def asked(self, question: Question, rule: Rule, text: str) -> None:
        """A classifier is to be asked; the answer goes to `Moderation.answer`."""

    def moderated(self, task_id: TaskId, rule: str, action: str, spans: int) -> None:
        """A rule has cut something of a task, ended it, or refused it."""


class Question:
    """Where the answer to a question goes. Never changes."""

    __slots__ = ("handle", "instance_id", "number", "task_id")

    def __init__(self, instance_id: InstanceId, task_id: TaskId, handle: int, number: int) -> None:
        self.instance_id, self.task_id, self.handle, self.number = instance_id, task_id, handle, number


class Moderation:
    """Has workers go by rules. One writer: the driver.

    A rule holds for what is sent to workers from its change on; what runs keeps the rules with which it was sent, until
    it ends or is sent again.

    Args:
        views: What may be read of the core.
        supervisor: The workers.
        relay: Which task a worker means.

    Attributes:
        rules: All of them.
        search_s: How long what a task was given may be searched.
        findings: Who sees to what is found; None until there is somebody.
    """

    def __init__(self, views: Views, supervisor: Supervisor, relay: Relay) -> None:
        self.rules: tuple[Rule, ...] = ()
        self.search_s = 0.0
        self._unread: set[ModelName] = set()  # models whose texts no rule looks at
        self.findings: Findings | None = None
        self._views = views
        self._supervisor = supervisor
        self._relay = relay
        self._given: dict[InstanceId, bytes] = {}

    def give(self, instance_id: InstanceId) -> None:
        """Have a worker go by the rules about its model, before it is sent its first task."""
        self._given[instance_id] = b""
        self._give(instance_id)
        worker, instance = self._supervisor.workers.get(instance_id), self._views.find_instance(instance_id)
        if worker is not None and instance is not None:
            (self._unread.add if worker.signature else self._unread.discard)(instance.model)

    def change(self, rules: Sequence[Rule]) -> None:
        """Have all go by other rules from now on."""
        self.rules = tuple(rules)
        self._given = {known: given for known, given in self._given.items() if known in self._supervisor.workers}
        for instance_id in self._given:
            self._give(instance_id)

    def _give(self, instance_id: InstanceId) -> None:
        worker, instance = self._supervisor.workers.get(instance_id), self._views.find_instance(instance_id)
        if worker is None or instance is None:
            return
        about = self._about(instance.model)
        written = write_rules(about) if about else b""
        if written != self._given[instance_id]:
            self._given[instance_id] = written
            worker.send(wire.KernelFrame(moderate=moderation_pb2.Moderate(rules=written, search_s=self.search_s)))

    def warnings(self) -> list[str]:
        """What whoever runs the kernel has to look at: rules that cannot be gone by, and those that look at nothing."""
        named = [rule for rule in self.rules if rule.models != ANY and not rule.unsound]
        names = self._views.model_names() if named else []
        told = [
            f"rule of moderation {rule.name!r} cannot be gone by as it was kept, and tasks that it is about are"
            " refused; `inferd moderation rules list` says why: delete it, and make it anew"
            for rule in self.rules
            if rule.unsound
        ]
        return told + [why for rule in named[:MOST_NAMED] if (why := self._idle(rule, names))]

    def _idle(self, rule: Rule, names: Sequence[ModelName]) -> str:
        """Why a rule that names models looks at nothing; "" where it looks at something."""
        about = [name for name in names if matches_model(rule.models, name)]
        said = f"rule of moderation {rule.name!r} looks at nothing: "
        if not about:
            meant = self._views.aliases.get(rule.models)
            why = (
                f"that is an alias of {meant!r}, and rules know models by their own names" if meant else "none is known"
            )
            return f"{said}it is about models {rule.models!r}, and {why}"
        if all(name in self._unread for name in about):
            return f"{said}{about[0]!r} turns tensors into tensors, or speech into text, whose texts no rule reads"
        return ""

    def _about(self, name: ModelName) -> list[Rule]:
        return [rule for rule in self.rules if matches_model(rule.models, name)]

    def told(self, instance_id: InstanceId, step: step_pb2.StepOutput) -> None:
        """What a step says of rules, if anything."""
        if self.findings is None or not (step.flagged or step.asked or step.moderated):
            return
        for flag in step.flagged:
            if (task := self._relay.find(instance_id, flag.handle)) is not None:
                self.findings.flagged(task.task_id, flag.rule, flag.excerpt, is_input=flag.input)
        for cut in step.moderated:
            if (task := self._relay.find(instance_id, cut.handle)) is not None:
                self.findings.moderated(task.task_id, cut.rule, cut.action, cut.spans)
        for asked in step.asked:
            if (task := self._relay.find(instance_id, asked.handle)) is None:
                continue
            question = Question(instance_id, task.task_id, asked.handle, asked.number)
            rule = next((each for each in self.rules if each.name == asked.rule), None)
            if rule is None or rule.classifier is None:
                self.answer(question, failed="the rule is there no more")
            else:
                self.findings.asked(question, rule, asked.text)

    def answer(self, question: Question, *, found: bool = False, failed: str = "") -> None:
        """Tell a worker what a classifier says, if it still has the task."""
        worker, task = self._supervisor.workers.get(question.instance_id), None
        if worker is not None:
            task = self._relay.find(question.instance_id, question.handle)
        if worker is None or task is None or task.task_id != question.task_id:
            return
        verdict = moderation_pb2.Verdict(handle=question.handle, number=question.number, found=found, failed=failed)
        worker.send(wire.KernelFrame(verdict=verdict))
