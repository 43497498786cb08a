"""The requests for a task, from the wire; that of `RunTask` and that of an order of `RunTasks` are the same."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from secrets import token_bytes
from time import time_ns

from inferd.core.task import TaskSpec
from inferd.errors import InvalidFieldError
from inferd.runtime.ask_grants import NOBODY, MayRun, allow_asks
from inferd.runtime.clock import Clock
from inferd.runtime.front.caller import Caller
from inferd.services.calls import check_request_id
from inferd.services.named import Named
from inferd.services.task_values import read_spec
from inferd.services.times import read_seconds, read_timestamp
from inferd_api.v1 import task_service_pb2 as ts

TIME_BYTES, RANDOM_BYTES = 6, 10  # of the id of a task
MOST_TTL_S = 3_153_600_000  # a hundred years


def new_task_id() -> str:
    """An id that nobody can guess, and that is above those of before: so a store has new tasks in few pages."""
    return (time_ns() // 1_000_000).to_bytes(TIME_BYTES).hex() + token_bytes(RANDOM_BYTES).hex()


def read_run(
    request: ts.RunTaskRequest,
    caller: Caller,
    *,
    prompt_limit_bytes: int,
    named: Mapping[int, Named],
    may_run: MayRun = NOBODY,
) -> TaskSpec:
    """A new task of a caller; `named` is what its inputs name elsewhere, `may_run` which models it may run.

    Raises:
        InferdError: As `read_spec`, or its `request_id` is too long.
    """
    check_request_id(request.request_id)
    spec = read_spec(
        request.spec,
        task_id=new_task_id(),
        tenant=caller.tenant,
        deadline=caller.deadline,
        request_id=request.request_id,
        lease_id=caller.lease_id,
        prompt_limit_bytes=prompt_limit_bytes,
        detached=request.detach_on_disconnect,
        named=named,
    )
    return allow_asks(spec, may_run)


def read_create(
    request: ts.CreateTaskRequest,
    caller: Caller,
    clock: Clock,
    *,
    prompt_limit_bytes: int,
    named: Mapping[int, Named],
    may_run: MayRun = NOBODY,
    repeated: bool = False,
) -> TaskSpec:
    """A new task that outlives its client; its deadline is not that of the call.

    When it expires is a part of what is asked for, where the request says it. That may have passed where the request is
    `repeated`.

    Raises:
        InferdError: As `read_run`, or it is to expire at no time that can be, or has already.
    """
    check_request_id(request.request_id)
    spec = read_spec(
        request.spec,
        task_id=new_task_id(),
        tenant=caller.tenant,
        deadline=None,
        request_id=request.request_id,
        lease_id=caller.lease_id,
        prompt_limit_bytes=prompt_limit_bytes,
        detached=True,
        named=named,
    )
    allow_asks(spec, may_run)
    deadline = _read_expiration(request, clock, repeated=repeated)
    if request.request_id and deadline is not None:
        asked = request.ttl if request.HasField("ttl") else request.expire_time
        spec = replace(
            spec, fingerprint=sha256(spec.fingerprint + asked.SerializeToString(deterministic=True)).digest()
        )
    return spec if deadline is None else replace(spec, deadline=deadline)


def _read_expiration(request: ts.CreateTaskRequest, clock: Clock, *, repeated: bool) -> float | None:
    kind, now = request.WhichOneof("expiration"), clock.now()
    if kind == "ttl":
        ttl_s = read_seconds(request.ttl, "ttl")
        if not 0 < request.ttl.ToNanoseconds() <= MOST_TTL_S * 10**9:  # as a float it is not told exactly
            raise InvalidFieldError(f"ttl is {ttl_s:g} s; it must be above 0 and at most {MOST_TTL_S} s", field="ttl")
        return now + ttl_s
    if kind == "expire_time":
        at = clock.instant(read_timestamp(request.expire_time, "expire_time"))
        if at > now + MOST_TTL_S or (at <= now and not repeated):
            message = f"expire_time is {at - now:g} s from now; it must be after now, and at most {MOST_TTL_S} s"
            raise InvalidFieldError(message, field="expire_time")
        return at
    return None
