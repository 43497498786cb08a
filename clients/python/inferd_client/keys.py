"""Identity and policy: keys, roles, rules. `Keys` and `AsyncKeys` differ in `await` only."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2 import (
    CreateKeyRequest,
    CreateRuleRequest,
    DeleteRuleRequest,
    ListKeysRequest,
    ListRolesRequest,
    ListRulesRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
    WhoAmIRequest,
    WhoAmIResponse,
)
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from inferd_api.v1.auth_pb2 import Role, Rule
    from inferd_api.v1.auth_service_pb2_grpc import AuthServiceAsyncStub


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its credential, which the kernel tells once.

    Attributes:
        key: It.
        credential: What its holder sends; a secret.
    """

    key: Key
    credential: str = field(repr=False)


@strict
class Keys(Connection):
    """Identity and policy of a synchronous client."""

    @cached_property
    def _auth(self) -> AuthServiceStub:
        return AuthServiceStub(self._channel)

    def whoami(self) -> WhoAmIResponse:
        """Who the kernel takes this client for."""
        return self._call(self._auth.WhoAmI, WhoAmIRequest())

    def create_key(
        self,
        principal: str,
        *,
        roles: Sequence[str] = (),
        tenants: Sequence[str] = (),
        expire_time: float | None = None,
    ) -> NewKey:
        """Make a key; `expire_time` is a Unix time. Its credential is in the answer, and nowhere else."""
        made = self._call(self._auth.CreateKey, _wanted(principal, roles, tenants, expire_time))
        return NewKey(made.key, made.credential)

    def list_keys(self) -> Generator[Key]:
        """The keys of this client's tenants, by id."""
        for page in self._pages(self._auth.ListKeys, ListKeysRequest()):
            yield from page.keys

    def rotate_key(self, key_id: str, *, overlap_s: float | None = None) -> NewKey:
        """Give a key a new credential; the one before holds for `overlap_s` more, an hour by default."""
        made = self._call(self._auth.RotateKey, RotateKeyRequest(key_id=key_id, overlap=span(overlap_s)))
        return NewKey(made.key, made.credential)

    def revoke_key(self, key_id: str) -> Key:
        """Take a key back; calls under way with it end."""
        return self._call(self._auth.RevokeKey, RevokeKeyRequest(key_id=key_id)).key

    def list_roles(self) -> Sequence[Role]:
        """The roles that rules name, by name."""
        return self._call(self._auth.ListRoles, ListRolesRequest()).roles

    def create_rule(self, rule: Rule) -> Rule:
        """Make a rule; it holds at once."""
        return self._call(self._auth.CreateRule, CreateRuleRequest(rule=rule)).rule

    def list_rules(self) -> Generator[Rule]:
        """All rules; those without an id are of built-in roles and the configuration."""
        for page in self._pages(self._auth.ListRules, ListRulesRequest()):
            yield from page.rules

    def delete_rule(self, rule_id: str) -> None:
        """Take away a rule that was made by a call."""
        self._call(self._auth.DeleteRule, DeleteRuleRequest(rule_id=rule_id))


@strict
class AsyncKeys(AsyncConnection):
    """Identity and policy of an asynchronous client."""

    @cached_property
    def _auth(self) -> AuthServiceAsyncStub:
        return AuthServiceStub(self._channel)

    async def whoami(self) -> WhoAmIResponse:
        """As `Keys.whoami`."""
        return await self._call(self._auth.WhoAmI, WhoAmIRequest())

    async def create_key(
        self,
        principal: str,
        *,
        roles: Sequence[str] = (),
        tenants: Sequence[str] = (),
        expire_time: float | None = None,
    ) -> NewKey:
        """As `Keys.create_key`."""
        made = await self._call(self._auth.CreateKey, _wanted(principal, roles, tenants, expire_time))
        return NewKey(made.key, made.credential)

    async def list_keys(self) -> AsyncGenerator[Key]:
        """As `Keys.list_keys`."""
        async for page in self._pages(self._auth.ListKeys, ListKeysRequest()):
            for key in page.keys:
                yield key

    async def rotate_key(self, key_id: str, *, overlap_s: float | None = None) -> NewKey:
        """As `Keys.rotate_key`."""
        made = await self._call(self._auth.RotateKey, RotateKeyRequest(key_id=key_id, overlap=span(overlap_s)))
        return NewKey(made.key, made.credential)

    async def revoke_key(self, key_id: str) -> Key:
        """As `Keys.revoke_key`."""
        return (await self._call(self._auth.RevokeKey, RevokeKeyRequest(key_id=key_id))).key

    async def list_roles(self) -> Sequence[Role]:
        """As `Keys.list_roles`."""
        return (await self._call(self._auth.ListRoles, ListRolesRequest())).roles

    async def create_rule(self, rule: Rule) -> Rule:
        """As `Keys.create_rule`."""
        return (await self._call(self._auth.CreateRule, CreateRuleRequest(rule=rule))).rule

    async def list_rules(self) -> AsyncGenerator[Rule]:
        """As `Keys.list_rules`."""
        async for page in self._pages(self._auth.ListRules, ListRulesRequest()):
            for rule in page.rules:
                yield rule

    async def delete_rule(self, rule_id: str) -> None:
        """As `Keys.delete_rule`."""
        await self._call(self._auth.DeleteRule, DeleteRuleRequest(rule_id=rule_id))


def _wanted(
    principal: str, roles: Sequence[str], tenants: Sequence[str], expire_time: float | None
) -> CreateKeyRequest:
    key = Key(principal=principal, roles=roles, tenants=tenants)
    if expire_time is not None:
        moment = Timestamp()
        moment.FromNanoseconds(int(expire_time * 1e9))
        key.expire_time.CopyFrom(moment)
    return CreateKeyRequest(key=key)
