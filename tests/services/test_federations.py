"""Federations by the wire: rounds of five clients, whoever goes at whatever point, and with the kernel that follows."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np
import pytest

from inferd.federation.secure import Keys, Member
from inferd.federation.words import total
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import federation_pb2 as fp
from inferd_api.v1 import federation_service_pb2 as fs
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError, LimitExceededError
from inferd_client.federation_errors import (
    FederationClientUnknownError,
    FederationNotFoundError,
    FederationRoundOverError,
)
from inferd_federation.fixed import to_words

KEYS, SHARES, UPDATES, OPENINGS = (
    fp.ROUND_PHASE_KEYS,
    fp.ROUND_PHASE_SHARES,
    fp.ROUND_PHASE_UPDATES,
    fp.ROUND_PHASE_OPENINGS,
)
SIZE = 6


def plan(**changed: Any) -> fp.FederationPlan:
    """A plan of five clients, of which three are enough."""
    usual = {"recipe_json": "{}", "size": SIZE, "rounds": 2, "clients": 5, "least_clients": 3}
    made = fp.FederationPlan(**{**usual, **changed})
    made.deadline.seconds = made.answer_deadline.seconds = 2
    return made


@dataclass
class Owner:
    """A client that gives a fixed update each round, and may go at a phase of some rounds."""

    client: AsyncClient
    joined: fs.JoinFederationResponse
    federation_id: str
    goes: Mapping[int, int] = field(default_factory=dict)  # round to phase
    sent: dict[str, bytes] = field(default_factory=dict)  # by round and attempt, unmasked
    told: list[fs.PollRoundResponse] = field(default_factory=list)

    @property
    def who(self) -> fs.FederationClient:
        return fs.FederationClient(federation_id=self.federation_id, client=self.joined.client, token=self.joined.token)

    async def take_part(self) -> None:
        """Until the federation has ended."""
        members: dict[bytes, Member] = {}
        seen = None
        while True:
            wanted = await self.client.poll_round(self.who, seen=seen, wait_s=30)
            if wanted.state != fp.FEDERATION_STATE_RUNNING:
                return
            if not wanted.HasField("place"):
                continue
            seen = wanted.place
            self.told.append(wanted)
            if self.goes.get(seen.round) == seen.phase:
                continue
            try:
                part = self.answer(wanted, members)
                await self.client.submit_round_part(self.who, seen, part)
            except FederationRoundOverError:
                continue

    def answer(self, wanted: fs.PollRoundResponse, members: dict[bytes, Member]) -> Any:
        member = members.setdefault(wanted.context, Member(self.joined.client, wanted.context, token_bytes))
        match wanted.WhichOneof("wanted"):
            case "keys" if not self.joined.plan.secure:
                return fs.ClientKeys()
            case "keys":
                return fs.ClientKeys(sealing=member.keys.sealing, masking=member.keys.masking)
            case "shares":
                roster = {n: Keys(each.sealing, each.masking) for n, each in wanted.shares.roster.items()}
                return fs.SealedShares(sealed=member.share(roster, wanted.shares.threshold))
            case "update":
                content, examples = self.update(wanted.place.round)
                self.sent[f"{wanted.place.round}.{wanted.place.attempt}"] = content
                if self.joined.plan.secure:
                    content = member.mask(content, dict(wanted.update.sealed))
                    examples = 0
                return fs.RoundUpdate(content=content, examples=examples, loss=1.0)
            case _:
                opened = member.open(wanted.openings.survivors)
                return fs.RoundOpenings(seeds=opened.seeds, keys=opened.keys)

    def update(self, number: int) -> tuple[bytes, int]:
        if number == 0:
            return np.array([self.joined.client] * SIZE, "<i8").tobytes(), 1
        examples = 1 if self.joined.plan.HasField("privacy") else self.joined.client
        return to_words(np.full(SIZE, self.joined.client / 4), examples), examples


async def gathered(
    client: AsyncClient,
    wanted: fp.FederationPlan,
    *,
    owners: int = 5,
    goes: Mapping[int, Mapping[int, int]] | None = None,
) -> tuple[fp.Federation, list[Owner]]:
    """A federation from its beginning to its end, with these clients; the numbers of those that go have when."""
    made = await client.create_federation(wanted)
    joined = [await client.join_federation(made.federation_id, name=f"owner {n}") for n in range(owners)]
    found = [Owner(client, each, made.federation_id, (goes or {}).get(each.client, {})) for each in joined]
    async with asyncio.TaskGroup() as group:
        for each in found:
            group.create_task(each.take_part())
    return await client.get_federation(made.federation_id), found


def check_sums(federation: fp.Federation, owners: list[Owner]) -> None:
    """Each sum is exactly that of what its clients hid."""
    by_number = {each.joined.client: each for each in owners}
    for done in federation.rounds:
        sent = [by_number[number].sent[f"{done.number}.{done.attempt}"] for number in done.client_numbers]
        words = SIZE if done.number == 0 else SIZE + 1
        assert done.sum_digest == f"sha256:{sha256(total(sent, words)).hexdigest()}"


async def test_five_clients_train_together(tmp_path: Path) -> None:
    """The weights are what the mean of the updates makes of them, by examples; the counts go to all; sums are exact."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, owners = await gathered(client, plan(counts=SIZE))
        assert federation.state == fp.FEDERATION_STATE_SUCCEEDED, federation.error
        assert [(each.number, each.attempt, each.clients) for each in federation.rounds] == [
            (n, 1, 5) for n in range(3)
        ]
        assert federation.rounds[1].examples == 15
        assert federation.rounds[1].loss == 1.0
        found = await client.federation_weights(federation.federation_id)
        assert found.round == 2
        mean = sum(n * n for n in range(1, 6)) / 4 / 15
        assert np.frombuffer(found.weights, "<f4") == pytest.approx([2 * mean] * SIZE)
        assert np.frombuffer(found.counts, "<i8").tolist() == [15] * SIZE
        counts = [told.update.counts for told in owners[0].told if told.place.phase == UPDATES]
        assert counts == [b"", found.counts, found.counts]
        check_sums(federation, owners)
        told = [each async for each in client.watch_federation(federation.federation_id)]
        assert told[-1].state == fp.FEDERATION_STATE_SUCCEEDED
        listed = [each async for each in client.list_federations()]
        assert [each.federation_id for each in listed] == [federation.federation_id]
        await client.delete_federation(federation.federation_id)
        with pytest.raises(FederationNotFoundError):
            await client.get_federation(federation.federation_id)


