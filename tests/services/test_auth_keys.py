"""Keys: how they are made, what is known by them, and that nobody else learns anything of them."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from guarded import bearer, bytes_of, failing, guarded, refused
from structlog.testing import capture_logs
from typer.testing import CliRunner

from inferd.cli import main
from inferd.cli.serve import how_to_log_in
from inferd.core.key import Secret
from inferd.errors import InvalidFieldError
from inferd.places import own_socket
from inferd.services.calls import Said
from inferd.testing.kernel import OPEN_PORT, kernel_here
from inferd_api.v1 import auth_pb2 as ap
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_client import AsyncClient

ME = asp.WhoAmIRequest()


async def test_a_key_says_who_calls(tmp_path: Path) -> None:
    """A call is its principal's by the key that it carries; without one it is refused over TCP, not on the socket."""
    async with guarded(tmp_path) as kernel:
        made = await kernel.key(tenants=["a", "b"])
        assert re.fullmatch(r"ik_[0-9a-f]{16}_[0-9a-f]{64}", made.credential)
        assert made.credential.split("_")[1] == made.key.key_id
        said = await kernel.auth.WhoAmI(ME, metadata=bearer(made.credential))
        assert said.principal == ap.Principal(name="anna", roles=["user"], tenants=["a", "b"])
        assert (said.tenant, said.key_id) == ("a", made.key.key_id)
        assert (await kernel.auth.WhoAmI(ME, metadata=bearer(made.credential, "b"))).tenant == "b"
        assert (await refused(kernel.auth.WhoAmI(ME)))[0] == "UNAUTHENTICATED"
        assert (await kernel.made.WhoAmI(ME)).principal.name == "local"


async def test_a_wrong_key_says_nothing_of_the_right_one(tmp_path: Path) -> None:
    """Whatever is wrong with a credential, the status has the same bytes, on the socket, too."""
    async with guarded(tmp_path, auth={"failed_logins": 1000}) as kernel:
        made, revoked = await kernel.key(), await kernel.key()
        await kernel.made.RevokeKey(asp.RevokeKeyRequest(key_id=revoked.key.key_id))
        right, secret = made.credential, made.credential.split("_")[2]
        wrong = [
            right[:-1] + ("0" if right[-1] != "0" else "1"),
            f"ik_{'0' * 16}_{secret}",
            f"ik_{made.key.key_id}_",
            right.upper(),
            f"{right}0",
            revoked.credential,
            "x.y.z",
            "",
        ]
        headers = [f"Bearer {each}" for each in wrong] + [right, f"Basic {right}", f"Bearer  {right}"]
        told = set()
        for header in headers:
            for stub in (kernel.auth, kernel.made):
                told.add(bytes_of(await failing(stub.WhoAmI(ME, metadata=(("authorization", header),)))))
        assert len(told) == 1
        assert told.pop()[0] is grpc.StatusCode.UNAUTHENTICATED
        await kernel.auth.WhoAmI(ME, metadata=(("authorization", f"bEARER {right}"),))


async def test_health_is_told_to_all_and_nothing_else(tmp_path: Path) -> None:
    """Without a login the kernel's own health is told, and no other name's; a login that is wrong is refused there."""
    async with guarded(tmp_path) as kernel:
        health: Any = health_pb2_grpc.HealthStub(kernel.tcp.channel)
        assert (await health.Check(hp.HealthCheckRequest())).status == hp.HealthCheckResponse.SERVING
        for name in ("model:fake", "inferd.v1.TaskService", "x"):
            assert (await refused(health.Check(hp.HealthCheckRequest(service=name))))[0] == "UNAUTHENTICATED"
            assert (await refused(health.Watch(hp.HealthCheckRequest(service=name))))[0] == "UNAUTHENTICATED"
        request = hp.HealthCheckRequest(service="inferd.v1.TaskService")
        assert (await health.Check(request, metadata=await kernel.login())).status
        assert (await refused(health.Check(hp.HealthCheckRequest(), metadata=bearer("x"))))[0] == "UNAUTHENTICATED"


