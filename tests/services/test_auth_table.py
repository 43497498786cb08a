"""Every call of the wire, with every kind of login, gives what the table of roles says."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from guarded import Guarded, Metadata, bearer, guarded

from inferd.core.policy import ResourceKind as Kind
from inferd.core.policy import Verb
from inferd.services.policies import read_policies
from inferd_api.agent.v1 import agent_service_pb2
from inferd_api.inference import grpc_service_pb2
from inferd_api.v1 import (
    adapter_service_pb2,
    audit_service_pb2,
    auth_service_pb2,
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    explanation_service_pb2,
    federation_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    invite_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    moderation_service_pb2,
    pipeline_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
    upload_service_pb2,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = [
    service
    for module in (
        adapter_service_pb2,
        audit_service_pb2,
        auth_service_pb2,
        blob_service_pb2,
        dataset_service_pb2,
        evaluation_service_pb2,
        explanation_service_pb2,
        federation_service_pb2,
        function_service_pb2,
        grpc_service_pb2,
        host_service_pb2,
        index_service_pb2,
        invite_service_pb2,
        agent_service_pb2,
        lease_service_pb2,
        model_service_pb2,
        moderation_service_pb2,
        pipeline_service_pb2,
        quota_service_pb2,
        task_service_pb2,
        training_service_pb2,
        upload_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
POLICIES = read_policies(SERVICES)
METHODS = {
    method.full_name: method
    for service in SERVICES
    for method in service.methods
    if POLICIES[f"/{service.full_name}/{method.name}"].policy.kind is not Kind.HEALTH  # which is told to whoever asks
}
ROLES = ("nothing", "viewer", "user", "operator", "admin")
LEAST: dict[tuple[Verb, Kind], str] = {
    (Verb.READ, Kind.IDENTITY): "nothing",
    **{(Verb.READ, kind): "viewer" for kind in (Kind.TASK, Kind.LEASE, Kind.BLOB, Kind.MODEL, Kind.HOST, Kind.QUOTA)},
    (Verb.READ, Kind.FUNCTION): "viewer",
    (Verb.READ, Kind.DATASET): "viewer",
    (Verb.READ, Kind.FEDERATION): "viewer",
    **{(verb, Kind.FEDERATION): "user" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    (Verb.RUN, Kind.FEDERATION): "admin",  # and "federation-client"
    **{(verb, Kind.DATASET): "user" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    (Verb.READ, Kind.INDEX): "viewer",
    **{(verb, Kind.INDEX): "user" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    **{(verb, Kind.TASK): "user" for verb in (Verb.RUN, Verb.UPDATE, Verb.DELETE)},
    **{(verb, Kind.LEASE): "user" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    (Verb.CREATE, Kind.UPLOAD): "user",
    **{(verb, Kind.BLOB): "user" for verb in (Verb.CREATE, Verb.DELETE)},
    (Verb.RUN, Kind.MODEL): "user",
    **{(verb, Kind.MODEL): "operator" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    (Verb.READ, Kind.AUDIT): "admin",
    **{(verb, Kind.HOST): "admin" for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)},
    **{(verb, Kind.AGENT): "admin" for verb in (Verb.CREATE, Verb.RUN)},
    **{(verb, Kind.STORE): "admin" for verb in (Verb.CREATE, Verb.READ, Verb.UPDATE, Verb.DELETE)},
    **{(verb, Kind.KEY): "admin" for verb in (Verb.CREATE, Verb.READ, Verb.UPDATE, Verb.DELETE)},
    **{(verb, Kind.QUOTA): "admin" for verb in (Verb.CREATE, Verb.DELETE)},
    **{(verb, Kind.RULE): "admin" for verb in (Verb.CREATE, Verb.READ, Verb.UPDATE, Verb.DELETE)},
}
"""The lowest role that may make a call with such a policy; those above it may, too."""
DOOR = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A kernel that needs a login, for tests that leave it as it is."""
    async with guarded(tmp_path_factory.mktemp("kernel"), auth={"failed_logins": 1000}) as made:
        yield made


