"""A task that is under rules, on its way through the screening."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.moderation import ModerationAction as Action
from inferd.errors import ModerationUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.task_events import PromptOutput
    from inferd.engine.moderation.inquiry import Asked
    from inferd.engine.moderation.outlet import Outlet
    from inferd.engine.moderation.output import Flag
    from inferd.engine.token.intake import Intake
    from inferd.engine.token.output import Ended, SampleEnd
    from inferd.engine.token.submission import Submission
    from inferd.errors import InferdError
    from inferd.moderation.rules import Rule
    from inferd.moderation.screen import Ruling


@dataclass(slots=True, eq=False)
class Screened:
    """A task that is under rules. One writer: the screening's thread, once it was submitted, but for `given_up`."""

    submission: Submission
    inputs: tuple[Rule, ...]
    outputs: tuple[Rule, ...]
    ruling: Ruling | None = None
    intake: Intake | None = None
    outlets: dict[int, Outlet] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    ends: dict[int, SampleEnd] = field(default_factory=dict)
    ended: Ended | None = None
    error: InferdError | None = None
    questions: dict[int, tuple[int, Asked | None, Rule]] = field(default_factory=dict)
    asked: int = 0
    inputs_open: set[int] = field(default_factory=set)  # questions about what it was given
    embedding: tuple[float, ...] | None = None
    prompt: PromptOutput | None = None  # held until its input is cleared
    flags: list[Flag] = field(default_factory=list)  # of what it was given, one for each rule
    flagged: set[str] = field(default_factory=set)  # rules that have flagged what it gives
    unasked: deque[tuple[Rule, str]] = field(default_factory=deque)  # windows of what it was given
    given_up: bool = False  # nobody wants it any more; set by whoever hears that

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.submission.sampling.samples)

    @property
    def hides(self) -> bool:
        """Whether there are words that it must not show, so neither as what else the model might have said."""
        return any(rule.action in (Action.STOP, Action.REDACT) for rule in self.outputs)

    def leash(self, bound_s: float) -> Callable[[], None]:
        """What is called from time to time while what it was given is searched.

        It raises ModerationUnavailableError when nobody wants the task any more, or that takes longer than the bound.
        """
        end = time.monotonic() + bound_s

        def go_on() -> None:
            if self.given_up:
                raise ModerationUnavailableError("nobody waits for the task any more")
            if (late_s := time.monotonic() - end) > 0:
                name = self.inputs[0].name
                raise ModerationUnavailableError(
                    f"rules look at what the task was given for {bound_s + late_s:.3g} s, and may for {bound_s:g} s"
                    " (moderation.search_s); give it less, or have fewer patterns",
                    metadata={
                        "rule": name,
                        "on": "input",
                        "bound": "moderation.search_s",
                        "limit": f"{bound_s:g}",
                        "cause": "late",
                    },
                )

        return go_on

    def check_rules(self) -> None:
        """Refuse it where a rule about it cannot be gone by: what that would find is not known.

        Raises:
            ModerationUnavailableError: There is one.
        """
        rule = next((each for each in (*self.inputs, *self.outputs) if each.unsound), None)
        if rule is not None:
            raise ModerationUnavailableError(
                f"rule {rule.name!r} is about this task, and cannot be gone by as it was kept; who makes rules sees why"
                f" by `inferd moderation rules list`, and has to delete it: inferd moderation rules delete {rule.name}",
                metadata={"rule": rule.name, "cause": "unsound rule"},
            )
