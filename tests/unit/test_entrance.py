"""The interceptor: what becomes of what methods raise."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from structlog.testing import capture_logs

from inferd.audit_settings import Audit
from inferd.auth_settings import Auth
from inferd.config import Limits
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.core.roles import BUILT_IN
from inferd.errors import TaskExpiredError
from inferd.runtime.certificates import Certificates
from inferd.runtime.clock import Clock
from inferd.runtime.front.access import Access
from inferd.runtime.front.bounds import Calls
from inferd.runtime.keyring import Keyring
from inferd.runtime.tickets import Tickets
from inferd.services.entrance import Entrance
from inferd.services.extents import Extents
from inferd.services.logins import Logins
from inferd.services.notes import Notes
from inferd.services.policies import CallPolicy
from inferd.tls_settings import Tls


class Call:
    """A call that is over: gRPC refuses whatever is done with it."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "unix:"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def time_remaining(self) -> None:
        return None

    async def read(self) -> Any:
        raise grpc.aio.UsageError("RPC already finished")

    async def abort_with_status(self, _: Any) -> None:
        raise grpc.aio.UsageError("RPC already finished")

    async def write(self, _: Any) -> None:
        raise grpc.aio.InternalError("Failed to execute a batch")


async def expire(_: Any, __: Any) -> None:
    raise TaskExpiredError("the deadline passed")


async def write(_: Any, call: Any) -> None:
    await call.write("late")


async def guarded(method: Any) -> Any:
    """What a method gives when it answers a call that is over."""
    calls, leases = (
        Calls(calls_limit=1, tenant_calls_limit=1),
        SimpleNamespace(check=lambda _: None, models_claimed=lambda *_: ()),
    )
    tasks = SimpleNamespace(knows=lambda *_: False, model_made=lambda *_: "")
    models = SimpleNamespace(traits=SimpleNamespace(aliases={}))
    known = {"leases": leases, "tasks": tasks, "models": models}
    front: Any = SimpleNamespace(
        calls=calls, agents=SimpleNamespace(calls=calls), clock=Clock(), access=Access(BUILT_IN), **known
    )
    policies = {"/inferd.v1.X/Y": CallPolicy("/inferd.v1.X/Y", Policy(Verb.READ, ResourceKind.HOST))}
    settings = Auth()
    logins = Logins(
        settings,
        Keyring(bytes(32), settings).verify,
        Certificates(Tls(), used=False),
        verify_ticket=Tickets(settings).verify,
        is_shared=False,
    )
    notes = Notes(cast("Any", SimpleNamespace(settings=Audit())), front.access, bytes(32))
    entrance = Entrance(front, logins, policies, Extents(Limits()), notes, message_limit_bytes=1024)
    handler = grpc.unary_unary_rpc_method_handler(method)
    details: Any = type("Details", (), {"method": "/inferd.v1.X/Y"})

    async def find(_: Any) -> Any:
        return handler

    wrapped: Any = await entrance.intercept_service(find, details)
    return await wrapped.unary_unary(HealthCheckRequest(), Call())


@pytest.mark.parametrize("method", [expire, write])
async def test_a_call_that_is_over_is_no_defect(method: Any) -> None:
    """An answer that comes when the client has gone, or its deadline has passed, is dropped and not logged."""
    with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
        await guarded(method)
    assert logged == []


async def test_a_defect_is_logged() -> None:
    """Whatever else a method raises is logged as a defect, once."""

    async def fail(_: Any, __: Any) -> None:
        raise ZeroDivisionError

    with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
        await guarded(fail)
    assert [(event["event"], event["log_level"]) for event in logged] == [("defect in a call", "error")]
