"""`inferd.v1.ModerationService`."""

from inferd.runtime.front import moderation as front
from inferd.services.calls import Call
from inferd.services.moderation_values import read_rule, read_state, read_states, write_flag, write_rule
from inferd.services.pages import page_of
from inferd_api.v1 import moderation_service_pb2 as ms

ABOUT_ALL = "rules of moderation are about any of them"


class Moderation:
    """Translates; see the proto for what each call means."""

    def __init__(self, moderation: front.Moderation) -> None:
        self._moderation = moderation

    async def CreateModerationRule(  # noqa: N802 - the wire's name
        self, request: ms.CreateModerationRuleRequest, call: Call
    ) -> ms.CreateModerationRuleResponse:
        """Make a rule."""
        call.admission.check_all_tenants(ABOUT_ALL)
        rule = await self._moderation.create(read_rule(request.rule))
        return ms.CreateModerationRuleResponse(rule=write_rule(rule))

    async def ListModerationRules(  # noqa: N802 - the wire's name
        self, request: ms.ListModerationRulesRequest, call: Call
    ) -> ms.ListModerationRulesResponse:
        """List rules: those that no call can change come first, in their order."""
        known = self._moderation.all(call.caller, has=call.admission.has)
        keyed = [(f"0{n:06}" if r.origin == "config" else f"1{r.name}", r) for n, r in enumerate(known)]
        page, token = page_of(sorted(keyed, key=lambda each: each[0]), request.page_size, request.page_token)
        return ms.ListModerationRulesResponse(rules=map(write_rule, page), next_page_token=token)

    async def DeleteModerationRule(  # noqa: N802 - the wire's name
        self, request: ms.DeleteModerationRuleRequest, call: Call
    ) -> ms.DeleteModerationRuleResponse:
        """Take a rule away."""
        call.admission.check_all_tenants(ABOUT_ALL)
        await self._moderation.delete(request.name)
        return ms.DeleteModerationRuleResponse()

    async def ListFlags(self, request: ms.ListFlagsRequest, call: Call) -> ms.ListFlagsResponse:  # noqa: N802 - the wire's name
        """List flags, newest first."""
        flags = self._moderation.flags.all(read_states(list(request.states)), has=call.admission.has)
        keyed = [(f"{-flag.created + (1 << 40):032.6f} {flag.flag_id}", flag) for flag in flags]
        page, token = page_of(sorted(keyed, key=lambda each: each[0]), request.page_size, request.page_token)
        return ms.ListFlagsResponse(flags=map(write_flag, page), next_page_token=token)

    async def GetFlag(self, request: ms.GetFlagRequest, call: Call) -> ms.GetFlagResponse:  # noqa: N802 - the wire's name
        """Read a flag."""
        return ms.GetFlagResponse(flag=write_flag(self._moderation.flags.get(request.flag_id, has=call.admission.has)))

    async def ResolveFlag(self, request: ms.ResolveFlagRequest, call: Call) -> ms.ResolveFlagResponse:  # noqa: N802 - the wire's name
        """Decide about a flag."""
        flag = await self._moderation.flags.resolve(
            request.flag_id,
            read_state(request.state),
            by=call.caller.principal.name,
            note=request.note,
            has=call.admission.has,
        )
        return ms.ResolveFlagResponse(flag=write_flag(flag))
