"""What a client does that means harm: it is refused by name, and the clients that are honest go on."""

import asyncio
import contextlib
import json
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from test_federations import Owner, plan

from inferd.cli.federate_client import Participant, Trainer
from inferd.federation.secure import Member, RefusedError
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import federation_pb2 as fp
from inferd_api.v1 import federation_service_pb2 as fs
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError
from inferd_client.federation_errors import (
    FederationClientUnknownError,
    FederationNotFoundError,
    FederationRoundOverError,
)
from inferd_federation.fixed import to_words

RECIPE = json.dumps({"heads": {"labels": ["a", "b"], "buckets": 16}})
SIZE = 34


async def begun(client: AsyncClient, count: int = 5, **changed: Any) -> list[Owner]:
    """Clients of a new federation."""
    made = await client.create_federation(plan(**changed))
    joined = [await client.join_federation(made.federation_id) for _ in range(count)]
    return [Owner(client, each, made.federation_id) for each in joined]


async def refused(owner: Owner, part: Any) -> str:
    """The field by which a part is refused, of the place where the federation is."""
    wanted = await owner.client.poll_round(owner.who)
    with pytest.raises(InvalidFieldError) as found:
        await owner.client.submit_round_part(owner.who, wanted.place, part)
    return found.value.field


async def test_keys_that_would_end_a_round_are_refused(tmp_path: Path) -> None:
    """A key that gives the same to everybody, and one that another has given; any key where nothing is masked."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        one, two, *_ = await begun(client, secure=True)
        wanted = await client.poll_round(one.who)
        keys = one.answer(wanted, {})
        await client.submit_round_part(one.who, wanted.place, keys)
        own = two.answer(wanted, {})
        for name in ("sealing", "masking"):
            for wrong in (bytes(32), getattr(keys, name)):
                part = fs.ClientKeys(sealing=own.sealing, masking=own.masking)
                setattr(part, name, wrong)
                assert await refused(two, part) == f"keys.{name}"
        await client.submit_round_part(two.who, wanted.place, own)
        plain, *_ = await begun(client)
        assert await refused(plain, own) == "keys"


async def test_a_federation_that_has_ended_takes_nothing(tmp_path: Path) -> None:
    """An update that comes behind the end is refused, also where its round waited for it."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        owners = await begun(client)
        for each in owners:
            place = (await client.poll_round(each.who)).place
            await client.submit_round_part(each.who, place, fs.ClientKeys())
        wanted = await client.poll_round(owners[0].who)
        part = owners[0].answer(wanted, {})
        await client.cancel_federation(owners[0].federation_id)
        with pytest.raises(FederationRoundOverError, match="CANCELLED"):
            await client.submit_round_part(owners[0].who, wanted.place, part)


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        ({"counts": 3}, np.array([-1, 0, 3], "<i8")),
        ({"counts": 3}, np.array([4, 0, 3], "<i8")),
        ({"counts": 3}, np.array([1, 0, 2 << 20], "<i8")),
        ({"size": 2}, np.array([1 << 62, 0, 1], "<i8")),
        ({"size": 2}, np.array([0, 0, 2], "<i8")),
        ({"size": 2, "compression": fp.FEDERATION_COMPRESSION_LONGEST}, np.array([1, np.nan], "<f4")),
        ({"size": 2, "compression": fp.FEDERATION_COMPRESSION_LONGEST}, np.array([5, 0], "<u4")),
        ({"size": 4, "compression": fp.FEDERATION_COMPRESSION_BYTES}, np.array([np.inf, 0], "<f4")),
    ],
)
async def test_a_wrong_update_is_refused_before_it_is_in_a_round(
    tmp_path: Path, changed: dict[str, Any], numbers: Any
) -> None:
    """Whoever gave it is told; the round goes on without."""
    krum = {"aggregation": fp.FEDERATION_AGGREGATION_KRUM, "clients": 3, "least_clients": 3}
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        owners = await begun(client, 3, **{**krum, **changed})
        for each in owners:
            place = (await client.poll_round(each.who)).place
            await client.submit_round_part(each.who, place, fs.ClientKeys())
        part = fs.RoundUpdate(content=numbers.tobytes(), examples=1)
        assert await refused(owners[0], part) == "update.content"


