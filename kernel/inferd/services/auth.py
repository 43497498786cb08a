"""`inferd.v1.AuthService`."""

import re
from collections.abc import Collection, Iterable
from typing import TypeVar

from inferd.core.ids import DEFAULT_TENANT
from inferd.core.key import Key
from inferd.core.policy import ALL_KINDS, ALL_VERBS, ResourceKind, Rule, Verb
from inferd.core.principal import ANY, HOSTS, LOCAL, Principal
from inferd.errors import InvalidFieldError
from inferd.runtime.front import auth as front
from inferd.runtime.login import NOBODY
from inferd.services.calls import TENANT_FORM, Call
from inferd.services.pages import page_of
from inferd.services.times import read_seconds, read_timestamp, unix_time
from inferd_api.v1 import auth_pb2 as pb
from inferd_api.v1 import auth_service_pb2 as asp

PRINCIPAL_FORM = re.compile(r"[A-Za-z0-9._@-]{1,64}")
ROLE_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
WHO_FORM = re.compile(r"\*|(role|principal):[A-Za-z0-9._:@/#-]{1,128}")
ABOUT_ALL = "rules are about all of them"
PATTERN_FORM = re.compile(r"[A-Za-z0-9._:/*-]{1,128}")
RESERVED = (LOCAL, NOBODY.principal.name)
MOST_ROLES, MOST_TENANTS = 16, 64
OVERLAP_S, MOST_OVERLAP_S = 3600.0, 30 * 86_400.0

Member = TypeVar("Member", Verb, ResourceKind)


class Auth:
    """Translates; see the proto for what each call means."""

    def __init__(self, auth: front.Auth) -> None:
        self._auth = auth

    async def WhoAmI(self, request: asp.WhoAmIRequest, call: Call) -> asp.WhoAmIResponse:  # noqa: ARG002, N802 - the wire's name
        """Who calls."""
        principal = call.caller.principal
        return asp.WhoAmIResponse(
            principal=pb.Principal(name=principal.name, roles=sorted(principal.roles), tenants=principal.tenants),
            tenant=call.caller.tenant,
            key_id=call.admission.login.key_id,
        )

    async def CreateKey(self, request: asp.CreateKeyRequest, call: Call) -> asp.CreateKeyResponse:  # noqa: N802 - the wire's name
        """Make a key."""
        wanted = request.key
        expires = read_timestamp(wanted.expire_time, "key.expire_time") if wanted.HasField("expire_time") else None
        if expires is not None and expires <= self._auth.now():
            raise InvalidFieldError("key.expire_time has passed; name one that is to come", field="key.expire_time")
        key, credential = await self._auth.create_key(call.caller, _read_principal(wanted), expires)
        return asp.CreateKeyResponse(key=self._write(key), credential=credential)

    async def ListKeys(self, request: asp.ListKeysRequest, call: Call) -> asp.ListKeysResponse:  # noqa: N802 - the wire's name
        """List keys by id."""
        keys = [(key.key_id, key) for key in self._auth.keys(call.caller)]
        page, token = page_of(keys, request.page_size, request.page_token)
        return asp.ListKeysResponse(keys=map(self._write, page), next_page_token=token)

    async def RotateKey(self, request: asp.RotateKeyRequest, call: Call) -> asp.RotateKeyResponse:  # noqa: N802 - the wire's name
        """Give a key a new credential."""
        overlap_s = read_seconds(request.overlap, "overlap") if request.HasField("overlap") else OVERLAP_S
        if not 0 <= overlap_s <= MOST_OVERLAP_S:
            message = f"overlap is {overlap_s:g} s; it must be from 0 to {MOST_OVERLAP_S:g} s"
            raise InvalidFieldError(message, field="overlap")
        key, credential = await self._auth.rotate_key(call.caller, request.key_id, overlap_s)
        return asp.RotateKeyResponse(key=self._write(key), credential=credential)

    async def RevokeKey(self, request: asp.RevokeKeyRequest, call: Call) -> asp.RevokeKeyResponse:  # noqa: N802 - the wire's name
        """Take a key back."""
        return asp.RevokeKeyResponse(key=self._write(await self._auth.revoke_key(call.caller, request.key_id)))

    async def ListRoles(self, request: asp.ListRolesRequest, call: Call) -> asp.ListRolesResponse:  # noqa: ARG002, N802 - the wire's name
        """List roles by name."""
        roles = self._auth.roles(call.caller).items()
        return asp.ListRolesResponse(roles=[pb.Role(name=name, rules=map(_write_rule, rules)) for name, rules in roles])

    async def CreateRule(self, request: asp.CreateRuleRequest, call: Call) -> asp.CreateRuleResponse:  # noqa: N802 - the wire's name
        """Make a rule."""
        call.admission.check_all_tenants(ABOUT_ALL)
        rule = await self._auth.create_rule(call.caller.principal, _read_rule(request.rule))
        return asp.CreateRuleResponse(rule=_write_rule(rule))

    async def ListRules(self, request: asp.ListRulesRequest, call: Call) -> asp.ListRulesResponse:  # noqa: N802 - the wire's name
        """List rules: those that no call can change come first, in their order."""
        known = self._auth.rules(call.caller)
        rules = [(f"1{rule.rule_id}" if rule.rule_id else f"0{n:06}", rule) for n, rule in enumerate(known)]
        page, token = page_of(sorted(rules, key=lambda each: each[0]), request.page_size, request.page_token)
        return asp.ListRulesResponse(rules=map(_write_rule, page), next_page_token=token)

    async def DeleteRule(self, request: asp.DeleteRuleRequest, call: Call) -> asp.DeleteRuleResponse:  # noqa: N802 - the wire's name
        """Take a rule away."""
        call.admission.check_all_tenants(ABOUT_ALL)
        await self._auth.delete_rule(request.rule_id)
        return asp.DeleteRuleResponse()

    def _write(self, key: Key) -> pb.Key:
        now, principal = self._auth.now(), key.principal
        written = pb.Key(
            key_id=key.key_id,
            principal=principal.name,
            roles=sorted(principal.roles),
            tenants=principal.tenants,
            state=pb.KeyState.ValueType(key.state(now).value),
            create_time=unix_time(key.created),
        )
        for field, moment in (
            (written.expire_time, key.expires),
            (written.last_use_time, self._auth.last_use(key)),
            (written.overlap_end_time, key.overlap(now)),
        ):
            if moment is not None:
                field.CopyFrom(unix_time(moment))
        return written