@pytest.mark.parametrize("phase", [KEYS, SHARES, UPDATES, OPENINGS])
async def test_a_masked_round_survives_clients_that_go(tmp_path: Path, phase: int) -> None:
    """Two of five go in any phase: the sum is exactly that of the others; where they sent before they went, of all."""
    goes = {2: {1: phase}, 4: {1: phase}}
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, owners = await gathered(client, plan(secure=True), goes=goes)
        assert federation.state == fp.FEDERATION_STATE_SUCCEEDED, federation.error
        first, second = federation.rounds
        assert list(first.client_numbers) == ([1, 2, 3, 4, 5] if phase == OPENINGS else [1, 3, 5])
        assert list(second.client_numbers) == [1, 2, 3, 4, 5]
        check_sums(federation, owners)


async def test_a_round_with_too_few_clients_begins_anew(tmp_path: Path) -> None:
    """Three of five go: nothing is summed, and the round begins anew; after the last attempt all has failed."""
    goes = {number: {1: UPDATES} for number in (1, 2, 3)}
    federate = {"attempts": 2}
    async with kernel_here(tmp_path, federate=federate) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, owners = await gathered(client, plan(secure=True), goes=goes)
        assert federation.state == fp.FEDERATION_STATE_FAILED
        assert "round 1 was begun 2 times" in federation.error.message
        assert not federation.rounds
        contexts = {told.context for told in owners[4].told}
        assert len(contexts) == 2
        weights = await client.federation_weights(federation.federation_id)
        assert weights.weights == bytes(4 * SIZE)


async def test_a_federation_goes_on_with_the_kernel_that_follows(tmp_path: Path) -> None:
    """The kernel ends in each phase of a masked round: what was given stays, and the round ends with all five."""
    store = {"url": f"sqlite:{tmp_path}/kept.sqlite"}
    async with kernel_here(tmp_path, store=store) as kernel, AsyncClient(kernel.addresses[0]) as client:
        made = await client.create_federation(plan(secure=True, rounds=1))
        joined = [await client.join_federation(made.federation_id) for _ in range(5)]
    members: dict[int, dict[bytes, Member]] = {n: {} for n in range(5)}
    sent: list[bytes] = []
    for _ in range(4):
        for half in (range(2), range(2, 5)):
            async with kernel_here(tmp_path, store=store) as kernel, AsyncClient(kernel.addresses[0]) as client:
                for n in half:
                    owner = Owner(client, joined[n], made.federation_id)
                    wanted = await client.poll_round(owner.who, wait_s=30)
                    if wanted.HasField("place"):  # the openings of three are enough
                        await client.submit_round_part(owner.who, wanted.place, owner.answer(wanted, members[n]))
                    sent += owner.sent.values()
    async with kernel_here(tmp_path, store=store) as kernel, AsyncClient(kernel.addresses[0]) as client:
        async with asyncio.timeout(60):
            told = [each async for each in client.watch_federation(made.federation_id)]
        assert told[-1].state == fp.FEDERATION_STATE_SUCCEEDED, told[-1].error
        assert told[-1].rounds[0].attempt == 1
        assert told[-1].rounds[0].sum_digest == f"sha256:{sha256(total(sent, SIZE + 1)).hexdigest()}"
        assert len(sent) == 5


