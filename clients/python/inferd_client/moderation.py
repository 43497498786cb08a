"""Moderation: rules about what models are told and say, and flags. Both classes differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.moderation_service_pb2 import (
    CreateModerationRuleRequest,
    DeleteModerationRuleRequest,
    GetFlagRequest,
    ListFlagsRequest,
    ListModerationRulesRequest,
    ResolveFlagRequest,
)
from inferd_api.v1.moderation_service_pb2_grpc import ModerationServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Generator

    from inferd_api.v1.moderation_pb2 import Flag, FlagState, ModerationRule
    from inferd_api.v1.moderation_service_pb2_grpc import ModerationServiceAsyncStub


@strict
class Moderation(Connection):
    """Moderation of a synchronous client."""

    @cached_property
    def _moderation(self) -> ModerationServiceStub:
        return ModerationServiceStub(self._channel)

    def create_moderation_rule(self, moderation_rule: ModerationRule) -> ModerationRule:
        """Make a rule; it holds for each task that is sent to a worker from now on."""
        return self._call(self._moderation.CreateModerationRule, CreateModerationRuleRequest(rule=moderation_rule)).rule

    def list_moderation_rules(self) -> Generator[ModerationRule]:
        """The rules about tenants of this client, those of the configuration first."""
        for page in self._pages(self._moderation.ListModerationRules, ListModerationRulesRequest()):
            yield from page.rules

    def delete_moderation_rule(self, name: str) -> None:
        """Take away a rule that was made by a call."""
        self._call(self._moderation.DeleteModerationRule, DeleteModerationRuleRequest(name=name))

    def list_flags(self, flag_states: Collection[FlagState.ValueType] = ()) -> Generator[Flag]:
        """What persons are to look at, in one of these states, none for all; newest first."""
        for page in self._pages(self._moderation.ListFlags, ListFlagsRequest(states=flag_states)):
            yield from page.flags

    def get_flag(self, flag_id: str) -> Flag:
        """The flag of this id."""
        return self._call(self._moderation.GetFlag, GetFlagRequest(flag_id=flag_id)).flag

    def resolve_flag(self, flag_id: str, decision: FlagState.ValueType, *, note: str = "") -> Flag:
        """Decide about a flag: it is upheld, or dismissed."""
        request = ResolveFlagRequest(flag_id=flag_id, state=decision, note=note)
        return self._call(self._moderation.ResolveFlag, request).flag


@strict
class AsyncModeration(AsyncConnection):
    """Moderation of an asynchronous client."""

    @cached_property
    def _moderation(self) -> ModerationServiceAsyncStub:
        return ModerationServiceStub(self._channel)

    async def create_moderation_rule(self, moderation_rule: ModerationRule) -> ModerationRule:
        """As `Moderation.create_moderation_rule`."""
        request = CreateModerationRuleRequest(rule=moderation_rule)
        return (await self._call(self._moderation.CreateModerationRule, request)).rule

    async def list_moderation_rules(self) -> AsyncGenerator[ModerationRule]:
        """As `Moderation.list_moderation_rules`."""
        async for page in self._pages(self._moderation.ListModerationRules, ListModerationRulesRequest()):
            for rule in page.rules:
                yield rule

    async def delete_moderation_rule(self, name: str) -> None:
        """As `Moderation.delete_moderation_rule`."""
        await self._call(self._moderation.DeleteModerationRule, DeleteModerationRuleRequest(name=name))

    async def list_flags(self, flag_states: Collection[FlagState.ValueType] = ()) -> AsyncGenerator[Flag]:
        """As `Moderation.list_flags`."""
        async for page in self._pages(self._moderation.ListFlags, ListFlagsRequest(states=flag_states)):
            for flag in page.flags:
                yield flag

    async def get_flag(self, flag_id: str) -> Flag:
        """As `Moderation.get_flag`."""
        return (await self._call(self._moderation.GetFlag, GetFlagRequest(flag_id=flag_id))).flag

    async def resolve_flag(self, flag_id: str, decision: FlagState.ValueType, *, note: str = "") -> Flag:
        """As `Moderation.resolve_flag`."""
        request = ResolveFlagRequest(flag_id=flag_id, state=decision, note=note)
        return (await self._call(self._moderation.ResolveFlag, request)).flag
