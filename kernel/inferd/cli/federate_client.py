"""A client of a federation: it asks a coordinator what to do, has its own kernel train, and answers.

Rows stay with its own kernel. What leaves is: public keys, sealed shares, updates (masked, clipped, noised or
compressed as the plan says), how many rows there are where updates are not masked, and the loss.
"""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from secrets import randbits, token_bytes
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.errors import words_of
from inferd.federation.secure import Keys, Member, UnopenedError, check_apart
from inferd_api.v1 import federation_pb2 as fp
from inferd_api.v1 import federation_service_pb2 as fs
from inferd_client.errors import (
    InferdError,
    KernelUnreachableError,
    ShuttingDownError,
    StoreUnavailableError,
    TaskExpiredError,
)
from inferd_client.federation_errors import FederationRoundOverError
from inferd_federation.compress import Feedback
from inferd_federation.fixed import to_words
from inferd_federation.heads import Recipe
from inferd_federation.private import noised

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from inferd_client import AsyncClient
    from inferd_client.federations import RoundPart

WAIT_S: Final = 30.0  # for something to do
PAUSE_S: Final = 1.0  # until a coordinator that does not answer is asked again
AWAY = (KernelUnreachableError, ShuttingDownError, StoreUnavailableError, TaskExpiredError)
"""What a coordinator that comes again may answer."""
HEADS: Final = "heads"


