"""`inferd.v1.FederationService`."""

from contextlib import aclosing

from inferd.core.federation import Federation
from inferd.core.index import Page
from inferd.errors import InvalidFieldError
from inferd.runtime.front import federations as front
from inferd.services.calls import Call, check_request_id
from inferd.services.federation_values import (
    read_part,
    read_place,
    read_plan,
    read_wait,
    write_federation,
    write_ordered,
    write_plan,
)
from inferd.services.pages import name_of, size_of, token_of
from inferd_api.v1 import federation_pb2 as fp
from inferd_api.v1 import federation_service_pb2 as fs

MOST_NAME = 128  # characters of what people call a client


class Federations:
    """Translates; see the proto for what each call means."""

    def __init__(self, federations: front.Federations) -> None:
        self._federations = federations

    def _write(self, federation: Federation, *, rounds: bool = True) -> fp.Federation:
        return write_federation(federation, self._federations.answered(federation.federation_id), rounds=rounds)

    async def CreateFederation(self, request: fs.CreateFederationRequest, call: Call) -> fs.CreateFederationResponse:  # noqa: N802 - the wire's name
        """Make a federation."""
        check_request_id(request.request_id)
        plan = read_plan(request.plan)
        made = await self._federations.create(plan, request.weights, call.caller, request_id=request.request_id)
        return fs.CreateFederationResponse(federation=self._write(made))

    async def GetFederation(self, request: fs.GetFederationRequest, call: Call) -> fs.GetFederationResponse:  # noqa: N802 - the wire's name
        """Read a federation."""
        found = self._federations.get(request.federation_id, call.caller)
        return fs.GetFederationResponse(federation=self._write(found))

    async def ListFederations(self, request: fs.ListFederationsRequest, call: Call) -> fs.ListFederationsResponse:  # noqa: N802 - the wire's name
        """List federations, newest first."""
        after, size = name_of(request.page_token), size_of(request.page_size)
        known = [each for each in self._federations.all(call.caller) if after is None or each.federation_id < after]
        page = Page(known[:size], more=len(known) > size)
        return fs.ListFederationsResponse(
            federations=[self._write(each, rounds=False) for each in page.records],
            next_page_token=token_of(page, lambda each: each.federation_id),
        )

    async def WatchFederation(self, request: fs.WatchFederationRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a federation until it has ended."""
        async with aclosing(self._federations.watch(request.federation_id, call.caller)) as told:
            async for federation in told:
                await call.write(fs.WatchFederationResponse(federation=self._write(federation)))

    async def GetFederationWeights(  # noqa: N802 - the wire's name
        self, request: fs.GetFederationWeightsRequest, call: Call
    ) -> fs.GetFederationWeightsResponse:
        """Read the weights of the last round."""
        done, weights, counts = await self._federations.weights(request.federation_id, call.caller)
        return fs.GetFederationWeightsResponse(round=done, weights=weights, counts=counts)

    async def CancelFederation(self, request: fs.CancelFederationRequest, call: Call) -> fs.CancelFederationResponse:  # noqa: N802 - the wire's name
        """End a federation."""
        ended = await self._federations.cancel(request.federation_id, call.caller)
        return fs.CancelFederationResponse(federation=self._write(ended))

    async def DeleteFederation(self, request: fs.DeleteFederationRequest, call: Call) -> fs.DeleteFederationResponse:  # noqa: N802 - the wire's name
        """Forget a federation."""
        await self._federations.delete(request.federation_id, call.caller)
        return fs.DeleteFederationResponse()

    async def JoinFederation(self, request: fs.JoinFederationRequest, call: Call) -> fs.JoinFederationResponse:  # noqa: N802 - the wire's name
        """Become a client."""
        if len(request.name) > MOST_NAME:
            raise InvalidFieldError(f"name has {len(request.name)} characters; at most {MOST_NAME}", field="name")
        federation, client, token = await self._federations.join(request.federation_id, request.name, call.caller)
        return fs.JoinFederationResponse(client=client.number, token=token, plan=write_plan(federation.plan))

    async def PollRound(self, request: fs.PollRoundRequest, call: Call) -> fs.PollRoundResponse:  # noqa: N802 - the wire's name
        """Tell a client what to do."""
        client = request.client
        ordered = await self._federations.poll(
            client.federation_id,
            client.client,
            client.token,
            call.caller,
            seen=read_place(request.seen) if request.HasField("seen") else None,
            wait_s=read_wait(request),
        )
        return write_ordered(ordered, client.client)

    async def SubmitRoundPart(self, request: fs.SubmitRoundPartRequest, call: Call) -> fs.SubmitRoundPartResponse:  # noqa: N802 - the wire's name
        """Take what a client gives."""
        client = request.client
        await self._federations.submit(
            client.federation_id,
            client.client,
            client.token,
            call.caller,
            place=read_place(request.place),
            part=read_part(request),
        )
        return fs.SubmitRoundPartResponse()