async def code(kernel: Guarded, method: Any, metadata: Metadata) -> grpc.StatusCode:
    """How a call with an empty request ends at the door, or behind it; OK for a stream that tells something."""
    kinds = {
        (False, False): kernel.tcp.channel.unary_unary,
        (False, True): kernel.tcp.channel.unary_stream,
        (True, True): kernel.tcp.channel.stream_stream,
    }
    made = kinds[method.client_streaming, method.server_streaming](
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = GetMessageClass(method.input_type)()
    call: Any = made(iter(()) if method.client_streaming else request, metadata=metadata)
    try:
        async with asyncio.timeout(30):
            await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()
    return grpc.StatusCode.OK


async def codes(kernel: Guarded, metadata: Metadata) -> dict[str, grpc.StatusCode]:
    return {name: await code(kernel, method, metadata) for name, method in METHODS.items()}


async def test_every_call_has_a_policy_that_the_table_knows() -> None:
    """Each call of the wire states a policy, and the table of this test says who may make it."""
    assert len(METHODS) > 40
    found = {(each.policy.verb, each.policy.kind) for each in map(policy_of, METHODS.values())}
    assert found == set(LEAST)


def policy_of(method: Any) -> Any:
    return POLICIES[f"/{method.containing_service.full_name}/{method.name}"]


async def test_whoever_is_not_known_is_refused(kernel: Guarded) -> None:
    """Without a credential, with a wrong one, one that was revoked and one that has expired: UNAUTHENTICATED."""
    made, gone = await kernel.key(roles=["admin"]), await kernel.key(roles=["admin"])
    await kernel.made.RevokeKey(auth_service_pb2.RevokeKeyRequest(key_id=gone.key.key_id))
    soon = Timestamp()
    soon.FromNanoseconds(int((time.time() + 1) * 1e9))
    late = bearer((await kernel.key(roles=["admin"], expire_time=soon)).credential)
    async with asyncio.timeout(30):
        while await code(kernel, METHODS["inferd.v1.AuthService.WhoAmI"], late) is grpc.StatusCode.OK:
            pass
    for metadata in ((), bearer(made.credential[:-4] + "0000"), bearer(gone.credential), late):
        assert set((await codes(kernel, metadata)).values()) == {grpc.StatusCode.UNAUTHENTICATED}


async def test_another_tenant_is_refused(kernel: Guarded) -> None:
    """Whoever names a tenant that is not its own is refused, whatever its role, before anything is looked at."""
    admin = (*await kernel.login("admin", tenants=["mine"]), ("inferd-tenant", "theirs"))
    assert set((await codes(kernel, admin)).values()) == {grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_may_what_the_table_says(kernel: Guarded, role: str) -> None:
    """A call passes the door if its policy is for the role or one below, and is PERMISSION_DENIED if not."""
    login = await kernel.login(
        *([] if role == "nothing" else [role]), tenants=["*"]
    )  # some calls are about all of them
    found = await codes(kernel, login)
    assert {name for name, ended in found.items() if ended not in DOOR} == {
        name
        for name, method in METHODS.items()
        if ROLES.index(role) >= ROLES.index(LEAST[policy_of(method).policy.verb, policy_of(method).policy.kind])
    }
    assert grpc.StatusCode.UNAUTHENTICATED not in found.values()


async def test_a_client_of_federations_may_nothing_else(kernel: Guarded) -> None:
    """The role joins, asks and answers; of all other calls only those that everybody has are let in."""
    found = await codes(kernel, await kernel.login("federation-client", tenants=["default"]))
    allowed = {name for name, how in found.items() if how not in DOOR}
    everybody = {name for name, each in METHODS.items() if policy_of(each).policy.kind is Kind.IDENTITY}
    own = {f"inferd.v1.FederationService.{name}" for name in ("JoinFederation", "PollRound", "SubmitRoundPart")}
    assert allowed == everybody | own