def read_recipe(plan: fp.FederationPlan) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a plan, and the same as JSON has it.

    Raises:
        ValueError: It is none that this client can do, or its sizes are not those of the plan.
    """
    said = json.loads(plan.recipe_json)
    if not isinstance(said, dict) or set(said) != {HEADS}:
        raise ValueError("the plan's recipe is none of heads, which is all that this client trains")
    recipe = Recipe.read(said[HEADS])
    if plan.size != recipe.size or plan.counts not in {0, recipe.buckets + 1}:
        raise ValueError(
            f"the plan has {plan.size} weights and {plan.counts} counts; its recipe has {recipe.size} and, or none,"
            f" {recipe.buckets + 1}"
        )
    return recipe, said[HEADS]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON Lines.

    Raises:
        OSError, ValueError: It cannot be read, or has no rows.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} has {len(rows)} rows; it must have some, each a JSON object")
    return rows


@dataclass(slots=True)
class Trainer:
    """Has an own kernel train on own rows, by the functions of `inferd_federation`. One writer: its client.

    Args:
        kernel: The own kernel.
        rows: That it trains on.
        recipe: How, as JSON has it.
    """

    kernel: AsyncClient
    rows: Sequence[Mapping[str, Any]]
    recipe: Mapping[str, Any]
    answered: bool = field(init=False, default=False)
    """Whether the kernel has done what it was asked for, some time."""

    async def counts(self) -> bytes:
        """In how many rows the words of each bucket are, and how many rows there are."""
        _, content = await self._call("federation_counts", {})
        return content

    async def train(self, wanted: fs.UpdateWanted, *, proximal: float, turn: int) -> tuple[NDArray[np.float64], float]:
        """What training changes of weights, and the loss that it comes to."""
        told, content = await self._call(
            "federation_train",
            {
                "weights": b64encode(wanted.weights).decode(),
                "counts": b64encode(wanted.counts).decode(),
                "proximal": proximal,
                "turn": turn,
            },
        )
        before, after = (np.frombuffer(each, "<f4").astype(np.float64) for each in (wanted.weights, content))
        return after - before, float(told["loss"])

    async def _call(self, function: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        whole = {"rows": list(self.rows), "recipe": dict(self.recipe), **given}
        pieces = [piece async for piece in self.kernel.call_stream(function, whole)]
        self.answered = True
        return pieces[0], b"".join(b64decode(piece["part"]) for piece in pieces[1:])


@dataclass(slots=True)
class Participant:
    """A client of one federation. One writer: who runs it.

    Args:
        coordinator: Whom it asks.
        kernel: The own kernel.
        rows: That it has.
        federation_id: Of the federation.
        name: What people call it.
        identity: A file that has who it is in the federation, for the process that follows; None for a new client
            each time.
        record: A folder that gets each update as it is before it is masked, for its owner; None for none.
        tell: Is told each thing that it does.
    """

    coordinator: AsyncClient
    kernel: AsyncClient
    rows: Sequence[Mapping[str, Any]]
    federation_id: str
    name: str = ""
    identity: Path | None = None
    record: Path | None = None
    tell: Callable[[str], None] = lambda _: None
    _plan: fp.FederationPlan = field(init=False, default_factory=fp.FederationPlan)
    _who: fs.FederationClient = field(init=False, default_factory=fs.FederationClient)
    _trainer: Trainer = field(init=False)
    _feedback: Feedback | None = field(init=False, default=None)
    _members: dict[bytes, Member] = field(init=False, default_factory=dict)
    _opened: dict[int, set[frozenset[int]]] = field(init=False, default_factory=dict)  # of the last round: whose sums

    async def run(self) -> fp.Federation:
        """Take part until the federation has ended; how it ended, as far as this client may see it.

        Raises:
            ValueError: Its plan is none that this client can do.
            InferdError: The coordinator, or the own kernel, refuses.
        """
        self._begin(await self._joined())
        seen = None
        while True:
            wanted = await self._patiently(partial(self.coordinator.poll_round, self._who, seen=seen, wait_s=WAIT_S))
            if wanted.state != fp.FEDERATION_STATE_RUNNING:
                return fp.Federation(federation_id=self.federation_id, state=wanted.state)
            if wanted.HasField("place"):
                seen = wanted.place
                await self._answer(wanted)

    async def _joined(self) -> fs.JoinFederationResponse:
        """Who it is: as it was before, or a new client."""
        path = self.identity
        if path is not None and path.exists():
            federation_id, _, known = (await asyncio.to_thread(path.read_bytes)).partition(b"\n")
            if federation_id.decode(errors="replace") != self.federation_id:
                raise ValueError(f"{path} is of another federation; name another file")
            return fs.JoinFederationResponse.FromString(known)
        made = await self._patiently(lambda: self.coordinator.join_federation(self.federation_id, name=self.name))
        joined = fs.JoinFederationResponse.FromString(made.SerializeToString())
        if path is not None:
            content = self.federation_id.encode() + b"\n" + joined.SerializeToString()
            await asyncio.to_thread(_write_secret, path, content)
        return joined

    def _begin(self, joined: fs.JoinFederationResponse) -> None:
        self._plan = plan = joined.plan
        _, recipe = read_recipe(plan)
        self._trainer = Trainer(self.kernel, self.rows, recipe)
        self._who = fs.FederationClient(federation_id=self.federation_id, client=joined.client, token=joined.token)
        if plan.compression != fp.FEDERATION_COMPRESSION_NONE:
            share = plan.share if plan.compression == fp.FEDERATION_COMPRESSION_LONGEST else None
            self._feedback = Feedback(plan.size, share)
        self.tell(f"joined as client {joined.client}")

    async def _answer(self, wanted: fs.PollRoundResponse) -> None:
        """Do what is wanted; what cannot be done is left, and counts as gone in this round.

        Raises:
            InferdError: The own kernel has never trained, or the coordinator refused before it did.
        """
        place = wanted.place
        phase = fp.RoundPhase.Name(place.phase).removeprefix("ROUND_PHASE_").lower()
        try:
            part = await self._part(wanted)
            await self._patiently(lambda: self.coordinator.submit_round_part(self._who, place, part))
        except FederationRoundOverError:
            self.tell(f"round {place.round}, attempt {place.attempt}: {phase} came too late")
        except (OSError, ValueError, KeyError, InferdError) as error:  # what others gave may have done it
            if not self._trainer.answered and isinstance(error, InferdError):
                raise
            self.tell(f"round {place.round}, attempt {place.attempt}: no {phase}: {words_of(error)}")
            if isinstance(error, UnopenedError):
                await self._complain(place, error.clients)
        else:
            self.tell(f"round {place.round}, attempt {place.attempt}: gave {phase}")

    async def _complain(self, place: fs.RoundPlace, clients: Sequence[int]) -> None:
        """Tell whose shares cannot be opened; a coordinator that knows no complaints refuses, and waits."""
        part = fs.RoundComplaint(clients=clients)
        with suppress(InferdError):
            await self._patiently(lambda: self.coordinator.submit_round_part(self._who, place, part))

    async def _part(self, wanted: fs.PollRoundResponse) -> RoundPart:
        context, kind = wanted.context, wanted.WhichOneof("wanted")
        if kind == "keys":
            self._members = {context: Member(self._who.client, context, token_bytes)}  # others are over
            keys = self._members[context].keys
            if not self._plan.secure:
                return fs.ClientKeys()
            return fs.ClientKeys(sealing=keys.sealing, masking=keys.masking)
        if kind == "update":
            return await self._update(wanted)
        member = self._members[context]  # those of a process that was are lost
        if kind == "shares":
            roster = {number: Keys(each.sealing, each.masking) for number, each in wanted.shares.roster.items()}
            return fs.SealedShares(sealed=member.share(roster, wanted.shares.threshold))
        survivors = frozenset(wanted.openings.survivors)
        before = self._opened.get(wanted.place.round, set())
        check_apart(before, survivors)
        opened = member.open(survivors)
        self._opened = {wanted.place.round: {*before, survivors}}
        return fs.RoundOpenings(seeds=opened.seeds, keys=opened.keys)

    async def _update(self, wanted: fs.PollRoundResponse) -> fs.RoundUpdate:
        plan, turn, loss = self._plan, wanted.place.round, 0.0
        member = self._members[wanted.context] if plan.secure else None
        examples = 1 if plan.HasField("privacy") else len(self.rows)
        if turn == 0:
            content = await self._trainer.counts()
        else:
            change, loss = await self._trainer.train(wanted.update, proximal=plan.proximal, turn=turn)
            if plan.HasField("privacy"):
                change = noised(
                    change,
                    clip=plan.privacy.clip,
                    multiplier=plan.privacy.noise,
                    least=plan.least_clients,
                    generator=np.random.default_rng(randbits(128)),
                )
            content = to_words(change, examples) if self._feedback is None else self._feedback.compress(change, turn)
        if self.record is not None:
            name = f"{self._who.client}.{turn}.{wanted.place.attempt}.update"
            await asyncio.to_thread((self.record / name).write_bytes, content)
        if member is None:
            return fs.RoundUpdate(content=content, examples=examples, loss=loss)
        return fs.RoundUpdate(content=member.mask(content, dict(wanted.update.sealed)), loss=loss)

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask a coordinator until it answers; one that is away comes again, and that it is away is told once."""
        away = ""
        while True:
            try:
                return await ask()
            except AWAY as error:
                if error.reason != away:
                    away = error.reason
                    self.tell(f"the coordinator at {self.coordinator.address} does not answer ({away}); asking again")
                await asyncio.sleep(PAUSE_S)


def _write_secret(path: Path, content: bytes) -> None:
    """A file that only its owner may read, whole or not at all."""
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    written.replace(path)


async def judged(
    kernel: AsyncClient, federation: fp.Federation, weights: fs.GetFederationWeightsResponse, rows: Sequence[Any]
) -> dict[str, float]:
    """How good the weights of a federation are on own rows, by the own kernel.

    Raises:
        ValueError: Its plan is none that this client can do.
        InferdError: The kernel refuses.
    """
    _, recipe = read_recipe(federation.plan)
    given = {
        "weights": b64encode(weights.weights).decode(),
        "counts": b64encode(weights.counts).decode(),
        "rows": list(rows),
        "recipe": recipe,
    }
    found: dict[str, float] = await kernel.call("federation_judge", given)
    return found
