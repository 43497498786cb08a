"""Which models a call of a function may ask: it carries what its caller may run, and who that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.core.policy import NOTHING, Grant
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from inferd.core.task import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MayRun:
    """What whoever makes a call may run when it is made, and by what it is found out whether that still holds.

    Attributes:
        grant: Models.
        name: Of the principal; "" for one that is not known, of a kernel before this one.
        roles: Which it has.
        key_id: Its key; "" for none.
    """

    grant: Grant = NOTHING
    name: str = ""
    roles: tuple[str, ...] = ()
    key_id: str = ""


NOBODY = MayRun()


def allow_asks(spec: TaskSpec, may_run: MayRun) -> TaskSpec:
    """A task; where it is a call of a function, one that may ask the models that its caller may run."""
    work = spec.work
    if isinstance(work, task_pb2.Work) and work.WhichOneof("kind") == "call":
        may = work.call.may_ask
        may.allows.extend(may_run.grant.allows)
        may.denies.extend(may_run.grant.denies)
        may.principal, may.key_id = may_run.name, may_run.key_id
        may.roles.extend(may_run.roles)
    return spec


def asker_of(call: TaskSpec) -> MayRun:
    """Which models a call may ask, and for whom."""
    work = call.work
    may = work.call.may_ask if isinstance(work, task_pb2.Work) else task_pb2.Call().may_ask
    return MayRun(
        grant=Grant(tuple(may.allows), tuple(may.denies)),
        name=may.principal,
        roles=tuple(may.roles),
        key_id=may.key_id,
    )
