"""What a coordinator computes of a round, in a process of its own: bytes from standard input to standard output.

Both are a line of JSON and what it names, one after the other. Nothing else is read or written, and nothing is kept.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.federation.parts import Parts
from inferd.federation.secure import Keys, Openings, RefusedError, TooFewClientsError, unmask
from inferd.federation.words import WORD, total
from inferd_federation.aggregate import Moments, fed_adam, krum, trimmed_mean
from inferd_federation.compress import of_bytes, of_longest
from inferd_federation.fixed import FRACTION_BITS, LIMIT, MOST_EXAMPLES, of_words, to_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PLAIN, BYTES, LONGEST = "none", "bytes", "longest"
MEAN, ADAM, TRIMMED, KRUM = "fed_avg", "fed_adam", "trimmed_mean", "krum"
_EMPTY: Final = b""


def compute(parts: Parts) -> Parts:
    """What becomes of a round.

    `told` has "clients" (their numbers), "statistics" (whether counts are summed), and what the plan says: "size",
    "aggregation", "learning_rate", "trim", "false", "keep", "compression", "examples" by client; where updates are
    masked "secure" with what opens them. `named` has "weights" (float32), "first" and "second" (float64, of FedAdam),
    and "update.N" of each client.

    Returns:
        In `told` "digest" (SHA-256 of the sum), "examples", "length" (of the mean change) and "chosen"; in `named`
        "weights", and "first" and "second", or "counts".

    Raises:
        ValueError: An update is wrong; the message names its client.
    """
    plan = parts.told
    updates = {client: parts.named[f"update.{client}"] for client in plan["clients"]}
    if plan["statistics"] or plan["secure"] or plan["aggregation"] in (MEAN, ADAM):
        words = _sum(plan, updates)
        digest = sha256(words).hexdigest()
        if plan["statistics"]:
            _check_counts(words, len(updates))
            return Parts({"digest": digest, "clients": len(updates)}, {"counts": words})
        change, examples = of_words(words)
        chosen = sorted(updates)
    else:
        opened = {client: _floats(plan, client, each) for client, each in updates.items()}
        numbers, rows = [*opened], [*opened.values()]
        if plan["aggregation"] == KRUM:
            change, places = krum(rows, false=plan["false"], keep=plan["keep"])
            chosen = [numbers[place] for place in places]
        else:
            change, chosen = trimmed_mean(rows, plan["trim"]), numbers
        examples = sum(int(plan["examples"][str(client)]) for client in chosen)
        digest = ""
    return _step(parts, change, {"digest": digest, "examples": examples, "chosen": chosen})


def _sum(plan: Mapping[str, Any], updates: Mapping[int, bytes]) -> bytes:
    size = plan["size"] + 1
    if plan["secure"]:
        for client, each in updates.items():
            _check(client, len(each), size * WORD)
        return _unmasked(plan["secure"], updates)
    if plan["statistics"]:
        for client, each in updates.items():
            _check(client, len(each), size * WORD)
        return total(updates.values(), size)
    plain = plan["compression"] == PLAIN
    return total(
        (
            _honest(client, each, size, int(plan["examples"][str(client)]))
            if plain
            else to_words(_floats(plan, client, each), int(plan["examples"][str(client)]))
            for client, each in updates.items()
        ),
        size,
    )


def _honest(client: int, update: bytes, size: int, examples: int) -> bytes:
    """An update that is of as many examples as was told, and none of whose numbers is longer than they may be."""
    _check(client, len(update), size * WORD)
    words = np.frombuffer(update, "<i8")
    most = int(LIMIT) * examples << FRACTION_BITS
    if words[-1] != examples or words[:-1].max() > most or words[:-1].min() < -most:
        raise ValueError(
            f"the update of client {client} is of {words[-1]} examples and has numbers from {words[:-1].min()} to"
            f" {words[:-1].max()}; it was told to be of {examples}, whose numbers are at most {most} long"
        )
    return update


def _check(client: int, size: int, wanted: int) -> None:
    if size != wanted:
        raise ValueError(f"the update of client {client} has {size} bytes; it must have {wanted}")


def _floats(plan: Mapping[str, Any], client: int, update: bytes) -> Floats:
    size = plan["size"]
    try:
        if plan["compression"] == BYTES:
            found = of_bytes(update, size)
        elif plan["compression"] == LONGEST:
            found = of_longest(update, size)
        else:
            found = of_words(_honest(client, update, size + 1, int(plan["examples"][str(client)])))[0]
    except ValueError as error:
        raise ValueError(f"client {client}: {error}") from None
    if not np.isfinite(found).all():
        raise ValueError(f"the update of client {client} has numbers that are not finite")
    return np.clip(found, -LIMIT, LIMIT)


def _check_counts(words: bytes, clients: int) -> None:
    """Counts that so many clients can have had: none is negative, or more than there are rows."""
    *counts, rows = np.frombuffer(words, "<i8").tolist()
    most = MOST_EXAMPLES * clients
    if not 1 <= rows <= most or min(counts) < 0 or max(counts) > rows:
        raise ValueError(
            f"the sum of counts is from {min(counts)} to {max(counts)}, of {rows} rows; {clients} clients have at most"
            f" {most}, and no more of any count: one of them has given others"
        )


def _unmasked(secure: Mapping[str, Any], updates: Mapping[int, bytes]) -> bytes:
    def shares(said: Mapping[str, str]) -> dict[int, bytes]:
        return {int(client): bytes.fromhex(share) for client, share in said.items()}

    return unmask(
        context=bytes.fromhex(secure["context"]),
        roster={int(client): Keys(*map(bytes.fromhex, keys)) for client, keys in secure["roster"].items()},
        threshold=secure["threshold"],
        sharers=secure["sharers"],
        masked=updates,
        openings={
            int(client): Openings(shares(said["seeds"]), shares(said["keys"]))
            for client, said in secure["openings"].items()
        },
    )


def _step(parts: Parts, change: Floats, told: dict[str, Any]) -> Parts:
    plan = parts.told
    weights = np.frombuffer(parts.named["weights"], "<f4").astype(np.float64)
    if len(change) != len(weights):
        raise ValueError(f"updates have {len(change)} numbers, and the weights {len(weights)}")
    named = {}
    step = change * plan["learning_rate"]
    if plan["aggregation"] == ADAM:
        before = Moments(*(_moments(parts.named.get(name, _EMPTY), len(change)) for name in ("first", "second")))
        step, moments = fed_adam(change, before, plan["learning_rate"])
        named = {"first": moments.first.tobytes(), "second": moments.second.tobytes()}
    named["weights"] = (weights + step).astype("<f4").tobytes()
    return Parts({**told, "length": float(np.linalg.norm(change))}, named)


def _moments(written: bytes, size: int) -> Floats:
    return np.frombuffer(written, "<f8") if written else np.zeros(size)


def main() -> int:
    """Compute what standard input says; 1 where it is wrong, with why in place of what was computed."""
    try:
        made = compute(Parts.read(sys.stdin.buffer.read()))
    except TooFewClientsError as error:
        made = Parts({"too_few": str(error)})
    except (RefusedError, ValueError, KeyError, IndexError) as error:
        made = Parts({"wrong": f"{error}"[:1000]})
    sys.stdout.buffer.write(made.write())
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