async def test_a_tenant_is_one_of_those_that_the_identity_has(tmp_path: Path) -> None:
    """The header chooses among the identity's tenants; another one's ids are NOT_FOUND, with the bytes of no id."""
    async with guarded(tmp_path) as kernel:
        me, they = await kernel.login("user", tenants=["mine"]), await kernel.login("user", tenants=["theirs"])
        await kernel.owner.create(step_s=0.02)
        call = kernel.tcp.endless(metadata=they)
        task_id = (await call.read()).event.task_id
        lease_id = (await kernel.tcp.claim(memory(1), metadata=they)).lease_id
        named = (*me, ("inferd-tenant", "theirs"))
        reason, facts = await refused(kernel.tcp.tasks.ListTasks(ts.ListTasksRequest(), metadata=named))
        assert (reason, facts) == ("PERMISSION_DENIED", {"principal": "anna", "tenant": "theirs"})
        tasks, leases = kernel.tcp.tasks, kernel.tcp.leases
        for method, request, found in (
            (tasks.GetTask, ts.GetTaskRequest, task_id),
            (tasks.WatchTask, ts.WatchTaskRequest, task_id),
            (tasks.CancelTask, ts.CancelTaskRequest, task_id),
            (tasks.SuspendTask, ts.SuspendTaskRequest, task_id),
            (leases.GetLease, ls.GetLeaseRequest, lease_id),
            (leases.WatchLease, ls.WatchLeaseRequest, lease_id),
            (leases.ReleaseLease, ls.ReleaseLeaseRequest, lease_id),
        ):
            field = request.DESCRIPTOR.fields[0].name  # type: ignore[attr-defined] # of a message
            none = found[:-1] + ("0" if found[-1] != "0" else "1")
            told = [bytes_of(await failing(method(request(**{field: each}), metadata=me))) for each in (found, none)]
            assert told[0][0] is grpc.StatusCode.NOT_FOUND
            assert [each.replace(none.encode(), found.encode()) for *_, each in told] == [told[0][2]] * 2
        assert (await tasks.GetTask(ts.GetTaskRequest(task_id=task_id), metadata=they)).task.task_id == task_id
        call.cancel()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_keys_are_kept_without_their_credentials(tmp_path: Path) -> None:
    """A kernel after this one knows the same keys and rules; no file holds a credential, and the pepper is private."""
    store = {"url": f"sqlite:{tmp_path}/kernel.sqlite"}
    async with guarded(tmp_path, store=store) as kernel:
        made, revoked = await kernel.key(), await kernel.key("bert")
        await kernel.made.RevokeKey(asp.RevokeKeyRequest(key_id=revoked.key.key_id))
        rule_id = await kernel.rule("principal:anna", kinds=["RESOURCE_KIND_HOST"])
        await kernel.auth.WhoAmI(ME, metadata=bearer(made.credential))
        used = (await kernel.made.ListKeys(asp.ListKeysRequest())).keys
    secrets = [each.credential.split("_")[2].encode() for each in (made, revoked)]
    written = {path.name: path.read_bytes() for path in files_in(tmp_path)}
    assert made.key.key_id.encode() in written["kernel.sqlite"]
    assert not [name for name, data in written.items() if any(secret in data for secret in secrets)]
    assert (tmp_path / "state" / "pepper").stat().st_mode & 0o777 == 0o600
    async with guarded(tmp_path, store=store) as kernel:
        assert (await kernel.auth.WhoAmI(ME, metadata=bearer(made.credential))).key_id == made.key.key_id
        assert (await refused(kernel.auth.WhoAmI(ME, metadata=bearer(revoked.credential))))[0] == "UNAUTHENTICATED"
        again = {key.key_id: key for key in (await kernel.made.ListKeys(asp.ListKeysRequest())).keys}
        assert again[revoked.key.key_id].state == ap.KEY_STATE_REVOKED
        assert {key.key_id: key.create_time for key in used} == {key: each.create_time for key, each in again.items()}
        rules = (await kernel.made.ListRules(asp.ListRulesRequest())).rules
        assert rule_id in {rule.rule_id for rule in rules}
    (tmp_path / "state" / "pepper").unlink()
    async with guarded(tmp_path, store=store) as kernel:
        assert (await refused(kernel.auth.WhoAmI(ME, metadata=bearer(made.credential))))[0] == "UNAUTHENTICATED"


async def test_a_last_use_is_kept_in_batches(tmp_path: Path) -> None:
    """The last use of a key is told at once, and the next kernel knows it."""
    store = {"url": f"sqlite:{tmp_path}/kernel.sqlite"}
    async with guarded(tmp_path, store=store) as kernel:
        made = await kernel.key()
        assert not made.key.HasField("last_use_time")
        await kernel.auth.WhoAmI(ME, metadata=bearer(made.credential))
        (key,) = (await kernel.made.ListKeys(asp.ListKeysRequest())).keys
        assert abs(key.last_use_time.ToSeconds() - time.time()) < 60
    async with guarded(tmp_path, store=store) as kernel:
        assert (await kernel.made.ListKeys(asp.ListKeysRequest())).keys[0].last_use_time == key.last_use_time