async def test_a_login_is_one_client(tmp_path: Path) -> None:
    """Who joins again is the same client with a new token; with another login that token holds nothing."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as admin:
        keys = [(await admin.create_key(name, roles=["federation-client"])).credential for name in ("anna", "bert")]
        made = await admin.create_federation(plan(secure=True))
        async with (
            AsyncClient(kernel.addresses[0], credential=keys[0]) as anna,
            AsyncClient(kernel.addresses[0], credential=keys[1]) as bert,
        ):
            joined = [await anna.join_federation(made.federation_id) for _ in range(4)]
            assert [each.client for each in joined] == [1] * 4
            assert (await bert.join_federation(made.federation_id)).client == 2
            before, now = (Owner(anna, each, made.federation_id).who for each in joined[2:])
            assert (await anna.poll_round(now)).HasField("place")
            for client, who in ((anna, before), (bert, now)):
                with pytest.raises(FederationClientUnknownError, match="this token and login"):
                    await client.poll_round(who)
        assert (await admin.get_federation(made.federation_id)).joined == 2


class Garbage(Owner):
    """Seals what nobody can open."""

    def answer(self, wanted: fs.PollRoundResponse, members: Any) -> Any:
        part = super().answer(wanted, members)
        if isinstance(part, fs.SealedShares):
            for each in part.sealed:
                part.sealed[each] = b"x"
        return part

    def update(self, number: int) -> tuple[bytes, int]:  # noqa: ARG002 - the same in each
        return to_words(np.zeros(SIZE), 1), 1


async def test_who_seals_what_cannot_be_opened_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others complain of it: the round begins anew without it, at once, and the federation comes to its end."""

    async def train(*_: Any, **__: Any) -> tuple[Any, float]:
        return np.zeros(SIZE), 0.0

    monkeypatch.setattr(Trainer, "train", train)
    federate, rows = {"attempts": 5}, [{"text": "x", "label": "a"}]
    async with kernel_here(tmp_path, federate=federate) as kernel, AsyncClient(kernel.addresses[0]) as client:
        wanted = plan(secure=True, size=SIZE, recipe_json=RECIPE)
        wanted.deadline.seconds = 600  # which nobody waits for
        wanted.answer_deadline.seconds = 3
        made = await client.create_federation(wanted)
        joined = await client.join_federation(made.federation_id)
        told: list[str] = []
        honest = [Participant(client, client, rows, made.federation_id, tell=told.append) for _ in range(4)]
        async with asyncio.timeout(60):
            _, *ended = await asyncio.gather(
                Garbage(client, joined, made.federation_id).take_part(), *(each.run() for each in honest)
            )
        assert [each.state for each in ended] == [fp.FEDERATION_STATE_SUCCEEDED] * 4
        rounds = (await client.get_federation(made.federation_id)).rounds
        assert rounds[0].attempt > 1
        assert not [each for each in rounds if joined.client in each.client_numbers]
        assert any("no updates: client 1: sealed shares cannot be opened" in each for each in told)


async def test_few_who_complain_exclude_nobody(tmp_path: Path) -> None:
    """A client that complains of an honest one is gone in its round, as is logged; of who shared nothing it cannot."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client, asyncio.timeout(60):
        made = await client.create_federation(plan(secure=True, rounds=1))
        joined = [await client.join_federation(made.federation_id) for _ in range(5)]
        owners = [Owner(client, each, made.federation_id) for each in joined]
        liar = owners.pop()
        running = [asyncio.create_task(each.take_part()) for each in owners]
        members: Any = {}
        seen = None
        while True:
            wanted = await client.poll_round(liar.who, seen=seen, wait_s=30)
            if wanted.WhichOneof("wanted") == "update":
                break
            if wanted.HasField("place"):
                seen = wanted.place
                await client.submit_round_part(liar.who, seen, liar.answer(wanted, members))
        for wrong in ([], [5], [9]):
            with pytest.raises(InvalidFieldError, match=r"complaint\.clients is"):
                await client.submit_round_part(liar.who, wanted.place, fs.RoundComplaint(clients=wrong))
        with capture_logs() as logged:
            await client.submit_round_part(liar.who, wanted.place, fs.RoundComplaint(clients=[1]))
            await asyncio.gather(*running)
        assert [each["complaints"] for each in logged if "complaints" in each] == [{liar.joined.client: [1]}]
        (done,) = (await client.get_federation(made.federation_id)).rounds
        assert (done.attempt, done.began, done.clients) == (1, 5, 4)


async def test_no_two_sums_of_a_round_show_what_one_client_sent() -> None:
    """A client opens no sum that differs in one or two clients from another of its round; of the next round it does.

    Its update is the same in each attempt: whoever has an attempt fail behind its openings, and one client leave before
    the next, would see the update of that one in the difference.
    """
    anybody: Any = None
    honest = Participant(anybody, anybody, [], "")
    honest._who.client = 1

    async def opens(turn: int, attempt: int, stayed: set[int]) -> bool:
        context = f"{turn} {attempt}".encode()
        members = {number: Member(number, context, token_bytes) for number in range(1, 8)}
        roster = {number: each.keys for number, each in members.items()}
        shares = {number: each.share(roster, 4) for number, each in members.items()}
        honest._members = {context: members[1]}
        members[1].mask(bytes(8), {number: of[1] for number, of in shares.items() if number > 1})
        wanted = fs.PollRoundResponse(context=context, openings=fs.OpeningsWanted(survivors=stayed))
        wanted.place.round, wanted.place.attempt = turn, attempt
        try:
            return isinstance(await honest._part(wanted), fs.RoundOpenings)
        except RefusedError:
            return False

    everybody = {*range(1, 8)}
    assert await opens(1, 1, everybody)
    assert not await opens(1, 2, everybody - {2})
    assert not await opens(1, 3, everybody - {2, 3})
    assert await opens(1, 4, everybody)
    assert await opens(1, 5, everybody - {2, 3, 4})
    assert not await opens(1, 6, everybody - {2, 3})
    assert await opens(2, 1, everybody - {2})


async def test_a_federation_of_a_tenant_that_is_shredded_ends(tmp_path: Path) -> None:
    """Whoever watches it, or waits for what to do, is told."""
    async with (
        kernel_here(tmp_path, store={"url": ""}) as kernel,
        AsyncClient(kernel.addresses[0]) as admin,
        AsyncClient(kernel.addresses[0], tenant="gone") as client,
        asyncio.timeout(60),
    ):
        owner, *_ = await begun(client)
        place = (await client.poll_round(owner.who)).place
        told = client.watch_federation(owner.federation_id)
        assert (await anext(told)).state == fp.FEDERATION_STATE_RUNNING
        polled = asyncio.create_task(client.poll_round(owner.who, seen=place, wait_s=60))
        await admin.shred_tenant("gone")
        assert [each.state async for each in told] == [fp.FEDERATION_STATE_CANCELLED]
        with contextlib.suppress(FederationNotFoundError):  # it came after
            assert (await polled).state == fp.FEDERATION_STATE_CANCELLED
