"""What a client is to do in a round, whether what it gives is right, and what is told to the process that sums."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inferd.core.federation import FederationCompression, RoundPhase
from inferd.errors import InvalidFieldError
from inferd.federation.field import SHARE_BYTES
from inferd.federation.masks import KEY_BYTES, is_public
from inferd.federation.parts import Parts
from inferd.federation.words import WORD
from inferd.runtime.front.federation_contents import BLOCK, MOST_EXAMPLES, check_content
from inferd.runtime.kept_federations import WEIGHTS, update_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from inferd.core.federation import Federation, FederationPlan

MOST_SEALED: Final = 1024  # bytes of what is sealed for one client
_PLACE: Final = 8  # bytes of a place and its number where only the longest are sent


@dataclass(frozen=True, slots=True)
class Keys:
    """That a client takes part; with its public keys where updates are masked."""

    sealing: bytes = b""
    masking: bytes = b""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a client's secrets, sealed, by who can open them."""

    sealed: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Update:
    """An update, the examples that it is of, and the loss that it came to."""

    content: bytes = field(repr=False)
    examples: int
    loss: float


@dataclass(frozen=True, slots=True)
class Openings:
    """Shares that unmask the sum: of own masks of who stayed, and of keys of who went."""

    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Complaint:
    """In the place of an update: whose sealed shares a client cannot open. Held for as long as the attempt lasts."""

    clients: frozenset[int]


Part = Keys | Shares | Update | Openings | Complaint
PHASES: Final[Mapping[type, RoundPhase]] = {
    Keys: RoundPhase.KEYS,
    Shares: RoundPhase.SHARES,
    Update: RoundPhase.UPDATES,
    Openings: RoundPhase.OPENINGS,
    Complaint: RoundPhase.UPDATES,
}
"""In which phase what is given."""


def check_part(federation: Federation, client: int, part: Part, answered: Mapping[int, Part]) -> None:
    """Refuse a part that is not what the round needs of this client; others have answered so in this phase.

    Raises:
        InvalidFieldError: It is not.
    """
    match part:
        case Keys():
            _check_keys(part, answered.values(), KEY_BYTES if federation.plan.secure else 0)
        case Shares():
            _check_clients({*part.sealed}, {*federation.roster} - {client}, "shares.sealed")
            if (most := max(map(len, part.sealed.values()))) > MOST_SEALED:
                raise InvalidFieldError(
                    f"sealed shares have {most} bytes; at most {MOST_SEALED}", field="shares.sealed"
                )
        case Update():
            _check_update(federation, part)
        case Complaint():
            others = {*federation.sharers} - {client}
            if not federation.plan.secure or not part.clients or not part.clients <= others:
                raise InvalidFieldError(
                    f"complaint.clients is {sorted(part.clients)[:20]}; it must name some of {sorted(others)[:20]}, who"
                    " have shared secrets with this client",
                    field="complaint.clients",
                )
        case Openings():
            survivors = {*federation.survivors}
            _check_clients({*part.seeds}, survivors, "openings.seeds")
            _check_clients({*part.keys}, {*federation.sharers} - survivors, "openings.keys")
            for each in (*part.seeds.values(), *part.keys.values()):
                if len(each) != SHARE_BYTES:
                    message = f"a share has {len(each)} bytes; it must have {SHARE_BYTES}"
                    raise InvalidFieldError(message, field="openings")


def _check_keys(keys: Keys, others: Iterable[Part], wanted: int) -> None:
    sizes = {len(keys.sealing), len(keys.masking)}
    if sizes != {wanted}:
        raise InvalidFieldError(f"keys have {sizes} bytes; both must have {wanted}", field="keys")
    given = {key for each in others if isinstance(each, Keys) for key in (each.sealing, each.masking)}
    for name, key in (("sealing", keys.sealing), ("masking", keys.masking)) if wanted else ():
        if not is_public(key):
            raise InvalidFieldError(f"{name} is no public key: it gives the same to everybody", field=f"keys.{name}")
        if key in given:
            raise InvalidFieldError(f"another client has given the same {name}; draw new keys", field=f"keys.{name}")


def _check_clients(given: set[int], wanted: set[int], field: str) -> None:
    if given != wanted:
        raise InvalidFieldError(
            f"{field} is of clients {sorted(given)[:20]}; it must be of {sorted(wanted)[:20]}", field=field
        )