@pytest.mark.parametrize("broken", ["mode", "size", "link"])
async def test_a_pepper_that_others_know_starts_no_kernel(tmp_path: Path, broken: str) -> None:
    """A kernel whose pepper others may read, or that is none, does not start, and says what to do."""
    path = tmp_path / "state" / "pepper"
    path.parent.mkdir()
    path.write_bytes(b"p" * (31 if broken == "size" else 32))
    path.chmod(0o640 if broken == "mode" else 0o600)
    if broken == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((InvalidFieldError, OSError), match="pepper"):
        async with guarded(tmp_path):
            pass


async def test_who_makes_keys_gives_what_it_has(tmp_path: Path) -> None:
    """A key has no tenant and no right that its maker lacks, unless that makes rules; others' keys are not found."""
    async with guarded(tmp_path) as kernel:
        await kernel.rule("role:keeper", allow=True, kinds=["RESOURCE_KIND_KEY"])
        keeper = await kernel.login("keeper", "user", tenants=["a"])
        theirs, high = await kernel.key("bert", tenants=["b"]), await kernel.key("carl", roles=["admin"], tenants=["a"])

        def create(**fields: Any) -> Any:
            return kernel.auth.CreateKey(asp.CreateKeyRequest(key=ap.Key(principal="x", **fields)), metadata=keeper)

        assert (await create(tenants=["a"], roles=["user"])).credential
        for fields in ({"tenants": ["b"]}, {"tenants": ["*"]}, {}, {"tenants": ["a"], "roles": ["admin"]}):
            assert (await refused(create(**fields)))[0] == "PERMISSION_DENIED", fields
        await kernel.rule("principal:y", allow=True, kinds=["RESOURCE_KIND_STORE"])
        await kernel.rule("role:keeper", models="large-*")
        for principal, roles in (("y", ["keeper"]), ("z", ["user"])):  # a name that rules favour; a denial left behind
            request = asp.CreateKeyRequest(key=ap.Key(principal=principal, tenants=["a"], roles=roles))
            answer = await refused(kernel.auth.CreateKey(request, metadata=keeper))
            assert answer[0] == "PERMISSION_DENIED", principal
        for key_id in (theirs.key.key_id, "0" * 16):
            for call in (
                kernel.auth.RotateKey(asp.RotateKeyRequest(key_id=key_id), metadata=keeper),
                kernel.auth.RevokeKey(asp.RevokeKeyRequest(key_id=key_id), metadata=keeper),
            ):
                assert await refused(call) == ("KEY_NOT_FOUND", {"key_id": key_id})
        rotate = asp.RotateKeyRequest(key_id=high.key.key_id)
        assert (await refused(kernel.auth.RotateKey(rotate, metadata=keeper)))[0] == "PERMISSION_DENIED"
        listed = (await kernel.auth.ListKeys(asp.ListKeysRequest(), metadata=keeper)).keys
        assert theirs.key.key_id not in {key.key_id for key in listed}
        assert high.key.key_id in {key.key_id for key in listed}


async def test_a_right_to_keys_holds_for_its_tenant_alone(tmp_path: Path) -> None:
    """Who may make keys and rules for one of its tenants gives, lists, rotates and revokes no key of another one."""
    async with guarded(tmp_path) as kernel:
        await kernel.rule(
            "principal:lead", allow=True, kinds=["RESOURCE_KIND_KEY", "RESOURCE_KIND_RULE"], tenants="web"
        )
        lead = await kernel.login("user", principal="lead", tenants=["web", "research"])
        for tenants in (["research"], ["web", "research"]):
            theirs = (await kernel.key("boss", roles=["admin"], tenants=tenants)).key.key_id
            request = asp.CreateKeyRequest(key=ap.Key(principal="x", roles=["user"], tenants=tenants))
            reason, facts = await refused(kernel.auth.CreateKey(request, metadata=lead))
            assert (reason, facts["tenant"]) == ("PERMISSION_DENIED", "research")
            listed = (await kernel.auth.ListKeys(asp.ListKeysRequest(), metadata=lead)).keys
            assert not any("research" in key.tenants for key in listed)
            for call in (
                kernel.auth.RotateKey(asp.RotateKeyRequest(key_id=theirs), metadata=lead),
                kernel.auth.RevokeKey(asp.RevokeKeyRequest(key_id=theirs), metadata=lead),
            ):
                assert await refused(call) == ("KEY_NOT_FOUND", {"key_id": theirs})
        request = asp.CreateKeyRequest(key=ap.Key(principal="x", roles=["user"], tenants=["web"]))
        made = await kernel.auth.CreateKey(request, metadata=lead)
        assert (await kernel.auth.ListKeys(asp.ListKeysRequest(), metadata=lead)).keys == [made.key]
        rotate = asp.RotateKeyRequest(key_id=made.key.key_id)
        assert (await kernel.auth.RotateKey(rotate, metadata=lead)).credential