def _read_principal(wanted: pb.Key) -> Principal:
    """Who is to have a key.

    Raises:
        InvalidFieldError: A field is not as it may be.
    """
    _check(wanted.principal, PRINCIPAL_FORM, "key.principal", "1 to 64 of letters, digits, '.', '_', '-' and '@'")
    if wanted.principal in RESERVED:
        raise InvalidFieldError(
            f"key.principal is {wanted.principal!r}, which stands for calls without a key; choose another name",
            field="key.principal",
        )
    for field, names, most in (("roles", wanted.roles, MOST_ROLES), ("tenants", wanted.tenants, MOST_TENANTS)):
        if len(names) > most:
            message = f"key.{field} has {len(names)} entries; at most {most}"
            raise InvalidFieldError(message, field=f"key.{field}")
    for role in wanted.roles:
        _check(role, ROLE_FORM, "key.roles", "1 to 64 of letters, digits, '.', '_' and '-' each")
    for tenant in wanted.tenants:
        if tenant == HOSTS:
            message = f"key.tenants has {HOSTS!r}, which is that of agents of hosts; choose another name"
            raise InvalidFieldError(message, field="key.tenants")
        if tenant != ANY:
            _check(tenant, TENANT_FORM, "key.tenants", "1 to 64 of letters, digits, '.', '_' and '-' each, or '*'")
    tenants = tuple(dict.fromkeys(wanted.tenants)) or (DEFAULT_TENANT,)
    return Principal(name=wanted.principal, roles=frozenset(wanted.roles), tenants=tenants)


def _read_rule(wanted: pb.Rule) -> Rule:
    """A rule that is to be made.

    Raises:
        InvalidFieldError: A field is not as it may be.
    """
    _check(wanted.who, WHO_FORM, "rule.who", '"role:NAME", "principal:NAME", or "*"')
    for name in ("models", "tenants"):
        if pattern := getattr(wanted, name):
            _check(pattern, PATTERN_FORM, f"rule.{name}", "1 to 128 of letters, digits, '._:/-' and '*'")
    return Rule(
        who=wanted.who,
        allow=not wanted.deny,
        verbs=_members(Verb, wanted.verbs, "rule.verbs") or ALL_VERBS,
        kinds=_members(ResourceKind, wanted.kinds, "rule.kinds") or ALL_KINDS,
        models=wanted.models or ANY,
        tenants=wanted.tenants or ANY,
    )


def _members(kind: type[Member], numbers: Iterable[int], field: str) -> frozenset[Member]:
    try:
        return frozenset(map(kind, numbers))
    except ValueError:
        raise InvalidFieldError(f"{field} has an unknown one, or one that is unspecified", field=field) from None


def _check(text: str, form: re.Pattern[str], field: str, letters: str) -> None:
    if not form.fullmatch(text):
        raise InvalidFieldError(f"{field} is {text[:80]!r}; it must be {letters}", field=field)


def _write_rule(rule: Rule) -> pb.Rule:
    def said(members: Collection[int], every: Collection[int]) -> list[int]:
        return [] if members == every else sorted(members)

    return pb.Rule(
        rule_id=rule.rule_id,
        who=rule.who,
        deny=not rule.allow,
        verbs=said(rule.verbs, ALL_VERBS),  # type: ignore[arg-type] # of the same numbers
        kinds=said(rule.kinds, ALL_KINDS),  # type: ignore[arg-type] # as above
        models=rule.models,
        tenants=rule.tenants,
    )
