"""`python tests/chaos/indexes.py --kills 20`: the kernel of an index is killed so often; one JSON line tells of it.

Calls add ten documents each, with a mark that is their own; the kernel is killed with SIGKILL at random moments, and
the next one is asked: of each call all ten documents are there, or none, and all of a call that was answered. Each
chunk that is found is its document's text.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import Client
from inferd_client.errors import InferdError
from inferd_client.indexes import document

TRIES = 3  # of starting a kernel
TOGETHER = 10  # documents of a call
LONGEST_S = 2.0  # until a kernel is killed
WORDS = ["oak", "river", "stone", "cloud", "acorn", "whale", "lantern", "harbour", "winter", "glass"]


@dataclass(slots=True)
class Tally:
    """What came of it."""

    kills: int = 0
    answered: int = 0
    whole: int = 0
    absent: int = 0
    segments: int = 0
    took_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def kernel(folder: Path) -> Iterator[tuple[KernelProcess, Client]]:
    """A kernel with the store in the folder and the functions of indexes."""
    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/store",
        "INFERD_BACKENDS": "[]",
        "INFERD_FUNCTIONS__PACKAGES": "[]",
        "INFERD_FUNCTIONS__MODULES": '["inferd_retrieval.plugin"]',
        "INFERD_INDEXES__SEGMENTS": "4",
        "INFERD_DRAIN_S": "0",
    }
    with ExitStack() as stack:
        for left in reversed(range(TRIES)):
            try:
                process = stack.enter_context(kernel_process(folder, environment=environment))
                break
            except RuntimeError:  # it took too long to start, on a host that has much else to do
                if not left:
                    raise
        yield process, stack.enter_context(Client(process.address))


def text_of(call: int, number: int) -> str:
    """What a document says: the mark of its call, and some words."""
    chance = random.Random(call * TOGETHER + number)
    return f"mark{call} says " + " ".join(chance.choices(WORDS, k=40)) + "."


def add(client: Client, call: int) -> None:
    client.add_documents("chaos", [document(f"{call}-{number}", text_of(call, number)) for number in range(TOGETHER)])


def found(client: Client, call: int) -> int:
    """How many documents of a call are there; each chunk is its document's text."""
    chunks = client.search_index("chaos", f"mark{call}", count=2 * TOGETHER)
    for each in chunks:
        said = text_of(*map(int, each.document_id.split("-")))
        if said[each.start : each.end] != each.text:
            raise AssertionError(f"document {each.document_id} is found with another text")
    return len({each.document_id for each in chunks})


def round_of(folder: Path, first: int, delay_s: float, tally: Tally) -> int:
    """Add until the kernel is killed; the number behind the last call."""
    call = first
    with kernel(folder) as (process, client), suppress(InferdError):
        client.create_index("chaos")
        check(client, first, tally)
        call += 1
        add(client, call - 1)  # the functions' worker is there now
        tally.answered += 1
        answered.add(call - 1)
        killer = threading.Timer(delay_s, process.process.send_signal, (signal.SIGKILL,))
        killer.start()
        try:
            while True:
                call += 1
                add(client, call - 1)
                tally.answered += 1
                answered.add(call - 1)
        finally:
            killer.join()
            tally.kills += 1
    return call


answered: set[int] = set()  # calls that were answered


def check(client: Client, calls: int, tally: Tally) -> None:
    """Of each call all documents are there, or none."""
    tally.whole = tally.absent = 0
    for call in range(calls):
        have = found(client, call)
        tally.whole += have == TOGETHER
        tally.absent += have == 0
        if have not in (0, TOGETHER) or (have == 0 and call in answered):
            tally.wrong.append(
                f"call {call} has {have} documents, and was {'' if call in answered else 'not '}answered"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance, tally, calls, began = random.Random(asked.seed), Tally(), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(asked.kills):
            calls = round_of(folder, calls, chance.uniform(0.0, LONGEST_S), tally)
        with kernel(folder) as (_, client):
            check(client, calls, tally)
            index = client.get_index("chaos")
            tally.segments = index.segments
            if index.documents != tally.whole * TOGETHER:
                tally.wrong.append(f"the index says {index.documents} documents and has {tally.whole * TOGETHER}")
    tally.took_s = time.monotonic() - began
    print(json.dumps(asdict(tally)))  # noqa: T201 - what it is run for
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