async def test_no_key_is_a_way_around_what_is_denied(tmp_path: Path) -> None:
    """Who may make rules, but has one tenant, gives other roles there, and nothing that a rule denies itself."""
    async with guarded(tmp_path) as kernel:
        admin = await kernel.login("admin", principal="web-admin", tenants=["web"])

        async def create(*roles: str) -> None:
            request = asp.CreateKeyRequest(key=ap.Key(principal="x", roles=roles, tenants=["web"]))
            await kernel.auth.CreateKey(request, metadata=admin)

        await create("user")
        await kernel.rule("principal:web-admin", verbs=["VERB_RUN"], models="llama-70b*", tenants="web")
        for role in ("admin", "user"):
            reason, facts = await refused(create(role))
            assert (reason, facts["verb"]) == ("PERMISSION_DENIED", "run")
        await create("viewer")
        assert (await refused(create("unheard-of")))[1]["role"] == "unheard-of"


async def test_who_has_all_tenants_alone_copies_the_store(tmp_path: Path) -> None:
    """A backup has what all tenants keep: an administrator of some of them makes none, and leaves no file."""
    async with guarded(tmp_path, store={"url": f"sqlite:{tmp_path}/store"}) as kernel:
        request = hs.BackupStoreRequest(path=f"{tmp_path}/copy")
        some, every = [await kernel.key("dora", roles=["admin"], tenants=each) for each in (["web", "a"], ["*"])]
        answer = await refused(kernel.tcp.hosts.BackupStore(request, metadata=bearer(some.credential)))
        assert answer == ("PERMISSION_DENIED", {"principal": "dora", "verb": "create", "kind": "store"})
        told = [each async for each in kernel.tcp.hosts.BackupStore(request, metadata=bearer(every.credential))]
        assert told[-1].backup.path == request.path  # which takes no file's place


async def test_a_rotated_key_has_two_credentials_for_a_while(tmp_path: Path) -> None:
    """The credential before holds for the overlap, and the one before that no longer; without an overlap none does."""
    async with guarded(tmp_path) as kernel:
        first = await kernel.key()
        rotate = asp.RotateKeyRequest(key_id=first.key.key_id)
        second = await kernel.made.RotateKey(rotate)
        assert second.key.HasField("overlap_end_time")
        for credential in (first.credential, second.credential):
            assert (await kernel.auth.WhoAmI(ME, metadata=bearer(credential))).key_id == first.key.key_id
        third = await kernel.made.RotateKey(asp.RotateKeyRequest(key_id=first.key.key_id, overlap=Duration()))
        assert not third.key.HasField("overlap_end_time")
        for credential in (first.credential, second.credential):
            assert (await refused(kernel.auth.WhoAmI(ME, metadata=bearer(credential))))[0] == "UNAUTHENTICATED"
        assert (await kernel.auth.WhoAmI(ME, metadata=bearer(third.credential))).key_id == first.key.key_id
        await kernel.made.RevokeKey(asp.RevokeKeyRequest(key_id=first.key.key_id))
        assert (await refused(kernel.made.RotateKey(rotate)))[0] == "KEY_NOT_FOUND"