def _check_update(federation: Federation, update: Update) -> None:
    size, plan = len(update.content), federation.plan
    wanted = (federation.numbers + 1) * WORD
    if federation.round and plan.compression is FederationCompression.BYTES:
        wanted = plan.size + 4 * -(-plan.size // BLOCK)
    elif federation.round and plan.compression is FederationCompression.LONGEST:
        wanted = max(_PLACE, min(size, plan.size * _PLACE) // _PLACE * _PLACE)
    if size != wanted:
        raise InvalidFieldError(f"the update has {size} bytes; it must have {wanted}", field="update.content")
    least, most = (0, 0) if plan.secure else (1, 1 if plan.privacy else MOST_EXAMPLES)
    if not least <= update.examples <= most:
        message = f"the update is of {update.examples} examples; it must be of {least} to {most}"
        raise InvalidFieldError(message, field="update.examples")
    check_content(federation, update.content, update.examples)


def write_part(part: Part) -> bytes:
    """A part as it is kept; of an update what is told of it."""
    match part:
        case Keys():
            said: dict[str, Any] = {"sealing": part.sealing.hex(), "masking": part.masking.hex()}
        case Shares():
            said = {"sealed": _hex(part.sealed)}
        case Update():
            said = {"examples": part.examples, "loss": part.loss}
        case Complaint():
            said = {"clients": sorted(part.clients)}  # which is held in memory alone
        case Openings():
            said = {"seeds": _hex(part.seeds), "keys": _hex(part.keys)}
    return json.dumps(said, separators=(",", ":")).encode()


def read_part(phase: RoundPhase, written: bytes) -> Part:
    """What was written; of an update without its content."""
    said = json.loads(written)
    match phase:
        case RoundPhase.KEYS:
            return Keys(bytes.fromhex(said["sealing"]), bytes.fromhex(said["masking"]))
        case RoundPhase.SHARES:
            return Shares(_unhex(said["sealed"]))
        case RoundPhase.UPDATES:
            return Update(b"", said["examples"], said["loss"])
        case _:
            return Openings(_unhex(said["seeds"]), _unhex(said["keys"]))


def _hex(shares: Mapping[int, bytes]) -> dict[str, str]:
    return {str(client): share.hex() for client, share in shares.items()}


def _unhex(said: Mapping[str, str]) -> dict[int, bytes]:
    return {int(client): bytes.fromhex(share) for client, share in said.items()}


def summing_order(
    federation: Federation, answers: Mapping[RoundPhase, Mapping[int, Part]], parts: Mapping[str, bytes]
) -> Parts:
    """What the process is told that sums: see `inferd_federation.sums.compute`.

    Args:
        federation: In its phase SUMMING.
        answers: Of this attempt, by phase and client.
        parts: What lasts, and the updates, by name.
    """
    plan, survivors = federation.plan, federation.survivors
    told: dict[str, Any] = {
        "clients": survivors,
        "statistics": federation.round == 0,
        "size": federation.numbers,
        "secure": _secure(federation, answers) if plan.secure else None,
        "examples": {str(client): _examples(answers, client) for client in survivors},
        **_plan(plan),
    }
    named = {f"update.{client}": parts[update_name(federation, client)] for client in survivors}
    lasting = {name: parts[name] for name in (WEIGHTS, "first", "second") if name in parts}
    return Parts(told, {**lasting, **named})


def _plan(plan: FederationPlan) -> dict[str, Any]:
    return {
        "aggregation": plan.aggregation.name.lower(),
        "learning_rate": plan.learning_rate,
        "trim": plan.trim,
        "false": plan.false_clients,
        "keep": plan.keep,
        "compression": plan.compression.name.lower(),
    }


def _examples(answers: Mapping[RoundPhase, Mapping[int, Part]], client: int) -> int:
    update = answers[RoundPhase.UPDATES][client]
    return update.examples if isinstance(update, Update) else 0


def _secure(federation: Federation, answers: Mapping[RoundPhase, Mapping[int, Part]]) -> dict[str, Any]:
    keys = answers[RoundPhase.KEYS]
    opened = answers[RoundPhase.OPENINGS].items()
    return {
        "context": federation.context.hex(),
        "threshold": federation.threshold,
        "sharers": federation.sharers,
        "roster": {
            str(client): (each.sealing.hex(), each.masking.hex())
            for client in federation.roster
            if isinstance(each := keys[client], Keys)
        },
        "openings": {
            str(client): {"seeds": _hex(each.seeds), "keys": _hex(each.keys)}
            for client, each in opened
            if isinstance(each, Openings)
        },
    }