async def test_privacy_is_accounted(tmp_path: Path) -> None:
    """Each client counts alike, and the epsilon of the rounds that are done is told."""
    privacy = fp.FederationPrivacy(clip=1.0, noise=1.0)
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        federation, _ = await gathered(client, plan(secure=True, privacy=privacy))
        assert federation.rounds[0].examples == 5
        assert federation.epsilon == pytest.approx(
            7.0, rel=0.2
        )  # of two rounds with as much noise as an update is long


async def test_what_a_stranger_gives_is_refused(tmp_path: Path) -> None:
    """A wrong token, and a part of another place or size, are refused by name; the same part again changes nothing."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        made = await client.create_federation(plan())
        joined = [await client.join_federation(made.federation_id) for _ in range(5)]
        owners = [Owner(client, each, made.federation_id) for each in joined]
        false = fs.FederationClient(federation_id=made.federation_id, client=1, token=joined[1].token)
        with pytest.raises(FederationClientUnknownError):
            await client.poll_round(false, wait_s=0)
        place = fs.RoundPlace(round=1, attempt=1, phase=UPDATES)
        with pytest.raises(FederationRoundOverError, match="waits for no UPDATES of client 1"):
            await client.submit_round_part(owners[0].who, place, fs.RoundUpdate())
        for owner in owners:
            wanted = await client.poll_round(owner.who)
            for _ in range(2):  # the same again changes nothing
                await client.submit_round_part(owner.who, wanted.place, fs.ClientKeys())
        wanted = await client.poll_round(owners[0].who)
        for part, field_name in (
            (fs.RoundUpdate(content=b"short", examples=1), "update.content"),
            (fs.RoundUpdate(content=bytes(8 * SIZE + 8), examples=0), "update.examples"),
        ):
            with pytest.raises(InvalidFieldError) as refused:
                await client.submit_round_part(owners[0].who, wanted.place, part)
            assert refused.value.field == field_name
        cancelled = await client.cancel_federation(made.federation_id)
        assert cancelled.state == fp.FEDERATION_STATE_CANCELLED
        assert (await client.poll_round(owners[0].who)).state == fp.FEDERATION_STATE_CANCELLED


@pytest.mark.parametrize(
    ("changed", "field_name"),
    [
        ({"recipe_json": "no"}, "plan.recipe_json"),
        ({"least_clients": 6}, "plan.least_clients"),
        ({"secure": True, "least_clients": 2}, "plan.least_clients"),
        ({"secure": True, "aggregation": fp.FEDERATION_AGGREGATION_KRUM}, "plan.aggregation"),
        ({"secure": True, "compression": fp.FEDERATION_COMPRESSION_BYTES}, "plan.compression"),
        ({"aggregation": fp.FEDERATION_AGGREGATION_KRUM, "false_clients": 1}, "plan.least_clients"),
        ({"privacy": fp.FederationPrivacy(clip=1, noise=1), "counts": 9}, "plan.counts"),
        ({"privacy": fp.FederationPrivacy(noise=1)}, "plan.privacy.clip"),
        ({"privacy": fp.FederationPrivacy(clip=1e308, noise=1)}, "plan.privacy.clip"),
        ({"privacy": fp.FederationPrivacy(clip=6e-8, noise=1)}, "plan.privacy.clip"),
        ({"privacy": fp.FederationPrivacy(clip=1, noise=1e-200)}, "plan.privacy.noise"),
        ({"aggregation": fp.FEDERATION_AGGREGATION_TRIMMED_MEAN, "trim": 0.34}, "plan.trim"),
        ({"learning_rate": -1.0}, "plan.learning_rate"),
        ({"rounds": 0}, "plan.rounds"),
    ],
)
async def test_plans_that_contradict_themselves_are_refused(
    tmp_path: Path, changed: dict[str, Any], field_name: str
) -> None:
    """Each with the field that is wrong."""
    async with kernel_here(tmp_path) as kernel, AsyncClient(kernel.addresses[0]) as client:
        with pytest.raises(InvalidFieldError) as refused:
            await client.create_federation(plan(**changed))
        assert refused.value.field == field_name


async def test_a_federation_has_bounds(tmp_path: Path) -> None:
    """More weights, clients or federations than are allowed are refused with the bound."""
    federate = {"weights": 10, "clients": 1, "kept": 3}
    async with kernel_here(tmp_path, federate=federate) as kernel, AsyncClient(kernel.addresses[0]) as client:
        with pytest.raises(InvalidFieldError, match="not finite"):
            await client.create_federation(plan(), weights=np.full(SIZE, np.nan, "<f4").tobytes())
        with pytest.raises(LimitExceededError, match=r"11 of federate\.weights"):
            await client.create_federation(plan(size=11))
        made = await client.create_federation(plan())
        await client.join_federation(made.federation_id)
        with pytest.raises(LimitExceededError, match=r"federate\.clients"):
            await client.join_federation(made.federation_id)
        refused = []
        for _ in range(3):
            try:
                await client.create_federation(plan())
            except LimitExceededError as error:
                refused.append(error.metadata["bound"])
        assert refused[-1] == "federate.kept"