async def test_a_peer_that_goes_on_failing_waits_and_no_other(tmp_path: Path) -> None:
    """After so many failed logins a connection is refused by the bound's name, and others of the host are not."""
    async with guarded(tmp_path, auth={"failed_logins": 3}) as kernel:
        right, other = await kernel.login("user"), kernel.tcp.another()
        wrong = bearer(f"ik_{'0' * 16}_{'0' * 64}")
        with capture_logs() as logged:
            for _ in range(3):
                assert (await refused(kernel.auth.WhoAmI(ME, metadata=wrong)))[0] == "UNAUTHENTICATED"
            for metadata in (wrong, right):
                reason, facts = await refused(kernel.auth.WhoAmI(ME, metadata=metadata))
                assert (reason, facts["bound"]) == ("LIMIT_EXCEEDED", "auth.failed_logins")
            assert await other.tasks.ListTasks(ts.ListTasksRequest(), metadata=right) is not None
            for _ in range(4):
                await failing(kernel.made.WhoAmI(ME, metadata=wrong))
            assert (await kernel.made.WhoAmI(ME, metadata=right)).principal.name == "anna"
        assert [event["log_level"] for event in logged] == ["warning", "warning"]
        assert "0" * 64 not in str(logged)
        await other.channel.close()


WRONG_KEYS: list[tuple[str, dict[str, Any]]] = [
    ("key.principal", {"principal": ""}),
    ("key.principal", {"principal": "local"}),
    ("key.principal", {"principal": "a:b"}),
    ("key.roles", {"principal": "a", "roles": ["a b"]}),
    ("key.roles", {"principal": "a", "roles": ["a"] * 17}),
    ("key.tenants", {"principal": "a", "tenants": ["a*"]}),
    ("key.tenants", {"principal": "a", "tenants": [""]}),
    ("key.expire_time", {"principal": "a", "expire_time": Timestamp(seconds=1)}),
]
WRONG_RULES: list[tuple[str, dict[str, Any]]] = [
    ("rule.who", {"who": "anna"}),
    ("rule.who", {"who": "role:"}),
    ("rule.verbs", {"who": "*", "verbs": [0]}),
    ("rule.kinds", {"who": "*", "kinds": [99]}),
    ("rule.models", {"who": "*", "models": "a b"}),
    ("rule.tenants", {"who": "*", "tenants": "x" * 129}),
]


async def test_keys_and_rules_that_are_none_are_refused_by_their_fields(tmp_path: Path) -> None:
    """What a key or a rule may not be is told with the path of the field, and nothing is made."""
    async with guarded(tmp_path) as kernel:
        before = len((await kernel.made.ListRules(asp.ListRulesRequest())).rules)
        calls = [
            *((at, kernel.made.CreateKey, asp.CreateKeyRequest(key=ap.Key(**key))) for at, key in WRONG_KEYS),
            *((at, kernel.made.CreateRule, asp.CreateRuleRequest(rule=ap.Rule(**rule))) for at, rule in WRONG_RULES),
        ]
        for field, method, request in calls:
            error = await failing(method(request))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, request
            assert field in (error.details() or ""), request
        assert not (await kernel.made.ListKeys(asp.ListKeysRequest())).keys
        assert len((await kernel.made.ListRules(asp.ListRulesRequest())).rules) == before


async def test_bounds_of_keys_and_rules(tmp_path: Path) -> None:
    """One key or rule more than there may be is refused by the bound's name; what has ended makes room in time."""
    async with guarded(tmp_path, auth={"keys": 1, "kept_rules": 1, "retention_s": 0}) as kernel:
        made = await kernel.key()
        assert (await refused(kernel.made.CreateKey(asp.CreateKeyRequest(key=made.key))))[1]["bound"] == "auth.keys"
        await kernel.made.RevokeKey(asp.RevokeKeyRequest(key_id=made.key.key_id))
        assert (await kernel.key()).credential
        rule_id = await kernel.rule("role:x")
        rule = asp.CreateRuleRequest(rule=ap.Rule(who="role:y", deny=True))
        assert (await refused(kernel.made.CreateRule(rule)))[1]["bound"] == "auth.kept_rules"
        await kernel.made.DeleteRule(asp.DeleteRuleRequest(rule_id=rule_id))
        assert (await refused(kernel.made.DeleteRule(asp.DeleteRuleRequest(rule_id=rule_id))))[0] == "RULE_NOT_FOUND"
        assert await kernel.rule("role:y")


async def test_nobody_locks_itself_out(tmp_path: Path) -> None:
    """A rule with which its maker could delete no rule is refused; rules are for who has all tenants."""
    async with guarded(tmp_path) as kernel:
        request = asp.CreateRuleRequest(rule=ap.Rule(who="*", deny=True))
        assert (await refused(kernel.made.CreateRule(request)))[0] == "INVALID_FIELD"
        admin = await kernel.login("admin", tenants=["a"])
        request = asp.CreateRuleRequest(rule=ap.Rule(who="role:x"))
        assert (await refused(kernel.auth.CreateRule(request, metadata=admin)))[0] == "PERMISSION_DENIED"
        roles = (await kernel.auth.ListRoles(asp.ListRolesRequest(), metadata=admin)).roles
        rest = ("joiner", "operator", "user", "viewer")
        assert [role.name for role in roles] == ["admin", "agent", "auditor", "federation-client", *rest]


