"""Which models a call of a function may ask: it carries what its caller may run, for as long as it lives."""

from inferd.core.policy import Grant
from inferd.core.task import TaskSpec
from inferd_api.worker.v1 import task_pb2


def allow_asks(spec: TaskSpec, may_run: Grant) -> TaskSpec:
    """A task; where it is a call of a function, one that may ask the models that its caller may run."""
    work = spec.work
    if isinstance(work, task_pb2.Work) and work.WhichOneof("kind") == "call":
        work.call.may_ask.allows.extend(may_run.allows)
        work.call.may_ask.denies.extend(may_run.denies)
    return spec


def grant_of(call: TaskSpec) -> Grant:
    """Which models a call may ask."""
    work = call.work
    may = work.call.may_ask if isinstance(work, task_pb2.Work) else task_pb2.Call().may_ask
    return Grant(tuple(may.allows), tuple(may.denies))
