"""`inferd.v1.InviteService`."""

from inferd.errors import present
from inferd.runtime.front.agents import Agents
from inferd.services.calls import Call
from inferd.services.times import read_seconds, unix_time
from inferd_api.v1 import invite_service_pb2 as isp


class Invites:
    """Translates; see the proto for what each call means."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def CreateInvite(self, request: isp.CreateInviteRequest, call: Call) -> isp.CreateInviteResponse:  # noqa: N802 - the wire's name
        """Make an invitation."""
        call.admission.check_all_tenants("hosts compute for all of them")
        ttl_s = read_seconds(request.ttl, "ttl") if request.HasField("ttl") else None
        uses = request.uses if request.HasField("uses") else None
        key, credential = await self._agents.invite(request.host, uses=uses, ttl_s=ttl_s)
        return isp.CreateInviteResponse(
            key_id=key.key_id,
            credential=credential,
            expire_time=unix_time(present(key.expires)),
            uses=present(key.uses),
        )