async def test_a_kernel_that_nobody_could_use_does_not_start(tmp_path: Path) -> None:
    """A kernel that needs logins starts when somebody has one, or can make one without."""
    store = {"url": f"sqlite:{tmp_path}/kernel.sqlite"}
    port: dict[str, Any] = {"listen": ("127.0.0.1:0",)}
    refused_as = pytest.raises(InvalidFieldError, match="lets nobody in")
    async with kernel_here(tmp_path / "first", **port) as first:  # it has the usual socket of this user
        assert first.addresses[1:] == (f"unix:{own_socket()}",)
        with refused_as:
            async with kernel_here(tmp_path, store=store, **port):
                pass
    with refused_as:
        async with kernel_here(tmp_path, auth={"local_roles": ()}, store=store):
            pass
    async with guarded(tmp_path, store=store) as kernel:
        await kernel.key(roles=["admin"])
    async with kernel_here(tmp_path, auth={"local_roles": ()}, store=store):
        pass


async def test_a_start_says_how_keys_are_made_where_the_socket_needs_a_login_too(tmp_path: Path) -> None:
    """By whom has a key that may; where nobody has, that the start without it is the way."""
    store = {"url": f"sqlite:{tmp_path}/kernel.sqlite"}
    closed: dict[str, Any] = {"auth": {"local_roles": ()}, "listen": (f"unix:{tmp_path}/s",), "store": store}
    async with guarded(tmp_path, store=store) as kernel:
        await kernel.key(roles=["user"])
    async with kernel_here(tmp_path, **closed) as kernel:
        said = how_to_log_in(kernel)
        assert said.startswith(f"calls to unix:{tmp_path}/s need a key, and nobody can make keys")
    async with guarded(tmp_path, store=store) as kernel:
        await kernel.key(roles=["admin"], tenants=["*"])
    async with kernel_here(tmp_path, **closed) as kernel:
        assert "inferd --credential-file ADMIN.key keys create" in how_to_log_in(kernel)


async def test_a_key_that_may_do_nothing_is_told(tmp_path: Path) -> None:
    """A role that no rule names, with the nearest one, and none at all; a known one is told nothing about."""
    async with guarded(tmp_path) as kernel:
        words = ["keys", "create", "anna", "--address", kernel.kernel.addresses[0]]

        def create(*roles: str) -> str:
            options = [word for role in roles for word in ("--role", role)]
            return " ".join(CliRunner().invoke(main.app, [*words, *options]).stderr.split())

        told = await asyncio.to_thread(create, "operater")
        assert (
            "no rule that you may read names the role operater (known to you: admin, agent, auditor,"
            " federation-client, joiner, operator," in told
        )
        assert "did you mean 'operator'?" in told
        assert "may do nothing until a rule names" in await asyncio.to_thread(create)
        assert "rule" not in await asyncio.to_thread(create, "user")


async def test_calls_over_tcp_need_a_login(tmp_path: Path) -> None:
    """Nobody is `local` by a port, unless the configuration says so; the error says how to get a key."""
    async with kernel_here(tmp_path / "a", listen=("127.0.0.1:0",)) as kernel:
        made = Connection(kernel, tmp_path)
        stub: Any = AuthServiceStub(made.channel)
        error = await failing(stub.WhoAmI(ME))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "inferd keys create NAME --role user --write FILE" in str(error.details())
        async with AsyncClient(kernel.addresses[1]) as owner:
            key = await owner.create_key("anna", roles=["user"])
        assert (await stub.WhoAmI(ME, metadata=bearer(key.credential))).principal.name == "anna"
        await made.channel.close()
    async with kernel_here(tmp_path / "b", **OPEN_PORT) as kernel, AsyncClient(kernel.addresses[0]) as client:
        assert (await client.whoami()).principal.name == "local"
        assert len(kernel.addresses) == 1


def test_values_show_no_secret() -> None:
    """What the kernel holds of a credential is in no text of its values."""
    assert "digest" not in repr(Secret(1, b"digest"))
    assert "hidden" not in repr(Said(login="Bearer hidden"))
